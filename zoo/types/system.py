"""Systems and their processors, as far as parts below ``zoo.assembly`` know them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from zoo.types.batch import Batch, Encoded
from zoo.types.encoder import Encoder
from zoo.types.head import Head


@runtime_checkable
class Processor(Protocol):
    """Raw inputs of every modality of a system to a ``Batch``."""

    def __call__(self, **raw: Any) -> Batch: ...

    def __getitem__(self, modality: str) -> Any: ...


@runtime_checkable
class SystemLike(Protocol):
    """The interface of ``zoo.System`` that a head's verb and an export format may use."""

    encoders: Mapping[str, Encoder]
    head: Head
    processor: Processor | None
    device: torch.device

    def encode(self, modality: str, raw: Any, *, reads: str = "tokens") -> Encoded: ...

    def encode_ready(self, modality: str, x: Tensor, mask: Tensor | None = None) -> Encoded: ...


def is_system(model: object) -> TypeGuard[Any]:
    """Return True for a system: a module with the children ``encoders`` and ``head``.

    ``isinstance(model, SystemLike)`` would not do: from Python 3.12 on it looks at class attributes, where a module's children are not.
    """
    return isinstance(model, nn.Module) and {"encoders", "head"} <= {name for name, _ in model.named_children()}


def head_of(model: object) -> Any:
    """Return the head of a system; None for any other model."""
    return model.head if is_system(model) else None


def verbs_of(model: object) -> Sequence[str]:
    """Return the names of the verbs that a system has; none for any other model."""
    return () if (head := head_of(model)) is None else head.verbs
