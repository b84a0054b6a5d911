"""An optimizer step of several batches whose loss sees all of them together, at the memory of one.

Paper: Gao et al. 2021 (GradCache, arXiv 2101.06983), section 3.2. The batches are encoded without a graph; the loss of all
features gives the features' gradients; then each batch is encoded again, with a graph, and goes backward from these.

Where we differ: a tower without trainable parameters is encoded once, since all the graph it makes is that of the head's
projection; random draws (dropout) are repeated per batch and tower; BatchNorm statistics move once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.losses.distributed import average_gradients
from zoo.types import Batch, Encoded, FeatureHead, HeadOutput


@runtime_checkable
class CachedModel(Protocol):
    """What a cached step must know of a model."""

    encoders: Mapping[str, nn.Module]
    head: FeatureHead

    def encode_batch(self, batch: Batch, modalities: Sequence[str]) -> dict[str, Encoded]: ...

    def parameters(self) -> Iterable[nn.Parameter]: ...


@dataclass
class _Pass:
    """One tower's features of one batch.

    Attributes:
        features: with the graph they were made with, or to be made again.
        leaf: what the loss sees; receives the gradient.
        random_state: before they were made, where they are to be made again.
    """

    batch: Batch
    modality: str
    features: Tensor
    leaf: Tensor
    random_state: list[Tensor] | None


def refuse(model: Any, accelerator: Accelerator | None = None) -> None:
    """Raise ConfigError where cached steps cannot be: another kind of head, or processes that hold only some of the parameters."""
    head = getattr(model, "head", None)
    if not isinstance(head, FeatureHead):
        raise ConfigError(
            f"training.accumulation: 'cached' needs a head whose loss is a function of features (clip); {type(head).__name__} has none: "
            "set training.accumulation=independent"
        )
    kind = accelerator.distributed_type.value if accelerator is not None else "NO"
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ConfigError(
            f"training.accumulation: 'cached' works in one process or in data-parallel ones, not with {kind}; set "
            "training.accumulation=independent"
        )


def cached_forward_backward(model: CachedModel, batches: Sequence[Batch], accelerator: Accelerator) -> HeadOutput:
    """Leave in the parameters the gradients of the loss over all batches of all processes.

    Args:
        model: itself, not in its data-parallel wrapper: gradients are averaged over processes here, once.
    """
    trained = [name for name, encoder in model.encoders.items() if any(p.requires_grad for p in encoder.parameters())]
    buffers = [(buffer, buffer.clone()) for name in trained for buffer in model.encoders[name].buffers()]
    passes = [
        _first_pass(model, batch, name, accelerator, again=name in trained)
        for batch in batches
        for name in model.encoders
        if name in batch.inputs or name in batch.features
    ]
    output = _loss_pass(model.head, passes, batches, accelerator)
    for buffer, before in buffers:
        buffer.copy_(before)
    after = _random_state(accelerator.device)
    for made in passes:
        if made.leaf.grad is not None:
            _second_pass(model, made, accelerator)
    _set_random_state(after, accelerator.device)
    average_gradients(model.parameters())
    return output


def _first_pass(model: CachedModel, batch: Batch, modality: str, accelerator: Accelerator, *, again: bool) -> _Pass:
    """Encode; without a graph where the tower is to be encoded again."""
    state = _random_state(accelerator.device) if again else None
    with torch.set_grad_enabled(not again):
        features = _features(model, batch, modality, accelerator)
    leaf = features.detach().requires_grad_(again or features.requires_grad)
    return _Pass(batch, modality, features, leaf, state)


def _loss_pass(head: FeatureHead, passes: Sequence[_Pass], batches: Sequence[Batch], accelerator: Accelerator) -> HeadOutput:
    """The loss over all features, backward to them and to the head's own parameters (temperature, bias)."""
    names = dict.fromkeys(made.modality for made in passes)
    features = {name: torch.cat([made.leaf for made in passes if made.modality == name]) for name in names}  # [items, ...]
    targets = {name: torch.cat([batch.targets[name] for batch in batches]) for name in batches[0].targets}  # [items, ...]
    with accelerator.autocast():
        output = head.loss_of(features, targets)
    if output.loss is not None:
        accelerator.backward(output.loss)
    return output


def _second_pass(model: CachedModel, made: _Pass, accelerator: Accelerator) -> None:
    """Go backward from the features' gradients, which hold the loss's scale in fp16 already."""
    features = made.features
    if made.random_state is not None:
        _set_random_state(made.random_state, accelerator.device)
        features = _features(model, made.batch, made.modality, accelerator)
    features.backward(made.leaf.grad)


def _features(model: CachedModel, batch: Batch, modality: str, accelerator: Accelerator) -> Tensor:
    with accelerator.autocast():
        return model.head.features(model.encode_batch(batch, [modality]))[modality]


def _random_state(device: torch.device) -> list[Tensor]:
    """States of the generators that modules draw from: the CPU's and the device's."""
    return [torch.get_rng_state(), *([] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)])]


def _set_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
