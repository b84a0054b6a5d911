"""Check of causal language models."""

from typing import Any

import torch
from torch import Tensor

from zoo.testing.rules.comparison import require, require_close
from zoo.testing.rules.parts import check_gradients, check_keywords, check_state
from zoo.types import LanguageModel

WORDS = ("dim", "vocab_size", "context_length", "head_dim")
ROWS, LENGTH = 3, 10


def check_language(language: Any, *, without_gradient: tuple[str, ...] = ()) -> None:
    """Check every rule of ``zoo.types.LanguageModel``; the model is left in the mode and with the weights that it came with.

    Args:
        language: a small one, with random weights.
        without_gradient: beginnings of the names of parameters that get no gradient on purpose.

    Raises:
        ContractError: a rule is broken.
    """
    fits = isinstance(language, LanguageModel)
    require(fits, language, "a language model is a subclass of zoo.types.LanguageModel", "it is none", "LanguageModel", "derive from it")
    check_keywords(type(language))
    _check_words(language)
    was_training = language.training
    language.eval()
    length = min(LENGTH, language.context_length)
    ids = torch.randint(0, language.vocab_size, (ROWS, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = _check_shapes(language, ids)
        _check_causal(language, ids, hidden)
        _check_cache(language, ids, hidden)
        _check_padding(language, ids, hidden)
        rule, remedy = "saved and loaded weights give the same output", "register every tensor that forward reads as parameter or buffer"
        require_close(check_state(language, "language", language.config)(ids), hidden, language, rule, remedy)
    check_gradients(language, language.logits(language(ids)).square().sum(), exempt=without_gradient)
    language.train(was_training)


def _check_words(language: LanguageModel) -> None:
    for word in WORDS:
        value = vars(language).get(word, vars(type(language)).get(word))
        if isinstance(value, property):
            value = value.__get__(language)
        fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
        found = "it has none" if value is None else f"it is {value!r}"
        require(fits, language, f"a language model must say {word}", found, "an int of 1 or more", f"set self.{word} in the constructor")


def _check_shapes(language: LanguageModel, ids: Tensor) -> Tensor:
    vectors, hidden = language.embed(ids), language(ids)
    rows, length = ids.shape
    for name, found, width in (("embed", vectors, language.input_dim), ("forward", hidden, language.dim)):
        wanted = [rows, length, width]
        require(
            list(found.shape) == wanted, language, f"{name} gives vectors of this width", f"{list(found.shape)}", f"{wanted}", "see dim"
        )
    logits, wanted = language.logits(hidden), [rows, length, language.vocab_size]
    require(
        list(logits.shape) == wanted, language, "logits has a score per token id", f"{list(logits.shape)}", f"{wanted}", "see vocab_size"
    )
    rule = "forward(embed(token_ids)) equals forward(token_ids)"
    require_close(language(vectors), hidden, language, rule, "put scaling and norms of the word table into embed")
    for row in range(rows):
        alone = language(ids[row : row + 1])
        require_close(alone, hidden[row : row + 1], language, "an item alone gives what it gives in a batch", "let no operation mix rows")
    return hidden


def _check_causal(language: LanguageModel, ids: Tensor, hidden: Tensor) -> None:
    half, changed = ids.shape[1] // 2, ids.clone()
    changed[:, half:] = (changed[:, half:] + 1) % language.vocab_size
    rule = "no token sees what comes after it"
    require_close(language(changed)[:, :half], hidden[:, :half], language, rule, "mask attention causally")


def _check_cache(language: LanguageModel, ids: Tensor, hidden: Tensor) -> None:
    """Several tokens, one token, several tokens again."""
    rows, length = ids.shape
    cache, half = language.new_cache(rows, length), length // 2
    pieces = [language(ids[:, a:b], cache=cache) for a, b in ((0, half), (half, half + 1), (half + 1, length))]
    rule, remedy = "a cache changes nothing", "continue positions and keys where the cache ends"
    require_close(torch.cat(pieces, 1), hidden, language, rule, remedy)


def _check_padding(language: LanguageModel, ids: Tensor, hidden: Tensor) -> None:
    """Rows of three lengths, padded on either side."""
    rows, length = ids.shape
    for side in ("left", "right"):
        padded, mask = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row in range(rows):
            count = length - 2 * row
            place = slice(length - count, length) if side == "left" else slice(0, count)
            padded[row, place], mask[row, place] = ids[row, :count], True
        found = language(padded, mask)
        for row in range(rows):
            rule = f"padding on the {side} changes nothing"
            require_close(
                found[row, mask[row]], hidden[row, : length - 2 * row], language, rule, "count positions over real tokens, mask keys"
            )
