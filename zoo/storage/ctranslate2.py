"""Tensors of a CTranslate2 ``model.bin``, the format of faster-whisper; the format holds no code.

Reference: OpenNMT/CTranslate2 ``python/ctranslate2/specs/model_spec.py``. Little-endian: version, name of the specification, its
revision, number of variables; for each its name, rank, dimensions, type, length in bytes and the bytes; then aliases of names.
"""

import math
import struct
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from zoo.errors import WeightsError

NAME = "model.bin"
VERSIONS = (4, 5, 6)  # of the format; older ones tell the size of an element instead of its type
DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
SCALE = "_scale"  # suffix of the factors that a quantised matrix was multiplied with
LONGEST = 2**12  # of a name, in bytes
MOST_DIMENSIONS = 8


def is_ctranslate2(path: Path) -> bool:
    """Return True for a file that begins as such a model: a small number and the name of a specification."""
    try:
        with path.open("rb") as file:
            start = file.read(2**8)
    except OSError:
        return False
    if len(start) < 8 or struct.unpack_from("<I", start)[0] > 2**8:
        return False
    length = struct.unpack_from("<H", start, 4)[0]
    return start[6 : 6 + length].endswith(b"Spec\0")


def read_ctranslate2(path: Path) -> dict[str, Tensor]:
    """Read all variables by name, quantised matrices as float32; aliases are left out.

    Raises:
        WeightsError: the file is damaged or cut short, or its version or a type is unknown.
    """
    try:
        with path.open("rb") as file:
            return _unquantised(_variables(file, path))
    except (struct.error, UnicodeDecodeError, OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: a model of CTranslate2 that cannot be read ({error}); download it again") from error


def _variables(file: BinaryIO, path: Path) -> dict[str, Tensor]:
    version = _number(file, "I")
    if version not in VERSIONS:
        raise WeightsError(f"{path}: version {version} of CTranslate2's format; allowed are {', '.join(map(str, VERSIONS))}")
    _name(file)
    _number(file, "I")
    found = {}
    for _ in range(_number(file, "I")):
        name, rank = _name(file), _number(file, "B")
        if rank > MOST_DIMENSIONS:
            raise WeightsError(f"{path}: {name} has {rank} dimensions; the file is damaged: download it again")
        shape = [_number(file, "I") for _ in range(rank)]
        kind, size = _number(file, "B"), _number(file, "I")
        if kind >= len(DTYPES) or math.prod(shape) * DTYPES[kind].itemsize != size:
            raise WeightsError(f"{path}: {name} is of type {kind}, shape {shape} and {size} bytes; the file is damaged: download it again")
        data = bytearray(_bytes(file, size))
        found[name] = torch.frombuffer(data, dtype=DTYPES[kind]).view(shape) if size else torch.empty(shape, dtype=DTYPES[kind])
    return found


def _unquantised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divide quantised matrices by the factor of each row, or of the whole matrix."""
    found = {}
    for name, tensor in tensors.items():
        scale = tensors.get(name + SCALE)
        if scale is not None:
            tensor = tensor.float() / scale.float().view(-1, *(1,) * (tensor.ndim - 1))
        if not (name.endswith(SCALE) and name.removesuffix(SCALE) in tensors):
            found[name] = tensor
    return found


def _bytes(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise struct.error(f"it ends {count - len(found)} bytes early")
    return found


def _number(file: BinaryIO, kind: str) -> int:
    return struct.unpack("<" + kind, _bytes(file, struct.calcsize("<" + kind)))[0]


def _name(file: BinaryIO) -> str:
    length = _number(file, "H")
    if length > LONGEST:
        raise struct.error(f"a name of {length} bytes")
    return _bytes(file, length).rstrip(b"\0").decode("utf-8")
