"""Check of encoders."""

import copy
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.assembly.system import encode_nothing
from zoo.assembly.token_counts import nominal_input
from zoo.errors import first_line
from zoo.registry import label_of
from zoo.testing.rules.comparison import refuse, require, require_close
from zoo.testing.rules.parts import check_gradients, check_keywords, check_state
from zoo.types import Encoded, Encoder, check_encoded, check_encoder_words, encode

BATCH = 3  # rows of an input that is made here


def check_encoder(encoder: Any, x: Tensor | None = None, mask: Tensor | None = None, *, without_gradient: Collection[str] = ()) -> None:
    """Check every rule of ``zoo.types.Encoder``; the encoder is left in the mode and with the weights that it came with.

    Args:
        encoder: a small one, with random weights.
        x: at least two items of the modality's tensor; None makes three of the nominal size, of which all but the first are padded if
            the modality has masks.
        mask: True at real positions of ``x``.
        without_gradient: beginnings of the names of parameters that get no gradient on purpose.

    Raises:
        ContractError: a rule is broken.
    """
    check_encoder_words(encoder, label_of(encoder))
    check_keywords(type(encoder))
    if x is None:
        x, mask = example_input(encoder)
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        encoded = encode(encoder, x, mask)
        check_encoded(encoded, encoder, x, label_of(encoder))
        check_encoded(encode(encoder, x, mask, reads="patches"), encoder, x, label_of(encoder), reads="patches")
        _check_pooled_alone(encoder, x, mask, encoded)
        _check_rows_alone(encoder, x, mask, encoded)
        _check_padding(encoder, x, mask, encoded)
        _check_counts(encoder, x, mask, encoded)
        _check_features(encoder, x, mask, encoded)
        _check_state(encoder, x, mask, encoded)
        _check_meta(encoder, x, mask, encoded)
        if encoder.takes_patches:
            _check_patch_lists(encoder)
    _check_gradients(encoder, x, mask, without_gradient)
    _check_empty(encoder, x, mask, encoded)
    encoder.train(was_training)


def example_input(encoder: Encoder, rows: int = BATCH) -> tuple[Tensor, Tensor | None]:
    """Return random input of the nominal size; rows after the first are padded by one third and two thirds, if there is a mask."""
    shape, mask = nominal_input(encoder.modality, encoder, rows)
    generator = torch.Generator().manual_seed(0)
    if shape.is_floating_point():
        x = torch.randn(shape.shape, generator=generator)
    else:
        x = torch.randint(5, encoder.vocab_size or 100, shape.shape, generator=generator)
    if mask is None:
        return x, None
    length = mask.shape[1]
    lengths = torch.tensor([max(2, length - row * length // rows) for row in range(rows)])
    return _ended(encoder, x, lengths), torch.arange(length) < lengths[:, None]


def _ended(encoder: Encoder, x: Tensor, lengths: Tensor) -> Tensor:
    """Return token ids with the end symbol as the last real one and zeros behind it; other tensors with zeros behind the clip."""
    x = x.masked_fill(torch.arange(x.shape[-1]) >= lengths.view(-1, *[1] * (x.ndim - 1)), 0)
    for symbol in (encoder.eot_token_id, encoder.separator_id):
        if symbol is not None and not x.is_floating_point():
            x[x == symbol] = symbol + 1 if symbol + 1 < (encoder.vocab_size or symbol + 2) else symbol - 1
            x[torch.arange(len(x)), lengths - 1] = symbol
    return x


def _row(mask: Tensor | None, rows: slice) -> Tensor | None:
    return None if mask is None else mask[rows]


def _same(found: Encoded, expected: Encoded, encoder: Encoder, rule: str, remedy: str) -> None:
    """Compare real tokens and pooled vectors; the first may have fewer tokens of padding."""
    length = min(found.mask.shape[1], expected.mask.shape[1])
    ours, theirs = found.mask[:, :length], expected.mask[:, :length]
    same = bool((ours == theirs).all()) and int(found.mask.sum()) == int(expected.mask.sum())
    require(same, encoder, rule, f"real tokens are {found.mask.sum(1).tolist()} and {expected.mask.sum(1).tolist()}", "equal masks", remedy)
    require_close(found.tokens[:, :length][ours], expected.tokens[:, :length][theirs], encoder, rule, remedy)
    if found.pooled is not None and expected.pooled is not None:
        require_close(found.pooled, expected.pooled, encoder, f"{rule} (pooled)", remedy)


def _check_pooled_alone(encoder: Encoder, x: Tensor, mask: Tensor | None, encoded: Encoded) -> None:
    if encoder.gives_pooled:
        alone = encode(encoder, x, mask, reads="pooled")
        check_encoded(alone, encoder, x, label_of(encoder), reads="pooled")
        rule = 'reads="pooled" gives the pooled vectors of reads="tokens"'
        require_close(alone.pooled, encoded.pooled, encoder, rule, "compute them in one way")  # type: ignore[arg-type]


def _check_rows_alone(encoder: Encoder, x: Tensor, mask: Tensor | None, encoded: Encoded) -> None:
    rule, remedy = "an item alone gives what it gives in a batch", "let no operation mix rows (BatchNorm belongs into eval mode)"
    for row in range(len(x)):
        rows = slice(row, row + 1)
        pooled = None if encoded.pooled is None else encoded.pooled[rows]
        _same(encode(encoder, x[rows], _row(mask, rows)), Encoded(encoded.tokens[rows], pooled, encoded.mask[rows]), encoder, rule, remedy)


def _check_padding(encoder: Encoder, x: Tensor, mask: Tensor | None, encoded: Encoded) -> None:
    """Check that neither cutting off the padding of each row nor changing it has an effect."""
    if mask is None:
        return
    noise = torch.randn_like(x) if x.is_floating_point() else torch.ones_like(x)
    real = mask.view(len(mask), *[1] * (x.ndim - 2), mask.shape[1])
    rule, remedy = "padding changes nothing", "read the mask in attention, convolutions and pooling"
    _same(encode(encoder, torch.where(real, x, noise), mask), encoded, encoder, rule, remedy)
    for row, length in enumerate(mask.sum(1).tolist()):
        rows = slice(row, row + 1)
        pooled = None if encoded.pooled is None else encoded.pooled[rows]
        cut = encode(encoder, x[rows][..., :length], mask[rows, :length])
        _same(cut, Encoded(encoded.tokens[rows], pooled, encoded.mask[rows]), encoder, rule, remedy)


def _check_patch_lists(encoder: Encoder) -> None:
    """Check that pictures of different sizes give in one list of patches what each gives alone."""
    assert encoder.patch_size is not None  # ``check_encoder_words`` has refused others
    grids = torch.tensor([[1, 2], [2, 2], [3, 1]]) * encoder.grid_multiple
    counts = grids.prod(1).tolist()
    patches = torch.randn(sum(counts), 3 * encoder.patch_size**2, generator=torch.Generator().manual_seed(0))
    whole = encode(encoder, patches, grids=grids)
    check_encoded(whole, encoder, patches, label_of(encoder), items=len(grids))
    rule, remedy = "a picture alone gives what it gives in a list of patches", "let each picture attend to itself alone"
    for row, part in enumerate(patches.split(counts)):
        rows = slice(row, row + 1)
        pooled = None if whole.pooled is None else whole.pooled[rows]
        _same(encode(encoder, part, grids=grids[rows]), Encoded(whole.tokens[rows], pooled, whole.mask[rows]), encoder, rule, remedy)


def _check_counts(encoder: Encoder, x: Tensor, mask: Tensor | None, encoded: Encoded) -> None:
    """Hold ``num_tokens`` against the masks."""
    lengths = [x.shape[-1]] * len(x) if mask is None else mask.sum(1).tolist()
    counted, found = [encoder.num_tokens(length) for length in lengths], encoded.mask.sum(1).tolist()
    if any(number is not None for number in counted):
        remedy = "return in num_tokens what forward makes of so many frames"
        require(
            counted == found, encoder, "num_tokens(length) is the number of real tokens", f"{counted} for {lengths}", f"{found}", remedy
        )
    elif encoder.modality != "text":  # the tokens of a text are its token ids
        remedy = "return True everywhere in the mask, or define num_tokens(length)"
        require(len(set(found)) == 1, encoder, "num_tokens is None", f"items have {found} tokens", "the same for every item", remedy)


def _check_features(encoder: Encoder, x: Tensor, mask: Tensor | None, encoded: Encoded) -> None:
    if encoder.gives_pooled:
        finished = encoder.from_features(encoder.features(x, mask))
        check_encoded(finished, encoder, x, label_of(encoder))
        rule = "from_features(features(x)) gives the pooled vectors of forward"
        require_close(finished.pooled, encoded.pooled, encoder, rule, "define both methods, or neither")  # type: ignore[arg-type]


def _check_state(encoder: Encoder, x: Tensor, mask: Tensor | None, encoded: Encoded) -> None:
    other = check_state(encoder, "encoder", encoder.config)
    rule, remedy = "saved and loaded weights give the same output", "register every tensor that forward reads as parameter or buffer"
    _same(encode(other, x, mask), encoded, encoder, rule, remedy)


def _check_meta(encoder: Encoder, x: Tensor, mask: Tensor | None, encoded: Encoded) -> None:
    """Run without weights, as ``zoo check`` does."""
    rule = "forward runs without weights, on the meta device, for zoo check"
    try:
        found = encode(copy.deepcopy(encoder).to("meta"), x.to("meta"), None if mask is None else mask.to("meta"))
    except (RuntimeError, NotImplementedError) as error:
        refuse(encoder, rule, first_line(error), "shapes only", "register tensors as buffers; branch on values only if not x.is_meta")
    check_encoded(found, encoder, x, label_of(encoder))
    shapes = list(found.tokens.shape), list(encoded.tokens.shape)
    remedy = "let no shape depend on values"
    require(
        shapes[0] == shapes[1], encoder, "shapes on the meta device are those of a run", f"tokens are {shapes[0]}", f"{shapes[1]}", remedy
    )


def _total(encoded: Encoded) -> Tensor:
    weights = torch.linspace(0.5, 1.5, encoded.tokens.shape[2], device=encoded.tokens.device)  # a plain sum after a norm has no gradient
    return (encoded.tokens * weights).sum() + (0 if encoded.pooled is None else (encoded.pooled * weights).sum())


def _check_gradients(encoder: Encoder, x: Tensor, mask: Tensor | None, exempt: Collection[str]) -> None:
    trained = copy.deepcopy(encoder).train()
    check_gradients(trained, _total(encode(trained, x, mask)), exempt=exempt)


def _check_empty(encoder: Encoder, x: Tensor, mask: Tensor | None, encoded: Encoded, exempt: Collection[str] = ()) -> None:
    """Encode no items, as a rank does whose batch has none of this modality."""
    trained = copy.deepcopy(encoder).train()
    found = encode_nothing(trained, x[:0], _row(mask, slice(0, 0)), partial(encode, trained))
    check_encoded(found, encoder, x[:0], label_of(encoder))
    widths = found.tokens.shape[2], encoded.tokens.shape[2]
    require(widths[0] == widths[1], encoder, "an empty batch has the width of others", f"{widths[0]}", f"{widths[1]}", "keep the width")
