"""Relative position biases of T5: a learned number for each head and each bucket of distances, added to the attention scores.

Paper: Raffel et al. 2019 (arXiv 1910.10683), section 2.1. Reference: transformers 5.17 ``modeling_t5.py``, ``_relative_position_bucket``.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError


def relative_buckets(
    relative: Int[Tensor, "queries keys"], *, num_buckets: int, max_distance: int, both_ways: bool = True
) -> Int[Tensor, "queries keys"]:
    """Return the row of the bias table for each distance; small distances have a row each, large ones share rows logarithmically.

    With 32 buckets, max_distance 128 and both ways: 0 -> 0, -1 -> 1, -7 -> 7, -8 -> 8, -16 -> 10, -127 and beyond -> 15; +1 -> 17.

    Args:
        relative: position of the key minus position of the query.
        num_buckets: number of rows of the bias table.
        max_distance: distances from this one on share the last row.
        both_ways: if True, keys after the query use the upper half of the rows; if False, they all use row 0.
    """
    rows = num_buckets // 2 if both_ways else num_buckets
    offset = (relative > 0).long() * rows if both_ways else torch.zeros_like(relative)
    distance = relative.abs() if both_ways else (-relative).clamp(min=0)
    exact = rows // 2  # each smaller distance has a separate row
    # clamp(min=1) keeps log finite at distance 0, where torch.where below takes the exact row anyway.
    grown = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (rows - exact)
    shared = (exact + grown.long()).clamp(max=rows - 1)
    return offset + torch.where(distance < exact, distance, shared)


def relative_bias(
    distances: Float[Tensor, "num_buckets num_heads"],
    queries: Int[Tensor, " queries"],
    keys: Int[Tensor, " keys"],
    *,
    max_distance: int,
    both_ways: bool = True,
) -> Float[Tensor, "1 num_heads queries keys"]:
    """Return the bias that each head adds to the attention scores.

    Args:
        distances: table of biases.
        queries: positions of the queries.
        keys: positions of the keys.
        max_distance: see ``relative_buckets``.
        both_ways: see ``relative_buckets``.
    """
    rows = relative_buckets(keys[None] - queries[:, None], num_buckets=len(distances), max_distance=max_distance, both_ways=both_ways)
    # contiguous: every block reads this bias, and fast attention kernels want the last dimension dense.
    return F.embedding(rows, distances).permute(2, 0, 1)[None].contiguous()  # [1, heads, queries, keys]


def refuse_buckets(num_buckets: int, max_distance: int) -> None:
    """Raise ConfigError if the number of buckets and the largest distance do not fit together."""
    if num_buckets < 4 or num_buckets % 4 or max_distance <= num_buckets // 4:
        raise ConfigError(
            f"num_buckets: {num_buckets} with max_distance {max_distance}; allowed are a num_buckets that is a multiple of 4, and a "
            "max_distance above num_buckets / 4"
        )
