"""Tensors of a TorchScript archive, such as OpenAI's ``ViT-B-32.pt``, read without running anything in it.

The file is a zip archive with code, which is never read, a pickle of the module's attributes, and the raw tensors. The pickle is
read with an unpickler that knows five harmless names: a module becomes a plain holder of attributes, every other name is refused.
Reference: torch's ``docs/source/jit.rst`` and ``torch/csrc/jit/serialization``.
"""

import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import WeightsError

DTYPES = {  # by the name that a pickle gives a storage
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, OverflowError, MemoryError)  # of a damaged archive
LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")


class Module:
    """Holder of the attributes of a module of any class."""

    attributes: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(archive.open(f"{folder}/data.pkl"))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Module
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module == "torch.jit._pickle" and name in LISTS:
            return list
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Read a storage, given as (kind, type, file name, device, number of elements)."""
        _, dtype, name, _, count = pid
        data = bytearray(self.archive.read(f"{self.folder}/data/{name}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _rebuild(storage: Tensor, offset: int, shape: Sequence[int], stride: Sequence[int], *rest: Any) -> Tensor:
    if not shape:
        return storage[offset].clone()
    return storage.as_strided(tuple(shape), tuple(stride), offset).clone()


def is_torchscript(path: Path) -> bool:
    """Return True for a TorchScript archive, which ``torch.load`` does not read with ``weights_only``."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [name.split("/", 1)[-1] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):  # the last ones: damaged names and entries
        return False  # the reader of plain files says what is wrong
    return "data.pkl" in parts and "constants.pkl" in parts


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read parameters and buffers by the names of ``state_dict``, and the whole numbers of the root module as tensors.

    Raises:
        WeightsError: the archive is damaged, or holds something else than modules, tensors, numbers and lists of them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            folder = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
            root = _Reader(archive, folder).load()
            found = dict(_tensors(root, "")) if isinstance(root, Module) else {}
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: a TorchScript archive that names {error}, which is not read because it could run code; where you trust it, convert "
            "it once: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        ) from error
    except (*FAULTS, OSError, EOFError, LookupError, ValueError, TypeError, RuntimeError, AttributeError, StopIteration) as error:
        raise WeightsError(f"{path}: a TorchScript archive that cannot be read ({type(error).__name__}: {error})") from error
    if not found:
        raise WeightsError(f"{path}: a TorchScript archive without tensors")
    return found


def _tensors(module: Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, int) and not isinstance(value, bool) and not prefix:
            yield name, torch.tensor(value)
        elif isinstance(value, Module):
            yield from _tensors(value, f"{prefix}{name}.")
