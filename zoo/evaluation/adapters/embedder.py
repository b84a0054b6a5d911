"""Vectors of raw inputs, for systems with the verb ``embed`` and for encoders with a pooled vector."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.types import Batch, encode, encoders_of, is_system, processor_of, verbs_of

Embedder = Callable[[Any], Tensor]


def find_embedder(model: Any, modality: str) -> Embedder:
    """Return a function from raw inputs or a processed tensor to unit vectors [batch, dim].

    It uses the head's ``embed`` if there is one, else the pooled vector of the encoder.

    Raises:
        ConfigError: the model has no encoder of the modality, the encoder has no pooled vector, or the model has no processor.
    """
    encoders = encoders_of(model)
    if modality not in encoders:
        raise ConfigError(f"--model: {_named(model)} has no {modality!r} encoder; {name_choices(modality, encoders)}")
    if processor_of(model) is None:
        raise ConfigError(f"--model: {_named(model)} has no processor to read {modality} inputs; give a directory saved by zoo")
    if "embed" in verbs_of(model):
        return lambda raw: model.embed(modality, raw, batch_size=len(raw))
    encoder = encoders[modality]
    if not encoder.gives_pooled:
        raise ConfigError(f"--model: the {modality} encoder of {_named(model)} has no pooled output to embed a whole {modality}")

    @torch.inference_mode()
    def pooled(raw: Any) -> Tensor:
        found = model.processor[modality](raw)
        batch = found if isinstance(found, Batch) else Batch({modality: found[0]}, {} if found[1] is None else {modality: found[1]})
        x, mask = batch.inputs[modality], batch.masks.get(modality)
        encoded: Any = encode(encoder, x, mask, reads="pooled", grids=batch.grids.get(modality))
        return F.normalize(encoded.pooled.float(), dim=-1)

    return pooled


def _named(model: Any) -> str:
    return model.name if is_system(model) else type(model).__name__
