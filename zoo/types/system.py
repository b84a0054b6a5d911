"""Interfaces of systems and their processors, for the rooms below ``zoo.assembly``."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from zoo.types.batch import Encoded
from zoo.types.encoder import Encoder
from zoo.types.head import Head
from zoo.types.part import Part
from zoo.types.processor import Processor


@runtime_checkable
class SystemLike(Protocol):
    """Interface of ``zoo.System`` for the verbs of heads and for export formats."""

    encoders: Mapping[str, Encoder]
    head: Head
    processor: Processor | None
    device: torch.device
    config: dict[str, Any]

    def encode(self, modality: str, raw: Any, *, reads: str = "tokens") -> Encoded: ...

    def encode_ready(self, modality: str, x: Tensor, mask: Tensor | None = None, grids: Tensor | None = None) -> Encoded: ...

    def state_dict(self) -> dict[str, Tensor]: ...


def is_system(model: object) -> TypeGuard[Any]:
    """Return True for a system: an object with the attributes ``encoders`` and ``head``.

    ``isinstance(model, SystemLike)`` would not do: from Python 3.12 on it looks at class attributes, where a module's children are not.
    """
    return {"encoders", "head"} <= set(dir(model))


def head_of(model: object) -> Any:
    """Return the head of a system; None for any other model."""
    return model.head if is_system(model) else None


def encoders_of(model: object) -> dict[str, Any]:
    """Return the encoders of a system by modality, or a lone encoder under its own."""
    if is_system(model):
        return dict(model.encoders)
    return {model.modality: model} if isinstance(model, Encoder) else {}


def verbs_of(model: object) -> Sequence[str]:
    """Return the names of the verbs that a system has; none for any other model."""
    return () if (head := head_of(model)) is None else head.verbs


def config_of(model: object) -> dict[str, Any]:
    """Return the config that a model was built from; empty if zoo did not build it."""
    return dict(model.config or {}) if is_system(model) or isinstance(model, Part) else {}


def processor_of(model: object) -> Any:
    """Return the processor of a system or of a part that was loaded alone; None if it has none."""
    return model.processor if is_system(model) or isinstance(model, Part) else None


def part_of(model: object, modality: str) -> Any:
    """Return the part of a model's processor for a modality; None if there is none."""
    processor = processor_of(model)
    return None if processor is None else processor.get(modality)
