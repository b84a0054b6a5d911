"""Embed the files of a folder, or the lines of a file, into an index."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from zoo.commands.index.store import FAILED, Matrix, alone_in, checked_words, read_json_lines, told
from zoo.commands.index.writer import IndexWriter, Item, clear, refuse_strange
from zoo.commands.read_ahead import READERS, read_ahead
from zoo.data.system_processor import hash_files
from zoo.data.zero_shot_prompts import read_lines
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation.adapters.embedder import Embedder, find_embedder
from zoo.layers.low_precision.modes import DTYPES, MARKED, precision_of
from zoo.processors.media.image_file import IMAGE_SUFFIXES, walk_images, warn_of_others
from zoo.processors.media.sound_kinds import AUDIO_SUFFIXES
from zoo.training.fingerprint import hash_parameters
from zoo.types import encoders_of, head_of

SHARD_ROWS = 1024  # work lost if the job is killed: minutes for a large model on a CPU
SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": AUDIO_SUFFIXES}
NAMES = {"image": "images", "audio": "recordings"}
MODALITIES = (*SUFFIXES, "text")


@dataclass(frozen=True)
class EmbedResult:
    """Result of an embedding job.

    Attributes:
        index: directory of the index.
        count: number of rows of the index.
        failed: items that could not be embedded, each with the key ``error``.
        embedded: number of items processed by this call; the others were embedded before.
    """

    index: Path
    count: int
    failed: list[Item]
    embedded: int


def embed_folder(
    model: Any,
    origin: str | Path,
    directory: str | Path,
    *,
    name: str,
    modality: str = "image",
    storage: str = "npy",
    dtype: str = "float32",
    batch_size: int = 64,
    readers: int = READERS,
    update: bool = False,
    restart: bool = False,
    advance: Callable[[int], None] = lambda items: None,
    shard_rows: int = SHARD_ROWS,
) -> EmbedResult:
    """Embed all images of a folder (or lines of a text file) into an index; an interrupted job resumes.

    Args:
        model: a system whose head supports ``embed``, or a model whose encoder of the modality gives a pooled vector.
        origin: a folder, searched recursively; for texts, a file.
        directory: directory of the index.
        name: name or path of the model, from which ``zoo search`` loads it again.
        modality: "image", "audio" or "text".
        storage: "npy" or "parquet".
        dtype: "float32" or "float16".
        batch_size: items per forward pass.
        readers: threads that read files.
        update: apply new, changed and removed files. Without it, a changed folder is an error.
        restart: delete the existing index of the directory first.
        advance: progress callback, called with the number of items that were completed.
        shard_rows: items between two checkpoints of the job.

    Raises:
        ConfigError: the directory holds an index of another model, the folder changed, or the model cannot embed this modality.
        DataError: the folder or file does not exist, or holds no items.
    """
    check_counts(batch_size, readers)
    checked_words(storage, dtype)
    origin, directory = Path(origin), Path(directory)
    embed, items = find_embedder(model, modality), list_items(origin, modality)
    if not restart:
        refuse_strange(directory)
    with told(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with told(directory), alone_in(directory):
        if restart:
            clear(directory)
        writer = IndexWriter(directory, facts_of(model, modality, dtype), shard_rows)
        unchanged = writer.begin(items, update=update)
        if unchanged and writer.old is not None and writer.old.manifest.storage == storage:
            writer.drop()
            advance(len(items))
            return EmbedResult(directory, len(writer.old), [], 0)
        before = writer.num_known
        advance(before)
        for shard in writer.todo():
            writer.add(shard, *embed_items(shard, reader_of(model, modality, origin), embed, batch_size, readers, advance))
        manifest = writer.finish(model=place_of(name), origin=str(origin.absolute()), storage=storage, dim=width_of(model, modality))
        return EmbedResult(directory, manifest.count, list(read_json_lines(directory / FAILED)), len(items) - before)


def check_counts(batch_size: int, readers: int) -> None:
    """Raise ConfigError if a number is below 1."""
    if batch_size < 1 or readers < 1:
        raise ConfigError(f"--batch-size {batch_size}, --readers {readers}: allowed is 1 or more")


def facts_of(model: Any, modality: str, dtype: str) -> dict[str, str]:
    """Return the properties that all vectors of an index share."""
    weights = hash_precision(model, precision_of(model))
    return {"weights": weights, "preprocessing": hash_processor(model), "modality": modality, "dtype": dtype}


def hash_precision(model: Any, precision: str) -> str:
    """Return a hash of the model's weights in a precision; those of int8 and int4 are stored in another type."""
    if precision in MARKED:
        return f"{hash_parameters(model, MARKED[precision])} {precision}"
    return hash_parameters(model, DTYPES.get(precision))


def place_of(name: str) -> str:
    """Return the name of a model for the manifest: an absolute path if it is one."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def list_items(origin: Path, modality: str) -> list[Item]:
    """Return all images or recordings of a folder, with size and modification time and sorted by path, or all lines of a text file.

    Raises:
        ConfigError: the modality is unknown.
        DataError: the folder or file does not exist, or holds no items.
    """
    if modality not in MODALITIES:
        raise ConfigError(f"--modality: there is no {modality!r}; {name_choices(modality, MODALITIES)}")
    if modality == "text":
        items: list[Item] = [{"text": line} for line in read_lines(origin, "texts")]
        if items == [{"text": ""}]:
            raise DataError(f"{origin}: the file holds no text; give a UTF-8 text file, one text per line")
        return items
    if not origin.is_dir():
        what = "is a file" if origin.exists() else "there is no such folder"
        raise DataError(f"{origin}: {what}; give a folder of {NAMES[modality]} (the current folder is {Path.cwd()})")
    items = [_described(path, origin) for path in walk_images(origin, suffixes=SUFFIXES[modality])]
    if modality == "image":
        warn_of_others(origin)
    if not items:
        raise DataError(f"{origin}: no {NAMES[modality]} in this folder or below; nothing to embed")
    return items


def _described(path: Path, folder: Path) -> Item:
    try:
        status = os.stat(path)
    except OSError:  # a broken symbolic link: reading the file reports it later
        return {"path": path.relative_to(folder).as_posix(), "size": 0, "mtime_ns": 0}
    return {"path": path.relative_to(folder).as_posix(), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def width_of(model: Any, modality: str) -> int:
    """Return the length of the vectors, without the need for a readable item."""
    head = head_of(model)
    return head.embed_dim if head is not None and head.embed_dim is not None else encoders_of(model)[modality].dim


def hash_processor(model: Any) -> str:
    """Return a hash of the files that the model's processor saves."""
    with TemporaryDirectory() as folder:
        model.processor.save(Path(folder))
        return hash_files(Path(folder))


def reader_of(model: Any, modality: str, origin: Path) -> Callable[[Item], Any]:
    """Return a function that reads an item, and raises DataError if the item cannot be read."""
    if modality in SUFFIXES:
        part = model.processor[modality]
        return lambda item: part.item(origin / item["path"])

    def text(item: Item) -> str:
        if not item["text"]:
            raise DataError("the line is empty")
        return item["text"]

    return text


def embed_items(
    items: Sequence[Item], read: Callable[[Item], Any], embed: Embedder, batch_size: int, readers: int, advance: Callable[[int], None]
) -> tuple[Matrix, dict[int, str]]:
    """Embed items in batches.

    Returns:
        Vectors [readable, dim] in the order of the items, and the error of each other item by its position in ``items``.
    """
    rows: list[Matrix] = []
    errors: dict[int, str] = {}
    for first, batch in read_ahead(items, read, batch_size, readers):
        good = []
        for number, reading in enumerate(batch, first):
            try:
                good.append((number, reading.result()))
            except DataError as error:
                errors[number] = str(error)
        if good:
            vectors = embed([value for _, value in good]).float().cpu()
            fine = vectors.isfinite().all(1)
            errors |= {good[int(i)][0]: "its vector has NaN or infinite values; check the item and the weights" for i in (~fine).nonzero()}
            rows.append(vectors[fine].numpy())
        advance(len(batch))
    return np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32), errors
