"""Prefill: run prompts of mixed lengths through a language model as one padded batch."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.types import LanguageModel


def prefill(
    language: LanguageModel,
    prompts: Sequence[Float[Tensor, "_ input_dim"]],
    *,
    new_tokens: int,
    padding_side: str = "left",
    cache: Any = None,
    prefix_lengths: Sequence[int] | None = None,
) -> tuple[Float[Tensor, "rows dim"], Any]:
    """Run the prompts through the model and fill its key-value cache.

    Args:
        new_tokens: number of tokens to reserve in the cache after the prompts.
        cache: cache without padding that holds the first ``cache.length`` vectors of every prompt, which are not computed again. It
            has one row per prompt, or a single row that all prompts share.
        prefix_lengths: number of first vectors of each prompt that see each other; the model must have ``sees_prefix``.

    Returns:
        The hidden state at each prompt's last token, and the cache.

    Raises:
        DataError: a prompt is empty.
        ConfigError: the model has no prefix.
    """
    prefix = {} if prefix_lengths is None else {"prefix_lengths": torch.tensor(prefix_lengths, device=prompts[0].device)}
    if prefix and not language.sees_prefix:
        raise ConfigError(
            f"prefix_lengths: the language model {type(language).__name__} has no prefix whose tokens see each other; leave it out"
        )
    lengths = [len(prompt) for prompt in prompts]
    if 0 in lengths:
        raise DataError(f"prompt {lengths.index(0)} is empty; give a prompt of at least one token")
    if cache is None:
        cache = language.new_cache(len(prompts), max(lengths) + new_tokens)
    else:
        cache.crop(min(cache.length, min(lengths) - 1))  # the last token of each prompt must run: its hidden state is needed
        cache.reserve(max(lengths) + new_tokens)
        if cache.batch_size == 1 < len(prompts):
            cache.select(torch.zeros(len(prompts), dtype=torch.int64, device=prompts[0].device))
    # Only the vectors after the cached ones are new.
    vectors, mask = pad([prompt[cache.length :] for prompt in prompts], padding_side)
    hidden = language(vectors, mask, cache=cache, **prefix)
    if mask is None or padding_side == "left":
        return hidden[:, -1], cache
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1], cache


def pad(
    rows: Sequence[Float[Tensor, "_ dim"]], side: str = "right"
) -> tuple[Float[Tensor, "rows length dim"], Bool[Tensor, "rows length"] | None]:
    """Stack vectors into a batch that is padded with zeros.

    Returns:
        The batch, and a mask that is True at real tokens; None if no row is padded, because attention is faster without a mask.
    """
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    vectors = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_side=side)  # [rows, length, dim]
    if (lengths == vectors.shape[1]).all():
        return vectors, None
    places = torch.arange(vectors.shape[1], device=vectors.device)
    real = places < lengths[:, None]
    return vectors, real.flip(1) if side == "left" else real
