"""Reference model of an objective: a frozen model whose outputs are added to each batch as targets."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.errors import WeightsError
from zoo.storage.files import sync_files
from zoo.storage.tensors import read_tensors, write_tensors
from zoo.types import Batch

FILE = "reference.safetensors"  # file name in a run directory


class Reference:
    """Callable that adds the targets of a frozen reference model to a batch.

    Args:
        model: a separate frozen model; or, together with ``tensors``, the model that is being trained.
        objective: object with ``frozen_targets(head, encoded, batch)``; see ``zoo.training.objectives``.
        tensors: tensors of the trained model as they were at the beginning of the run (``initial_tensors``). The reference runs the
            trained model with these tensors in place of the current ones, so that frozen weights are in memory only once.
    """

    def __init__(self, model: nn.Module, objective: Any, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.targets_of = _FrozenTargets(model, objective)
        self.initial = tensors
        self.tensors = None if tensors is None else {f"model.{name}": tensor for name, tensor in tensors.items()}
        if tensors is None:
            model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the reference model's targets added."""
        device = next(iter(batch.inputs.values())).device
        # The reference may be the trained model itself, whose training modes must be restored.
        modes = {module: module.training for module in self.targets_of.modules()}
        self.targets_of.eval()
        try:
            if self.tensors is None:
                found = self.targets_of.to(device)(batch)
            else:
                found = functional_call(self.targets_of, self.tensors, (batch,))  # type: ignore[arg-type]
        finally:
            for module, training in modes.items():
                module.training = training
        return replace(batch, targets={**batch.targets, **found})


class _FrozenTargets(nn.Module):
    """Module whose ``forward`` computes the frozen targets, because ``functional_call`` can only call ``forward``."""

    def __init__(self, model: nn.Module, objective: Any) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model: Any = self.model
        return self.objective.frozen_targets(model.head, model.encode_batch(batch), batch)


def initial_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors that training may change: parameters with a gradient, and buffers (BatchNorm statistics)."""
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor.detach().clone() for name, tensor in [*found.items(), *model.named_buffers()]}


def write_initial(tensors: Mapping[str, Tensor], run_dir: Path) -> None:
    """Write the initial tensors to the run directory, atomically, so that a resumed run uses the same reference."""
    unfinished = run_dir / f".{FILE}.unfinished"
    write_tensors(tensors, unfinished)
    sync_files([unfinished])
    unfinished.rename(run_dir / FILE)


def read_initial(run_dir: Path, device: torch.device) -> dict[str, Tensor]:
    """Read the tensors that ``write_initial`` wrote.

    Raises:
        WeightsError: the file is missing.
    """
    path = run_dir / FILE
    if not path.is_file():
        raise WeightsError(
            f"{path}: the file is missing; the run cannot resume without its reference weights. Start a new run with weights={run_dir}"
        )
    return {name: tensor.to(device) for name, tensor in read_tensors(path).items()}
