"""Repacked copies of matrices, kept as long as the parameter that they were made of.

The key is the parameter itself and never its address, because layouts move memory. A copy is made at the first use, and made again after a
write to the parameter; deep copies and loaded models make their own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_packed = WeakTensorKeyDictionary()  # matrix -> {kind: _Copy}


@dataclass(frozen=True)
class _Copy:
    """A copy, and the state of the matrix of which it was made."""

    state: tuple[int, int]
    content: Any
    num_bytes: int


def packing(weight: Tensor, kind: str, make: Callable[[Tensor], tuple[Any, ...]], *, width: int = 1) -> Any:
    """Return the copy of a matrix in a format, made at the first use.

    Args:
        weight: matrix [out, in].
        kind: name of the format; a matrix may have copies of several kinds.
        make: function that repacks the matrix, called without gradients.
        width: bytes of a weight in a packed part that is no tensor.
    """
    found = kept(weight, kind)
    if found is not None:
        return found
    with torch.inference_mode(False), torch.no_grad():
        made = make(weight.detach())
    copies: dict[str, _Copy] = _packed.setdefault(weight, {})  # type: ignore[assignment]  # torch's stub allows None
    copies[kind] = _Copy(state_of(weight), made, sum(bytes_of(part, weight, width) for part in made))
    return made


def kept(weight: Tensor, kind: str) -> Any:
    """Return the copy of a matrix in a format, or None if there is none or the matrix has changed since."""
    copies = _packed.get(weight)
    found = None if copies is None else copies.get(kind)
    return None if found is None or found.state != state_of(weight) else found.content


def packed_bytes(weights: Iterable[Tensor]) -> int:
    """Return the memory in bytes that the copies of matrices take now."""
    return sum(copy.num_bytes for weight in weights for copy in (_packed.get(weight) or {}).values())


def forget(weights: Iterable[Tensor]) -> None:
    """Delete the copies of matrices."""
    for weight in weights:
        _packed.pop(weight, None)


def state_of(weight: Tensor) -> tuple[int, int]:
    """Return a key that changes with every write to a tensor and with its memory address."""
    return (0 if weight.is_inference() else weight._version), weight.data_ptr()


def bytes_of(part: Any, weight: Tensor, width: int = 1) -> int:
    """Return the memory of a part of a copy in bytes.

    A tensor in oneDNN's blocked format has no strides, but a size all the same. fbgemm's packed matrices are no tensors; a weight takes
    ``width`` bytes there.
    """
    return part.numel() * part.element_size() if isinstance(part, Tensor) else width * weight.numel()
