"""Models with published weights, by name and tag."""

from typing import Any

import torch
from torch import nn

from zoo.assembly.create import create_model
from zoo.assembly.save_load import load
from zoo.assembly.system import System
from zoo.data.system_processor import Processor
from zoo.interop.base.source import TIMM
from zoo.registry.pretrained import find_pretrained
from zoo.types import Encoder, Part


def load_pretrained(
    name: str, *, device: torch.device | str | None = None, precision: str | torch.dtype | None = None, revision: str | None = None
) -> nn.Module:
    """Return the model of ``NAME:TAG`` with its weights, in eval mode.

    The source says what the model is, as for ``zoo.load``: its activation, for example, may differ from that of the row ``NAME``. Of an
    encoder's source, classifier and other heads are left out.

    Args:
        name: of a model, and the tag of its weights.
        device: None is the CPU.
        precision: as for ``zoo.load``, or the type of the weights; None is float32.
        revision: branch, tag or commit of the hub; None takes that of the row, or the newest.

    Raises:
        ConfigError: there is no such name or tag (the message lists near matches).
        WeightsError: the weights cannot be fetched, or do not fit.
    """
    row = find_pretrained(name)
    typed: dict[str, Any] = {"dtype" if isinstance(precision, torch.dtype) else "precision": precision}
    if row.source.startswith(TIMM):  # timm's weights do not say what they are of
        parts = ["encoder"] if row.kind == "encoder" else None
        return create_model(row.name, weights=row.source, weights_parts=parts, device=device, **typed)
    model: nn.Module = load(row.source, device=device, **typed, revision=revision or row.revision or None)
    return _encoder_of(model) if row.kind == "encoder" and isinstance(model, System) else model


def _encoder_of(system: System) -> Encoder:
    """Return the only encoder of a system with its config and processor."""
    ((modality, encoder),) = system.encoders.items()
    assert isinstance(encoder, Encoder)
    given = None if system.processor is None else system.processor.get(modality)
    part: Part = encoder
    part.remember({"encoder": dict(system.config["encoders"][modality])}, None if given is None else Processor({modality: given}))
    return encoder
