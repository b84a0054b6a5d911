"""Base class of encoders, which turn one modality into tokens, and the facts of an encoder that a head is built with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.types.batch import Encoded, EncodedTuple, UnpooledTuple
from zoo.types.host import send
from zoo.types.part import Part


class Encoder(Part, nn.Module):
    """Model that turns inputs of one modality into tokens.

    A subclass must set ``modality`` and ``dim`` and define ``forward``; every other word has a default. ``zoo.testing.check_encoder``
    checks all rules.

    Attributes:
        modality: "image", "audio" or "text"; the input is ``pixels`` [B, 3, H, W], ``mels`` [B, num_mels, frames] or ``token_ids`` [B, L].
        dim: width of the tokens.
        image_size: nominal height and width in pixels; must be set by an image encoder, because the image processor takes it.
        num_mels: mel bands of an audio encoder's input.
        gives_pooled: False if ``Encoded.pooled`` is always None.
        preprocessing: keywords of the modality's processor that the weights were trained with.
        context_length: longest text in tokens, or longest clip in encoder positions.
        vocab_size: rows of the word table of a text encoder.
        word_dim: width of that table, the module ``embedding``, if a head may share it (``word_logits``).
        eot_token_id: token id at which a text encoder pools; None if it pools otherwise.
        separator_id: token id that ends a segment of a text encoder.
        num_prefix_tokens: tokens before those of patches (class token, registers).
        has_class_token: True if the first token is a class token.
        takes_query_masks: True if ``mask`` may also be [B, L, L], True where a query (row) may attend to a key (column); its diagonal is
            True at real tokens.
        takes_turns: True if ``mask`` may also be the turn of each token in an order of prediction, int64 [B, L] (``zoo.layers.turns``).
        after_features: names of the submodules that ``from_features`` runs, which may be trained while the rest is frozen.
        pooler: module that makes the pooled vector, if the encoder has one that nothing else needs.
        takes_patches: True if ``encode_patches`` takes pictures of different sizes as one list of patches.
        patch_size: side of these patches, in pixels.
        grid_multiple: number that has to divide the rows and columns of each picture's patches (Qwen2-VL: 2).
        frames: consecutive frames of a video that one patch projects (Qwen2-VL: 2); the patches of a still hold it once.
        adds_losses: True if ``auxiliary_losses`` may return losses, for example those of a mixture of experts.
    """

    modality: str = ""  # an empty word or a width of 0 means that the author forgot it: ``zoo.types.contract`` says so
    dim: int = 0
    image_size: int | None = None
    num_mels: int | None = None
    gives_pooled: bool = True
    preprocessing: Mapping[str, Any] = {}
    context_length: int | None = None
    vocab_size: int | None = None
    word_dim: int | None = None
    eot_token_id: int | None = None
    separator_id: int | None = None
    num_prefix_tokens: int = 0
    has_class_token: bool = False
    takes_query_masks: bool = False
    takes_turns: bool = False
    after_features: ClassVar[Sequence[str]] = ()
    pooler: nn.Module | None
    takes_patches: bool = False
    patch_size: int | None = None
    grid_multiple: int = 1
    frames: int = 1
    adds_losses: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.pooler = None  # set here, because a class attribute would hide a submodule of this name

    def forward(self, x: Tensor, mask: Tensor | None = None, *, reads: str = "tokens") -> Encoded:
        """Encode a batch.

        Args:
            x: the modality's tensor.
            mask: True at real positions; None if there is no padding.
            reads: "tokens", or "pooled" if only the pooled vectors are used; the encoder may then return them as its only tokens
                [B, 1, dim].
        """
        raise NotImplementedError

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the module; ``torch.jit.trace`` gets a tuple, because it takes no other values."""
        encoded = super().__call__(*arguments, **keywords)
        traced = torch.jit.is_tracing() and isinstance(encoded, Encoded)  # type: ignore[attr-defined]
        return encoded.as_tuple() if traced else encoded

    def patches(self, x: Tensor, mask: Tensor | None = None, *, layer: int | None = None, class_token: bool = False) -> Encoded:
        """Return the tokens of places in the input, which a language model reads; by default all tokens.

        Args:
            x: the modality's tensor.
            mask: True at real positions.
            layer: index as in transformers' ``hidden_states``: -1 is the last block before the final norm; None is the normalised output.
                An encoder whose layers differ in width or number of tokens returns its last.
            class_token: put the class token first, if there is one.
        """
        return self(x, mask)

    def encode_patches(
        self, patches: Tensor, grids: Tensor, *, reads: str = "tokens", layer: int | None = None, class_token: bool = False
    ) -> Encoded:
        """Encode pictures of different sizes, given as one list of patches; what a picture gives does not depend on the others.

        An encoder that has it says ``takes_patches = True`` and its ``patch_size``.

        Args:
            patches: of all pictures, picture after picture, each row by row [total, 3 * patch_size ** 2]; a patch holds its values in
                the order channel, row, column, that of a convolution's weight.
            grids: rows and columns of each picture [items, 2] int64, with values known on the CPU (``zoo.types.host``).
            reads: "tokens" or "pooled" as in ``forward``, or "patches": the tokens of places, as in ``patches``.
            layer: for "patches", see ``patches``.
            class_token: for "patches", see ``patches``.

        Returns:
            Tokens padded on the right to the longest picture [items, most, dim], their mask, and pooled vectors [items, dim].

        Raises:
            DataError: the encoder takes no lists of patches, or the number or length of the patches does not fit.
        """
        raise DataError(
            f"encoder {type(self).__name__} takes no lists of patches; choose one that does, such as vit, or a tiler that cuts tiles"
        )

    def intermediates(
        self, x: Tensor, layers: Sequence[int] | None = None, *, mask: Tensor | None = None, normalise: bool = False, output: str = "tokens"
    ) -> list[Tensor]:
        """Return the outputs of blocks inside the encoder, as timm's ``forward_intermediates``.

        Args:
            x: the modality's tensor.
            layers: indices of blocks (or stages), 0 is the first and -1 the last; the result has the same order. None chooses all.
            mask: True at real positions.
            normalise: apply the encoder's final norm, if it has one, to each.
            output: "tokens" [batch, num_tokens, width] with all prefix tokens, or "map" [batch, width, rows, columns], for images only.

        Raises:
            ConfigError: a block does not exist, or the encoder has none that it can show.
        """
        raise ConfigError(f"intermediates: {type(self).__name__} has no sequence of blocks to show; call it for its final tokens")

    @property
    def transform(self) -> Callable[[Any], Tensor]:
        """Function from one raw input to the tensor that the encoder takes, without the batch axis; see ``_transformed``."""
        return partial(_transformed, self)  # it raises errors when it is called, because torch.jit.trace reads every property

    def num_tokens(self, length: int) -> int | None:
        """Return the number of tokens of an item of ``length`` frames; None if every item has the same number."""
        return None

    def auxiliary_losses(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return further losses of the last call in training, already weighted, and metrics, by name; by default none.

        A system adds the losses to the loss of its head. The encoder forgets that call. An encoder that has them says ``adds_losses``.
        """
        return {}, {}

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the features that a feature cache stores [B, width]; by default the pooled vectors."""
        pooled = self(x, mask, reads="pooled").pooled
        assert pooled is not None
        return pooled

    def from_features(self, features: Tensor) -> Encoded:
        """Finish the encoding from ``features``; by default they are the pooled vectors and the only tokens."""
        return Encoded.of_pooled(features)


def _transformed(encoder: Encoder, raw: Any) -> Tensor:
    """Return the tensor of one raw input.

    Raises:
        ConfigError: the encoder has no processor.
    """
    if encoder.processor is None:
        raise ConfigError(f"transform: {type(encoder).__name__} has no processor; make it with zoo.create_model or zoo.load")
    part = encoder.processor[encoder.modality]  # type: ignore[index]
    return part([raw])[0][0]


@dataclass(frozen=True)
class EncoderSpec:
    """Facts of an encoder that a head is built with.

    Attributes:
        dim: width of its tokens.
        pooled: True if it returns a pooled vector.
        num_tokens: number of tokens of each item, if the head reads patches and every item has the same number; else None.
        vocab_size: number of rows of its word table; None if it has no word table.
        word_dim: width of that table, if a head may share it (``encoder.word_logits``).
    """

    modality: str
    dim: int
    pooled: bool = True
    num_tokens: int | None = None
    vocab_size: int | None = None
    word_dim: int | None = None

    @classmethod
    def of(cls, encoder: Encoder) -> "EncoderSpec":
        """Read the specification off an encoder."""
        return cls(encoder.modality, encoder.dim, encoder.gives_pooled, vocab_size=encoder.vocab_size, word_dim=encoder.word_dim)


def encode(
    encoder: Encoder,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    reads: str = "tokens",
    layer: int | Sequence[int] | None = None,
    class_token: bool = False,
    grids: Tensor | None = None,
) -> Encoded:
    """Run an encoder for a head that reads "tokens", "pooled" or "patches".

    The input is moved to the device of the weights, and a float input to their dtype: processors make float32, weights may be bfloat16.

    Args:
        encoder: of any modality.
        x: the modality's tensor.
        mask: True at real positions.
        reads: "patches" calls ``Encoder.patches`` with ``layer`` and ``class_token``; the others call the encoder.
        layer: see ``Encoder.patches``; of several layers, the features stand one behind the other in each token.
        class_token: see ``Encoder.patches``.
        grids: rows and columns of each picture [items, 2], if ``x`` is a list of patches (``Encoder.encode_patches``).
    """
    if (weight := next((p for p in encoder.parameters() if p.is_floating_point()), None)) is not None:
        x = x.to(weight.device, weight.dtype) if x.is_floating_point() else send(x, weight.device)
        mask = None if mask is None else send(mask, weight.device)
    if reads == "patches":
        layers = layer if isinstance(layer, Sequence) else (layer,)
        ask = partial(encoder.patches, x, mask) if grids is None else partial(encoder.encode_patches, x, grids, reads=reads)
        found = [ask(layer=each, class_token=class_token) for each in layers]
        encoded = found[0] if len(found) == 1 else Encoded(torch.cat([each.tokens for each in found], dim=-1), None, found[0].mask)
    elif grids is not None:
        encoded = encoder.encode_patches(x, grids, reads=reads)
    else:
        encoded = encoder(x, mask, reads=reads)
    traced = isinstance(encoded, EncodedTuple | UnpooledTuple)  # see ``Encoder.__call__``
    return Encoded(encoded.tokens, encoded.pooled, encoded.mask) if traced else encoded
