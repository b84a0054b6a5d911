"""An index: the vectors of many items in a folder, one row each, with what they are and which model made them.

A folder holds ``embeddings.npy`` [count, dim] (or ``embeddings.parquet``), ``items.jsonl`` (line i describes row i), ``failed.jsonl`` (what
could not be read, and why) and ``manifest.json``. The manifest is written last and knows the hash of the items, so files of two
different states are never taken for one index.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zoo.errors import ConfigError, DataError, name_choices
from zoo.storage.files import sync_files, write_text_atomically

FORMAT = 1
MANIFEST, ITEMS, FAILED = "manifest.json", "items.jsonl", "failed.jsonl"
UNFINISHED = ".unfinished"  # the folder of a job
VECTORS = {"npy": "embeddings.npy", "parquet": "embeddings.parquet"}
DTYPES = ("float32", "float16")
CHUNK_ROWS = 65536  # of 512 float32 numbers: 128 MB

Matrix = Float[np.ndarray, "rows dim"]


@dataclass(frozen=True)
class Manifest:
    """What an index holds.

    Attributes:
        model: what ``zoo.load`` takes: a name, or an absolute path.
        weights: hash of the model's parameters.
        preprocessing: hash of its processor's files.
        modality: of the items.
        dim: numbers per vector; vectors are of length 1.
        storage: "npy" or "parquet".
        count: rows.
        failed: items that could not be read.
        origin: absolute path of the folder, or of the file of texts, that the items are from.
        listing: hash of the list of all items, their sizes and times.
        items: SHA-256 of ``items.jsonl``.
    """

    format: int
    model: str
    weights: str
    preprocessing: str
    modality: str
    dim: int
    dtype: str
    storage: str
    count: int
    failed: int
    origin: str
    listing: str
    items: str


class NpyRows:
    """Rows of a ``.npy`` file, mapped into memory: only what is looked at is read."""

    def __init__(self, path: Path) -> None:
        self.matrix = np.load(path, mmap_mode="r", allow_pickle=False)

    def chunks(self, size: int) -> Iterator[Matrix]:
        """All rows in order, so many at a time."""
        for start in range(0, len(self.matrix), size):
            yield np.asarray(self.matrix[start : start + size])

    def take(self, rows: Int[np.ndarray, " n"]) -> Matrix:
        """Rows by number, in the order asked for."""
        return np.asarray(self.matrix[rows])


class ParquetRows:
    """Rows of the column ``embedding`` of a Parquet file, read by row group."""

    def __init__(self, path: Path) -> None:
        self.file = parquet().ParquetFile(path)
        counts = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def chunks(self, size: int) -> Iterator[Matrix]:
        """All rows in order, so many at a time."""
        for batch in self.file.iter_batches(batch_size=size, columns=["embedding"]):
            yield _matrix(batch.column(0))

    def take(self, rows: Int[np.ndarray, " n"]) -> Matrix:
        """Rows by number, in the order asked for; those of one row group are read together."""
        groups = np.searchsorted(self.starts, rows, side="right") - 1
        found: list[Any] = [None] * len(rows)
        for group in np.unique(groups):
            matrix = _matrix(self.file.read_row_group(int(group), columns=["embedding"]).column(0).combine_chunks())
            for at in np.flatnonzero(groups == group):
                found[at] = matrix[rows[at] - self.starts[group]]
        return np.stack(found)


Rows = NpyRows | ParquetRows


class Index:
    """A finished index, opened for reading.

    Raises:
        DataError: there is none in the folder, it is unfinished, of another format, or its files do not belong together.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = read_manifest(self.directory)
        path = self.directory / VECTORS[self.manifest.storage]
        try:
            whole = hash_file(self.directory / ITEMS) == self.manifest.items
            self.rows: Rows = NpyRows(path) if self.manifest.storage == "npy" else ParquetRows(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.directory}: the index is damaged ({error}); make it again with zoo embed ... --restart") from error
        if not whole:
            raise DataError(
                f"{self.directory}: {ITEMS} is not the one that {MANIFEST} describes: writing was interrupted, or a file was changed; "
                "run the same zoo embed again"
            )

    def __len__(self) -> int:
        return self.manifest.count

    def chunks(self, size: int = CHUNK_ROWS) -> Iterator[Matrix]:
        """All vectors in order, so many at a time."""
        return self.rows.chunks(size)

    def items(self) -> Iterator[dict[str, Any]]:
        """What each row is: ``path``, ``size`` and ``mtime_ns`` of a file, or ``text``."""
        return read_json_lines(self.directory / ITEMS)

    def describe(self, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
        """What certain rows are, by row."""
        wanted = set(rows)
        with (self.directory / ITEMS).open(encoding="utf-8") as file:
            return {row: json.loads(line) for row, line in enumerate(file) if row in wanted}


def read_manifest(directory: Path) -> Manifest:
    """The manifest of an index.

    Raises:
        DataError: there is none, or one of another format.
    """
    path = directory / MANIFEST
    if not path.is_file():
        what = "holds no index" if directory.is_dir() else "is no folder"
        if (directory / UNFINISHED).is_dir():
            what = "holds an index that is not finished"
        raise DataError(f"{directory}: {what} ({MANIFEST} is missing); make one with: zoo embed FOLDER -o {directory}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format")
        if found == FORMAT and set(content) == {field.name for field in fields(Manifest)} and content["storage"] in VECTORS:
            return Manifest(**content)
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); make the index again with zoo embed ... --restart") from error
    raise DataError(f"{path}: format is {found!r}; this zoo reads format {FORMAT}; make the index again with zoo embed ... --restart")


def write_index(directory: Path, manifest: Manifest, items: Path, failed: Path, chunks: Iterable[Matrix], words: Iterator[str]) -> None:
    """Put finished files in their places: each appears whole, and the manifest last.

    Args:
        items: files that are moved, as ``failed`` is.
        chunks: all vectors in order.
        words: what a Parquet file says of each row.
    """
    fresh = directory / f".{VECTORS[manifest.storage]}.tmp"
    write = _write_npy if manifest.storage == "npy" else _write_parquet
    write(fresh, manifest, chunks, words)
    sync_files([fresh, items, failed])
    items.replace(directory / ITEMS)
    failed.replace(directory / FAILED)
    fresh.replace(directory / VECTORS[manifest.storage])
    write_text_atomically(directory / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    for storage, name in VECTORS.items():
        if storage != manifest.storage:
            (directory / name).unlink(missing_ok=True)


def _write_npy(path: Path, manifest: Manifest, chunks: Iterable[Matrix], words: Iterator[str]) -> None:
    with path.open("wb") as file:
        header = {"descr": np.dtype(manifest.dtype).str, "fortran_order": False, "shape": (manifest.count, manifest.dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype=manifest.dtype).tobytes())


def _write_parquet(path: Path, manifest: Manifest, chunks: Iterable[Matrix], words: Iterator[str]) -> None:
    import pyarrow as arrow

    name = "path" if manifest.modality != "text" else "text"
    vector = arrow.list_(arrow.from_numpy_dtype(np.dtype(manifest.dtype)), manifest.dim)
    schema = arrow.schema([(name, arrow.string()), ("embedding", vector)], metadata={"zoo": json.dumps(asdict(manifest))})
    with parquet().ParquetWriter(path, schema, compression="none") as writer:
        for chunk in chunks:
            flat = arrow.array(np.ascontiguousarray(chunk, dtype=manifest.dtype).reshape(-1))
            told = [next(words).encode("utf-8", "backslashreplace").decode("utf-8") for _ in chunk]  # a file name need not be UTF-8
            columns = [arrow.array(told, arrow.string()), arrow.FixedSizeListArray.from_arrays(flat, manifest.dim)]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def parquet() -> Any:
    """The module ``pyarrow.parquet``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(f"--format: parquet needs pyarrow ({error}); install it with: pip install 'multimodal-zoo[search]'") from error
    return pyarrow.parquet


def _matrix(column: Any) -> Matrix:
    """A column of lists of equal length as a matrix."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def checked_words(storage: str, dtype: str) -> None:
    """Raise ConfigError for a storage or a type that an index cannot have, or whose library is missing."""
    for option, value, known in (("--format", storage, VECTORS), ("--dtype", dtype, DTYPES)):
        if value not in known:
            raise ConfigError(f"{option}: there is no {value!r}; {name_choices(value, known)}")
    if storage == "parquet":
        parquet()


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object per line."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold a folder for one job; a kill sets it free.

    Raises:
        ConfigError: another job holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{directory}: another zoo embed is at work there; wait for it, or give another -o") from error
        yield
    finally:
        os.close(handle)
