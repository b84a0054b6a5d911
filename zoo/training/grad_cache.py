"""Gradient caching (GradCache): one optimizer step with a loss over several batches together, at the memory of one batch.

Paper: Gao et al. 2021 (GradCache, arXiv 2101.06983), section 3.2. First, all batches are encoded without a graph. The loss over all
features gives the gradients of the features. Then each batch is encoded again with a graph, and backpropagates from these gradients.

Where we differ: an encoder without trainable parameters runs only once, because only the head's projection needs a graph; random
numbers (dropout) are equal in both passes of a batch and encoder; BatchNorm statistics are updated once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.losses.distributed import average_gradients
from zoo.types import Batch, Encoded, FeatureHead, HeadOutput, encoders_of, head_of


@runtime_checkable
class GradCacheModel(Protocol):
    """Protocol of a model that supports gradient caching."""

    encoders: Mapping[str, nn.Module]
    head: FeatureHead

    def encode_batch(self, batch: Batch, modalities: Sequence[str]) -> dict[str, Encoded]: ...

    def parameters(self) -> Iterable[nn.Parameter]: ...


@dataclass
class _Pass:
    """Features of one batch from one encoder.

    Attributes:
        features: features with their graph, or without one if the encoder runs again.
        leaf: detached copy that is the input of the loss and receives the gradient.
        random_state: random state before the first pass; None if the encoder does not run again.
    """

    batch: Batch
    modality: str
    features: Tensor
    leaf: Tensor
    random_state: list[Tensor] | None


def refuse(model: Any, accelerator: Accelerator | None = None) -> None:
    """Raise ConfigError unless the head's loss is a function of features and every process holds all parameters."""
    head = head_of(model)
    if not isinstance(head, FeatureHead):
        raise ConfigError(
            f"training.accumulation: 'grad_cache' needs a head whose loss is a function of features (clip), which {type(head).__name__} is "
            "not; set training.accumulation=independent"
        )
    adding = [modality for modality, encoder in encoders_of(model).items() if encoder.adds_losses]
    if adding:
        raise ConfigError(
            f"training.accumulation: 'grad_cache' knows the loss of the head only, but the {adding[0]} encoder adds losses of its own "
            "(those of its experts); set training.accumulation=independent, or use an encoder without experts"
        )
    kind = accelerator.distributed_type.value if accelerator is not None else "NO"
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ConfigError(
            f"training.accumulation: 'grad_cache' supports one process or data-parallel processes, not {kind}; set "
            "training.accumulation=independent"
        )


def forward_backward_together(model: GradCacheModel, batches: Sequence[Batch], accelerator: Accelerator) -> HeadOutput:
    """Compute the gradients of the loss over all batches of all processes; they are left in the parameters.

    Args:
        model: the model without its data-parallel wrapper, because gradients are averaged over processes here, once.

    Returns:
        The head's output for all batches together.
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
    # The first pass has updated the BatchNorm statistics; undo it, because the second pass updates them again.
    for buffer, before in buffers:
        buffer.copy_(before)
    # The second pass rewinds the random states; afterwards the run continues from the states after the first pass.
    after = _random_state(accelerator.device)
    for made in passes:
        if made.leaf.grad is not None:
            _second_pass(model, made, accelerator)
    _set_random_state(after, accelerator.device)
    average_gradients(model.parameters())
    return output


def _first_pass(model: GradCacheModel, batch: Batch, modality: str, accelerator: Accelerator, *, again: bool) -> _Pass:
    """Encode a batch, without a graph if the encoder runs again in the second pass."""
    state = _random_state(accelerator.device) if again else None
    with torch.set_grad_enabled(not again):
        features = _features(model, batch, modality, accelerator)
    leaf = features.detach().requires_grad_(again or features.requires_grad)
    return _Pass(batch, modality, features, leaf, state)


def _loss_pass(head: FeatureHead, passes: Sequence[_Pass], batches: Sequence[Batch], accelerator: Accelerator) -> HeadOutput:
    """Compute the loss over all features and backpropagate to the features and the head's parameters (temperature, bias)."""
    names = dict.fromkeys(made.modality for made in passes)
    features = {name: torch.cat([made.leaf for made in passes if made.modality == name]) for name in names}  # [items, ...]
    targets = {name: torch.cat([batch.targets[name] for batch in batches]) for name in batches[0].targets}  # [items, ...]
    with accelerator.autocast():
        output = head.loss_of(features, targets)
    if output.loss is not None:
        accelerator.backward(output.loss)
    return output


def _second_pass(model: GradCacheModel, made: _Pass, accelerator: Accelerator) -> None:
    """Encode again with a graph if needed, and backpropagate from the gradients of the features."""
    # No accelerator.backward: these gradients already contain the fp16 loss scale.
    features = made.features
    if made.random_state is not None:
        _set_random_state(made.random_state, accelerator.device)
        features = _features(model, made.batch, made.modality, accelerator)
    features.backward(made.leaf.grad)


def _features(model: GradCacheModel, batch: Batch, modality: str, accelerator: Accelerator) -> Tensor:
    with accelerator.autocast():
        return model.head.features(model.encode_batch(batch, [modality]))[modality]


def _random_state(device: torch.device) -> list[Tensor]:
    """Return the random states of the CPU and, if it is another one, of the device."""
    return [torch.get_rng_state(), *([] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)])]


def _set_random_state(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
