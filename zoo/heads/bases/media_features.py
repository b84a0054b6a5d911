"""Features of the images and clips of a batch: encoded, connected, laid out if they were cut into tiles, and kept for later turns."""

import hashlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.layers.picture_positions import picture_marks
from zoo.layers.tiling import arrange_tiles, padded_features, plans_of
from zoo.registry import label_of
from zoo.types import Batch, Connector, Encoded, LanguageModel, SystemLike, Tiler, follow, on_host

ITEMS_AT_ONCE = 32  # images or audio clips per encoder call in generation; bounds the memory of long chats

Features = tuple[Float[Tensor, "items num_tokens dim"], Bool[Tensor, "items num_tokens"]]  # and the mask of real ones
Connected = Mapping[str, Features]  # by modality


def connected(head: Any, modality: str, encoded: Encoded, batch: Batch) -> Features:
    """Return the inputs that the connector makes of encoded items, for the language model, and their mask; tiles are laid out by picture.

    Args:
        head: a ``MultimodalLM``.
        modality: of the items.
        encoded: all items of the batch.
        batch: holds grids of patches, or sizes of pictures that were cut into tiles, if there are any.

    Raises:
        DataError: the system's processor has no tiler, or squares of patches do not fill a grid.
    """
    grids, sizes = batch.grids.get(modality), batch.sizes.get(modality)
    if grids is not None and len(grids):
        return on_grids(head, modality, encoded, grids, batch.steps.get(modality))
    features, mask = head.connectors[modality](encoded.tokens, encoded.mask)
    if grids is None and sizes is not None and not sizes.is_meta:  # a meta tensor has no values to plan by
        features, mask = laid_out(head, modality, features, sizes)
    return widened(features, head.language), mask


def on_grids(
    head: Any, modality: str, encoded: Encoded, grids: Int64[Tensor, "pictures 2"], steps: Int64[Tensor, " pictures"] | None = None
) -> Features:
    """Return the inputs that the connector makes of encoded pictures of different sizes, with their places in the grid, and their mask.

    Args:
        head: a ``MultimodalLM``.
        modality: "image".
        encoded: the pictures.
        grids: rows and columns of patches of each picture.
        steps: of videos, see ``Batch.steps``; the features of a video's pictures are one item.
    """
    connector = head.connectors[modality]
    features, mask = connector.on_grids(encoded.tokens, encoded.mask, grids)
    shape = None if connector.merge is None else follow(lambda each: each // connector.merge, grids)
    features = widened(features, head.language, shape, steps)
    if steps is None:
        return features, mask
    known, pictures = on_host(mask).sum(1).tolist(), pictures_of_items(steps)
    rows = iter(zip(features, known, strict=True))
    return padded_features([torch.cat([row[:length] for row, length in islice(rows, count)]) for count in pictures])


def pictures_of_items(steps: Int64[Tensor, " pictures"]) -> list[int]:
    """Return the number of pictures of each item: 1 of a still, several of a video. Steps -1 -1 1 1 -1 give 1 3 1."""
    starts = [place for place, step in enumerate(on_host(steps).tolist()) if step < 0]
    return [end - start for start, end in zip(starts, [*starts[1:], len(steps)], strict=True)]


def widened(
    features: Float[Tensor, "items num_tokens _"],
    language: LanguageModel,
    grids: Int64[Tensor, "items 2"] | None = None,
    steps: Int64[Tensor, " items"] | None = None,
) -> Float[Tensor, "items num_tokens input_dim"]:
    """Return features in the form of the language model's input vectors (``LanguageModel.input_dim``).

    Args:
        features: of a connector.
        language: the model.
        grids: rows and columns of the tokens of each picture; None: they have the positions of words.
        steps: time steps of pictures of videos, see ``Batch.steps``.
    """
    missing = language.input_dim - features.shape[2]
    if not missing:
        return features
    features = F.pad(features, (0, missing))
    if grids is None or not language.has_axes:
        return features
    marks = nn.utils.rnn.pad_sequence(picture_marks(grids, features.device, steps), batch_first=True)
    return torch.cat([features[..., :-1], marks[..., None].to(features.dtype)], dim=-1)


def refuse_tiler(tiler: Tiler, connector: Connector, *, class_token: bool) -> None:
    """Raise ConfigError unless a connector fits the tiler that cuts the images.

    Args:
        tiler: cuts pictures into tiles or patches.
        connector: of images.
        class_token: True if the connector gets a class token before the patches.
    """
    if tiler.cuts == "patches":
        refuse_grids_of(tiler, connector, class_token=class_token)
    if tiler.needs_newline and connector.newline is None:
        raise ConfigError(
            f"head.connectors.image: has no vector for the end of a row, which {label_of(tiler)} needs; set newline: true among the "
            "connector's options"
        )


def refuse_grids_of(tiler: Tiler, connector: Connector, *, class_token: bool) -> None:
    """Raise ConfigError unless a connector makes tokens of each grid of patches of a tiler, as many as the grid says.

    Args:
        tiler: cuts pictures into patches.
        connector: of images.
        class_token: True if the connector gets a class token before the patches.
    """
    if connector.merge is None:  # the same number of tokens of each picture
        return
    if class_token:
        raise ConfigError(
            f"head.class_token: true puts a token before the patches of a picture, but {label_of(connector)} makes as many tokens as its "
            "grid has places; set class_token: false, or choose a connector of a fixed number of tokens (resampler, attention_pool)"
        )
    if tiler.merge % connector.merge:
        raise ConfigError(
            f"processor.image.tiler: {label_of(tiler)} makes rows and columns that are multiples of {tiler.merge}, but "
            f"head.connectors.image: {label_of(connector)} joins squares of {connector.merge} x {connector.merge} patches; choose tiler "
            f"{{kind: fit, merge: {connector.merge}}}, or a connector that joins none (mlp, linear, resampler)"
        )


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
        if modality in batch.grids:
            found[modality] = _features_of_patches(head, system, modality, batch, kept)
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
            tokens, real = connector(encoded.tokens, encoded.mask)
            for row, each, here in zip(rows, widened(tokens, head.language), real, strict=True):
                kept[digests[row]] = each[here]
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
        kept[digest] = widened(laid_out(head, modality, features, size[None])[0], head.language)[0]
    return padded_features([kept[digest] for digest in digests])


def _features_of_patches(head: Any, system: SystemLike, modality: str, batch: Batch, kept: MutableMapping[str, Tensor]) -> Features:
    """Return the features of pictures and videos given as one list of patches; equal ones and those in ``kept`` are not encoded again."""
    x, grids = batch.inputs[modality], on_host(batch.grids[modality])
    steps = on_host(batch.steps[modality]) if modality in batch.steps else torch.full((len(grids),), -1)
    pictures, digests = pictures_of_items(steps), []
    parts = zip(grids.split(pictures), steps.split(pictures), strict=True)
    items = x.split([int(each.prod(1).sum()) for each in grids.split(pictures)])
    for patches, (shape, apart) in zip(items, parts, strict=True):
        digest = _digest(modality, torch.cat([patches.flatten(), shape.flatten().to(patches.dtype), apart.to(patches.dtype)]))
        digests.append(digest)
        if digest in kept:
            continue
        done = [system.encode_ready(modality, *each) for each in _encoder_calls(patches, shape)]
        kept[digest] = on_grids(head, modality, _joined(done), shape, apart)[0][0]
    return padded_features([kept[digest] for digest in digests])


def _encoder_calls(patches: Tensor, grids: Tensor) -> Iterator[tuple[Tensor, None, Tensor]]:
    """Yield patches, mask and grids of at most ``ITEMS_AT_ONCE`` pictures of an item."""
    sizes = grids.prod(1).tolist()
    for start in range(0, len(grids), ITEMS_AT_ONCE):
        first, chosen = sum(sizes[:start]), slice(start, start + ITEMS_AT_ONCE)
        yield patches[first : first + sum(sizes[chosen])], None, grids[chosen]


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """Return the tokens of pictures of one size, encoded in several calls."""
    if len(parts) == 1:
        return parts[0]
    return Encoded(torch.cat([part.tokens for part in parts]), None, follow(lambda *each: torch.cat(each), *(part.mask for part in parts)))


def _digest(modality: str, item: Tensor) -> str:
    return modality + hashlib.sha256(item.contiguous().numpy().tobytes()).hexdigest()
