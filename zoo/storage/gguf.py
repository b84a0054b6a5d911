"""GGUF files (llama.cpp): tensors as float32, and the metadata of model and tokenizer.

Reference: the GGUF specification; read through the ``gguf`` library, which also undoes the quantisation.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.storage.progress import counted

MAGIC = b"GGUF"
Q8_BLOCK = 32  # numbers that share a scale
MOST_VALUES = 2**23  # of the metadata; a vocabulary of 262,144 words with its merges has about 2 million


def is_gguf(path: Path) -> bool:
    """Return True for a GGUF file, which its first bytes tell."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def find_gguf(path: Path) -> Path:
    """Return the GGUF file of a directory without other weights; any other path is returned unchanged.

    Raises:
        WeightsError: the directory holds several GGUF files.
    """
    if not path.is_dir() or any((path / name).is_file() for name in ("config.json", "config.yaml")):
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise WeightsError(f"{path}: holds {len(found)} GGUF files ({', '.join(file.name for file in found[:4])}, ...); name one of them")
    return found[0] if found else path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors as float32 [out, in].

    Raises:
        WeightsError: the file is damaged, the library cannot undo its quantisation, or the library is not installed.
    """
    library, reader = _import_gguf(), _reader(path)
    found = {}
    for tensor in counted(reader.tensors, f"read {path.name}"):
        try:
            numbers = library.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise WeightsError(f"{path}: {tensor.name} is {tensor.tensor_type.name}, which gguf cannot turn into numbers") from error
        found[tensor.name] = torch.from_numpy(numbers.copy())
    return found


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes [out, in] of all tensors.

    Raises:
        WeightsError: as ``read_tensors``.
    """
    return {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in _reader(path).tensors}


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata by key.

    Raises:
        WeightsError: as ``read_tensors``.
    """
    return {key: field.contents() for key, field in _reader(path).fields.items()}


def write(path: Path, architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], kind: str = "F32") -> None:
    """Write a file.

    Args:
        path: of the file.
        architecture: llama.cpp's name of it.
        metadata: by key; numbers, texts, and lists of them.
        tensors: float32 [out, in].
        kind: type of the matrices: "F32", "F16" or "Q8_0"; vectors stay F32, and rows that Q8_0 cannot divide into blocks become F16.

    Raises:
        WeightsError: the library is not installed.
    """
    library = _import_gguf()
    writer = library.GGUFWriter(str(path), architecture)
    writer.add_file_type({"F32": 0, "F16": 1, "Q8_0": 7}[kind])
    for key, value in metadata.items():
        _add(writer, library, key, value)
    for name, tensor in tensors.items():
        here = "F32" if tensor.ndim < 2 else "F16" if kind == "Q8_0" and tensor.shape[-1] % Q8_BLOCK else kind
        type_ = library.GGMLQuantizationType[here]
        writer.add_tensor(name, library.quants.quantize(tensor.contiguous().numpy(), type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, library: ModuleType, key: str, value: Any) -> None:
    """Add one entry of the metadata with the type that llama.cpp expects: counts are unsigned."""
    kinds = library.GGUFValueType
    if isinstance(value, list):
        return writer.add_array(key, value)
    kind = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING}[type(value)]
    return writer.add_key_value(key, value, kind)


def _reader(path: Path) -> Any:
    """Return the parsed file; it is cached, because parsing takes seconds and shapes, metadata and tensors are read in turn."""
    library = _import_gguf()
    try:
        return _parsed(library, path, path.stat().st_mtime_ns)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise WeightsError(f"{path}: cannot be read as GGUF ({error}); the file is damaged, download it again") from error


@lru_cache(maxsize=1)
def _parsed(library: ModuleType, path: Path, changed: int) -> Any:
    """Parse a file; ``changed`` is its time of change, so that a new file of the same name is parsed again."""

    class Bounded(library.GGUFReader):
        """Reader that stops at the end of the file: the library's own reads a false number of entries there, for hours if it is large."""

        num_values = 0

        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            self.num_values += 1
            if self.num_values > MOST_VALUES:
                raise ValueError(f"the metadata has more than {MOST_VALUES:,} values")
            if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError(f"an entry at byte {int(offset)} is beyond the end of the file of {len(self.data)} bytes")
            return super()._get(offset, dtype, count, override_order)

    return Bounded(path)


def _import_gguf() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise WeightsError("weights: GGUF files need gguf; install it with: zoo install gguf") from error
    return gguf
