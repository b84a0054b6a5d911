"""Embedding index on disk: one vector per item, a description of each item, and the model that made the vectors.

A folder holds ``embeddings.npy`` [count, dim] (or ``embeddings.parquet``), ``items.jsonl`` (line i describes row i), ``failed.jsonl``
(items that could not be read, with the error) and ``manifest.json``. The manifest is written last and stores the hash of ``items.jsonl``,
so a mixture of files of two states is detected.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zoo.commands.index.checks import check_item, check_manifest, check_shape
from zoo.errors import ConfigError, DataError, name_choices
from zoo.storage.files import sync_files, sync_folder, write_text_atomically
from zoo.storage.lock import alone
from zoo.storage.outside import read_json_object, refuse_special

FORMAT = 1
MANIFEST, ITEMS, FAILED = "manifest.json", "items.jsonl", "failed.jsonl"
LOCK = ".lock"
UNFINISHED = ".unfinished"  # folder of an unfinished job, inside the index
VECTORS = {"npy": "embeddings.npy", "parquet": "embeddings.parquet"}
DTYPES = ("float32", "float16")
CHUNK_ROWS = 65536  # 128 MB for vectors of 512 float32 values

Matrix = Float[np.ndarray, "rows dim"]


@dataclass(frozen=True)
class Manifest:
    """Metadata of an index.

    Attributes:
        format: version of the file format.
        model: name or absolute path of the model, as ``zoo.load`` takes it.
        weights: hash of the model's parameters.
        preprocessing: hash of the files of the model's processor.
        modality: modality of the items: "image", "audio" or "text".
        dim: length of each vector; vectors have unit norm.
        dtype: "float32" or "float16".
        storage: "npy" or "parquet".
        count: number of rows.
        failed: number of items that could not be read.
        origin: absolute path of the embedded folder or text file.
        listing: hash of the list of all items, with sizes and modification times.
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
    """Rows of a ``.npy`` file; only the rows that are used are read from disk.

    The file is mapped only while rows are read: an index of a million images has a thousand shards, and a process may not hold as many
    files.
    """

    def __init__(self, path: Path) -> None:
        refuse_special(path)
        self.path = path
        self.shape = self.matrix.shape

    @property
    def matrix(self) -> Matrix:
        """The mapped file; the mapping ends with the last reference to it."""
        return np.lib.format.open_memmap(self.path, mode="r")  # np.load would read a file that begins as a zip archive as one

    def chunks(self, size: int) -> Iterator[Matrix]:
        """Yield all rows in order, at most ``size`` at a time."""
        for start in range(0, self.shape[0], size):
            yield np.asarray(self.matrix[start : start + size])

    def take(self, rows: Int[np.ndarray, " n"]) -> Matrix:
        """Return the given rows, in the given order."""
        return np.asarray(self.matrix[rows])


class ParquetRows:
    """Rows of the column ``embedding`` of a Parquet file, read by row group."""

    def __init__(self, path: Path) -> None:
        refuse_special(path)
        self.file = parquet().ParquetFile(path)
        counts = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.shape = (sum(counts), self._width())
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _width(self) -> int:
        first = next(self.file.iter_batches(batch_size=1, columns=["embedding"]), None)
        return 0 if first is None else _matrix(first.column(0)).shape[1]

    def chunks(self, size: int) -> Iterator[Matrix]:
        """Yield all rows in order, at most ``size`` at a time."""
        for batch in self.file.iter_batches(batch_size=size, columns=["embedding"]):
            yield _matrix(batch.column(0))

    def take(self, rows: Int[np.ndarray, " n"]) -> Matrix:
        """Return the given rows, in the given order; each row group is read once."""
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
        DataError: the folder holds no index, or the index is unfinished, damaged, of another format, or a mixture of two states.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = read_manifest(self.directory)
        path = self.directory / VECTORS[self.manifest.storage]
        try:
            whole = hash_file(self.directory / ITEMS) == self.manifest.items
            self.rows: Rows = NpyRows(path) if self.manifest.storage == "npy" else ParquetRows(path)
        except DataError:
            raise
        except (OSError, EOFError, ValueError, TypeError, OverflowError, SyntaxError, TokenError) as error:  # the last: NumPy's header
            raise DataError(f"{self.directory}: the index is damaged ({error}); make it again with zoo embed ... --restart") from error
        if not whole:
            raise DataError(
                f"{self.directory}: {ITEMS} does not match {MANIFEST}: writing was interrupted, or a file was changed; "
                "run the same zoo embed command again"
            )
        check_shape(self.rows.shape, (self.manifest.count, self.manifest.dim), path)

    def __len__(self) -> int:
        return self.manifest.count

    def chunks(self, size: int = CHUNK_ROWS) -> Iterator[Matrix]:
        """Yield all vectors in order, at most ``size`` at a time."""
        return self.rows.chunks(size)

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield the description of each row: ``path``, ``size`` and ``mtime_ns`` of a file, or ``text``."""
        return read_json_lines(self.directory / ITEMS)

    def describe(self, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Return the descriptions of the given rows, by row number."""
        wanted = set(rows)
        with (self.directory / ITEMS).open("rb") as file:  # bytes: a line may be no UTF-8
            return {row: check_item(line, f"{file.name}, line {row + 1}") for row, line in enumerate(file) if row in wanted}


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of an index.

    Raises:
        DataError: the manifest is missing, damaged or of another format.
    """
    path = directory / MANIFEST
    if not path.is_file():
        problem = "holds no index" if directory.is_dir() else "is not a folder"
        if (directory / UNFINISHED).is_dir():
            problem = "holds an unfinished index"
        raise DataError(f"{directory}: {problem} ({MANIFEST} is missing); make one with: zoo embed FOLDER -o {directory}")
    content = read_json_object(path, DataError)
    found = content.get("format")
    if found == FORMAT and set(content) == {field.name for field in fields(Manifest)} and str(content["storage"]) in VECTORS:
        return Manifest(**check_manifest(content, path))
    raise DataError(f"{path}: format is {found!r}; this zoo reads format {FORMAT}; make the index again with zoo embed ... --restart")


def write_index(directory: Path, manifest: Manifest, items: Path, failed: Path, chunks: Iterable[Matrix], labels: Iterator[str]) -> None:
    """Write the vectors and move all files of an index into place, each atomically and the manifest last.

    Args:
        items: finished ``items.jsonl``, which is moved.
        failed: finished ``failed.jsonl``, which is moved.
        chunks: all vectors in order.
        labels: path or text of each row, for the first column of a Parquet file.
    """
    fresh = directory / f".{VECTORS[manifest.storage]}.tmp"
    write = _write_npy if manifest.storage == "npy" else _write_parquet
    write(fresh, manifest, chunks, labels)
    sync_files([fresh, items, failed])
    items.replace(directory / ITEMS)
    failed.replace(directory / FAILED)
    fresh.replace(directory / VECTORS[manifest.storage])
    write_text_atomically(directory / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    for storage, name in VECTORS.items():
        if storage != manifest.storage:
            (directory / name).unlink(missing_ok=True)
    sync_folder(directory)


def _write_npy(path: Path, manifest: Manifest, chunks: Iterable[Matrix], labels: Iterator[str]) -> None:
    with path.open("wb") as file:
        header = {"descr": np.dtype(manifest.dtype).str, "fortran_order": False, "shape": (manifest.count, manifest.dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype=manifest.dtype).tobytes())


def _write_parquet(path: Path, manifest: Manifest, chunks: Iterable[Matrix], labels: Iterator[str]) -> None:
    import pyarrow as arrow

    name = "path" if manifest.modality != "text" else "text"
    vector = arrow.list_(arrow.from_numpy_dtype(np.dtype(manifest.dtype)), manifest.dim)
    schema = arrow.schema([(name, arrow.string()), ("embedding", vector)], metadata={"zoo": json.dumps(asdict(manifest))})
    with parquet().ParquetWriter(path, schema, compression="none") as writer:
        for chunk in chunks:
            flat = arrow.array(np.ascontiguousarray(chunk, dtype=manifest.dtype).reshape(-1))
            names = [next(labels).encode("utf-8", "backslashreplace").decode("utf-8") for _ in chunk]  # file names may be invalid UTF-8
            columns = [arrow.array(names, arrow.string()), arrow.FixedSizeListArray.from_arrays(flat, manifest.dim)]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def parquet() -> Any:
    """Import ``pyarrow.parquet``.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(f"--format: parquet needs pyarrow ({error}); install it with: zoo install search") from error
    return pyarrow.parquet


def _matrix(column: Any) -> Matrix:
    """Convert a column of lists of equal length to a matrix."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def checked_words(storage: str, dtype: str) -> None:
    """Raise ConfigError if the storage format or data type is unknown, or its library is not installed."""
    for option, value, known in (("--format", storage, VECTORS), ("--dtype", dtype, DTYPES)):
        if value not in known:
            raise ConfigError(f"{option}: there is no {value!r}; {name_choices(value, known)}")
    if storage == "parquet":
        parquet()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file."""
    with path.open("rb") as file:
        yield from (check_item(line, f"{path}, line {number}") for number, line in enumerate(file, 1))


@contextmanager
def alone_in(directory: Path, *, patience_s: float = 0.0) -> Iterator[None]:
    """Lock a folder for one job; the lock ends with the process, even if it is killed.

    Args:
        patience_s: seconds to wait for another job that holds the lock.

    Raises:
        ConfigError: another job holds the lock.
    """
    with alone(directory / LOCK, f"{directory}: another zoo embed is writing to this folder", patience_s=patience_s):
        yield


@contextmanager
def told(directory: Path) -> Iterator[None]:
    """Turn errors of writing an index (a full disk, no permission) into one line.

    Raises:
        DataError: a file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"-o: {directory} cannot be written ({error.strerror or error}); finished items are kept. Make room or give another folder, "
            "then run the same command again"
        ) from error
