"""Features of the images and clips of a batch: encoded, connected, laid out if they were cut into tiles, and kept for later turns."""

import hashlib
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from zoo.errors import DataError
from zoo.layers.tiling import arrange_tiles, padded_features, plans_of
from zoo.types import Batch, SystemLike

ITEMS_AT_ONCE = 32  # images or audio clips per encoder call in generation; bounds the memory of long chats

Connected = Mapping[str, tuple[Float[Tensor, "items num_tokens dim"], Bool[Tensor, "items num_tokens"]]]  # by modality


def laid_out(
    head: Any, modality: str, features: Float[Tensor, "num_tiles per_tile dim"], sizes: Int64[Tensor, "items 2"]
) -> tuple[Float[Tensor, "items num_tokens dim"], Bool[Tensor, "items num_tokens"]]:
    """Return the features of tiles, laid out picture by picture, and the mask of real ones.

    Args:
        head: a ``MultimodalLM``.
        modality: "image".
        features: of all tiles of the batch.
        sizes: of the pictures before they were cut.

    Raises:
        DataError: the system's processor has no tiler.
    """
    if head.tiler is None:
        raise DataError(f"the batch holds sizes of {modality}s that were cut, but the system's processor has no tiler; use its processor")
    return arrange_tiles(features, plans_of(sizes, head.tiler), head.tiler, head.connectors[modality].newline)


def features_of(head: Any, system: SystemLike, batch: Batch, kept: MutableMapping[str, Tensor]) -> Connected:
    """Return the features of a batch's items by modality; equal items and items in ``kept`` are not encoded again.

    Modalities without items are left out and their encoders do not run.

    Args:
        head: a ``MultimodalLM``.
        system: that holds it.
        batch: processed prompts.
        kept: features of items by a digest of their content, updated in place.
    """
    found = {}
    for modality, connector in head.connectors.items():
        x, mask = batch.inputs[modality], batch.masks.get(modality)
        if not len(x):
            continue
        if modality in batch.sizes:
            found[modality] = _features_of_tiles(head, system, modality, x, batch.sizes[modality], kept)
            continue
        # The digest covers the real frames only, so that it does not depend on the padding of the batch.
        digests = [
            _digest(modality, item if mask is None else item[..., real]) for item, real in zip(x, x if mask is None else mask, strict=True)
        ]
        new = list({digest: row for row, digest in enumerate(digests) if digest not in kept}.values())
        for rows in (new[i : i + ITEMS_AT_ONCE] for i in range(0, len(new), ITEMS_AT_ONCE)):
            encoded = system.encode_ready(modality, x[rows], None if mask is None else mask[rows])
            for row, tokens, real in zip(rows, *connector(encoded.tokens, encoded.mask), strict=True):
                kept[digests[row]] = tokens[real]
        found[modality] = padded_features([kept[digest] for digest in digests])
    return found


def _features_of_tiles(
    head: Any, system: SystemLike, modality: str, x: Tensor, sizes: Tensor, kept: MutableMapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the features of pictures that were cut; equal pictures and those in ``kept`` are not encoded again."""
    assert head.tiler is not None
    pictures = x.split([plan.num_tiles for plan in plans_of(sizes, head.tiler)])
    digests = [_digest(modality, torch.cat([each.flatten(), size.to(each.dtype)])) for each, size in zip(pictures, sizes, strict=True)]
    for digest, tiles, size in zip(digests, pictures, sizes, strict=True):
        if digest in kept:
            continue
        parts = [system.encode_ready(modality, part) for part in tiles.split(ITEMS_AT_ONCE)]
        features = torch.cat([head.connectors[modality](part.tokens, part.mask)[0] for part in parts])
        kept[digest] = laid_out(head, modality, features, size[None])[0][0]
    return padded_features([kept[digest] for digest in digests])


def _digest(modality: str, item: Tensor) -> str:
    return modality + hashlib.sha256(item.contiguous().numpy().tobytes()).hexdigest()
