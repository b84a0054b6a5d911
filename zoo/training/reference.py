"""A frozen model beside the trained one: what it gives for each batch becomes targets of the batch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.errors import WeightsError
from zoo.storage.tensors import read_tensors, write_tensors
from zoo.types import Batch

FILE = "reference.safetensors"  # of a run directory


class Reference:
    """Ask a frozen model for an objective's targets.

    Args:
        model: another model, which stays as it is; or the trained one itself.
        objective: has ``frozen_targets(head, encoded, batch)``; see ``zoo.training.objectives``.
        tensors: of the trained model itself, all that changes in training, as it was when the run began (``initial_tensors``); the model
            is asked as if it still had these. What is frozen stands in memory once.
    """

    def __init__(self, model: nn.Module, objective: Any, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.asked = _Asked(model, objective)
        self.tensors = None if tensors is None else {f"model.{name}": tensor for name, tensor in tensors.items()}
        if tensors is None:
            model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """The batch with the frozen model's targets."""
        device = next(iter(batch.inputs.values())).device
        modes = {module: module.training for module in self.asked.modules()}
        self.asked.eval()
        try:
            if self.tensors is None:
                found = self.asked.to(device)(batch)
            else:
                found = functional_call(self.asked, self.tensors, (batch,))  # type: ignore[arg-type]
        finally:
            for module, training in modes.items():
                module.training = training
        return replace(batch, targets={**batch.targets, **found})


class _Asked(nn.Module):
    """``functional_call`` calls ``forward``, and this is what is to be called."""

    def __init__(self, model: nn.Module, objective: Any) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model: Any = self.model
        return self.objective.frozen_targets(model.head, model.encode_batch(batch), batch)


def initial_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all that training may change: parameters with a gradient, and buffers (statistics of BatchNorm)."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor.detach().clone() for name, tensor in [*found.items(), *model.named_buffers()]}


def write_initial(tensors: Mapping[str, Tensor], run_dir: Path) -> None:
    """Keep them with the run, all or nothing, so that a resumed run is held against the same model."""
    unfinished = run_dir / f".{FILE}.unfinished"
    write_tensors(tensors, unfinished)
    unfinished.rename(run_dir / FILE)


def read_initial(run_dir: Path, device: torch.device) -> dict[str, Tensor]:
    """Read what ``write_initial`` wrote.

    Raises:
        WeightsError: it is not there.
    """
    path = run_dir / FILE
    if not path.is_file():
        raise WeightsError(f"{path}: is missing, so that it is not known what the run began with; begin a new run with weights={run_dir}")
    return {name: tensor.to(device) for name, tensor in read_tensors(path).items()}
