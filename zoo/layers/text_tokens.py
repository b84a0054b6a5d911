"""Mask of the real tokens of texts, and pooled vector of text encoders that read in both directions."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError
from zoo.layers.pool import masked_mean
from zoo.types import all_real


def real_tokens(
    token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None, context_length: int
) -> Bool[Tensor, "batch length"]:
    """Return the mask of real tokens, where None means that there is no padding.

    Raises:
        DataError: the texts are longer than ``context_length``.
    """
    length = token_ids.shape[1]
    if length > context_length:
        raise DataError(f"texts have {length} tokens; context_length allows {context_length}: truncate or split them")
    return all_real(token_ids.shape, token_ids.device) if mask is None else mask


def pooled_text(
    tokens: Float[Tensor, "batch length dim"], real: Bool[Tensor, "batch length"], pool: str, *, normalise: bool
) -> Float[Tensor, "batch dim"] | None:
    """Return the first token ("cls"), the mean of the real ones ("mean"), or None ("none"); with unit length if ``normalise``."""
    if pool == "none":
        return None
    pooled = tokens[:, 0] if pool == "cls" else masked_mean(tokens, real)
    return F.normalize(pooled, dim=-1) if normalise else pooled
