"""Make a smaller encoder from a trained one: fewer blocks, a word table of lower rank, shorter texts, another pool.

Kept modules keep their weights, new ones are random, and the result is trained further, as DistilBERT (Sanh et al. 2019,
arXiv 1910.01108, section 3). A backbone that is read at an inner layer does not need the blocks after it.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.encoders.vit import ViT
from zoo.errors import ConfigError
from zoo.layers.position import resize_positions
from zoo.registry.construct import build_part
from zoo.types import Encoder, config_of


def shrink(encoder: Encoder, *, seed: int = 0, **changes: Any) -> Encoder:
    """Build the same encoder with other keywords, and copy the weights that still fit.

    Args:
        encoder: an encoder that zoo built or loaded.
        seed: random seed of the new weights.
        changes: constructor keywords. Fewer blocks (``depth``) keep the first ones; a narrower word table (``embedding_dim`` of
            ``bert``) is the best approximation of that rank; a shorter ``context_length`` keeps the first positions; another
            ``image_size`` of ``vit`` resizes them. Any other change of a kept weight's shape is an error.

    Raises:
        ConfigError: a keyword that the encoder does not have, or a kept weight whose shape would change.
    """
    config = config_of(encoder).get("encoder")
    if config is None:
        raise ConfigError(f"shrink: {type(encoder).__name__} is not an encoder that zoo built on its own; load one with zoo.load")
    changed = {**config, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        smaller: Encoder = build_part("encoder", changed, "encoder")
    kept = _kept(
        cast(nn.Module, encoder).state_dict(),
        smaller.state_dict(),
        changes,
        smaller.resizing if isinstance(smaller, ViT) else {"antialias": True},
    )
    smaller.load_state_dict(kept, strict=False)
    smaller.remember({"encoder": changed}, _processor(encoder, changes))
    return smaller.eval()


def _processor(encoder: Encoder, changes: Mapping[str, Any]) -> Any:
    """Return a copy of the encoder's processor, with the new context length if it changed."""
    processor: Any = deepcopy(encoder.processor)
    length = changes.get("context_length")
    if processor is not None and length is not None:
        part = processor[encoder.modality]
        part.context_length, part.max_length = length, min(part.max_length or length, length)
    return processor


def _kept(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], changes: Mapping[str, Any], resizing: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the old weights that fit the new encoder, some of them cut, resized or of lower rank.

    Args:
        old: weights of the encoder.
        new: weights of the smaller one, for their shapes.
        changes: keywords that changed.
        resizing: keywords of ``resize_positions``.

    Raises:
        ConfigError: another kept weight would change its shape.
    """
    kept = {name: tensor for name, tensor in old.items() if name in new}
    if "widen.weight" in new and "widen.weight" not in old:
        rank = new["embedding.weight"].shape[1]
        kept["embedding.weight"], kept["widen.weight"] = low_rank(old["embedding.weight"], rank)
    if "context_length" in changes:
        kept["positions"] = old["positions"][: changes["context_length"]]
    if "image_size" in changes and "positions" in new:
        kept["positions"] = _resized(old["positions"], new["positions"].shape[1], resizing)
    other = [name for name, tensor in kept.items() if tensor.shape != new[name].shape]
    if other:
        shapes = f"{other[0]} {list(kept[other[0]].shape)} -> {list(new[other[0]].shape)}"
        raise ConfigError(
            f"shrink: a kept weight would change its shape: {shapes}; only fewer blocks, a word table of lower rank "
            "and parts that are new or gone are possible"
        )
    return kept


def _resized(positions: Tensor, count: int, resizing: Mapping[str, Any]) -> Tensor:
    """Resize the position table [1, prefix + grid * grid, dim] of a ViT with at most one prefix token to another grid."""
    prefix = positions.shape[1] - math.isqrt(positions.shape[1]) ** 2
    old, new = math.isqrt(positions.shape[1] - prefix), math.isqrt(count - prefix)
    return torch.cat([positions[:, :prefix], resize_positions(positions[:, prefix:], (old, old), (new, new), **resizing)], dim=1)


def low_rank(table: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return ``rows`` [words, rank] and ``matrix`` [dim, rank] that minimise the squared error of ``rows @ matrix.T`` to the table.

    Source: Eckart and Young 1936; the singular values are shared evenly, so that both have gradients of one size.
    """
    u, s, v = torch.linalg.svd(table.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(table.dtype), (v[:rank].T * root).to(table.dtype)
