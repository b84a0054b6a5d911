"""The trained model on one process or several: whole on each (DDP), or divided over them (FSDP), with its optimizer and moving average."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from zoo.training import grad_cache
from zoo.training.freeze import freeze
from zoo.training.optim import make_optimizer, moving_average, trained_names
from zoo.training.settings import TrainingSettings
from zoo.training.sharding.blocks import prepare_blocks
from zoo.training.sharding.settings import is_sharded, refuse_shared_reference


class ParallelModel:
    """A model that is prepared for training as ``training.parallel`` says.

    Args:
        model: changed in place.
        settings: of the run.
        accelerator: of the run.
        is_reference: the reference model of an objective reads the weights of this model.

    Attributes:
        plain: the model without wrapper.
        wrapped: the model to call in training.
        frozen: modules that stay in evaluation mode.
        optimizer: of the trained weights.
        average: moving average of the weights; None without ``ema_decay``.
        sharded: ``Sharded`` if the weights are divided, otherwise None.

    Raises:
        ConfigError: the settings do not fit the model, the number of processes or each other.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings, accelerator: Accelerator, *, is_reference: bool = False) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.plain = model.to(accelerator.device)
        if settings.accumulation == "grad_cache":
            grad_cache.refuse(model, accelerator)
        self.frozen = freeze(model, settings.freeze)
        self.wrapped: Any
        self.optimizer: Any
        self.average: Any = None
        self.sharded: Any = None
        if is_sharded(settings, accelerator.num_processes):
            refuse_shared_reference(is_reference)
            self._divide()
        else:
            self._prepare_whole()

    def _prepare_whole(self) -> None:
        if self.settings.ema_decay is not None:  # before prepare(): Accelerate wraps the model's forward, which must not be copied
            self.average = AveragedModel(self.plain, multi_avg_fn=moving_average(self.settings.ema_decay))
            self.accelerator.register_for_checkpointing(self.average)
        prepare_blocks(self.plain, checkpointing=self.settings.checkpoint_activations, compiled=self.settings.compile)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.plain, make_optimizer(self.plain, self.settings))

    def _divide(self) -> None:
        from zoo.training.sharding.sharded import Sharded  # its imports take a second

        self.sharded = Sharded(self.plain, self.settings, self.accelerator.device)
        self.average = self.sharded.average
        self.wrapped, self.optimizer = self.plain, make_optimizer(self.plain, self.settings)

    @property
    def final(self) -> nn.Module:
        """Model to evaluate and save, unless it is divided: the moving average of the weights if there is one, otherwise the model."""
        return self.plain if self.average is None or self.sharded is not None else self.average.module

    def whole(self, device: torch.device | None = None, *, everywhere: bool = False) -> AbstractContextManager[nn.Module]:
        """Return a context of the model to evaluate and save. Every process has to enter it.

        Args:
            device: where the weights of a divided model are gathered; None is the device of the run.
            everywhere: gather the weights on every process; otherwise the model of all processes but the main one has no weights.
        """
        if self.sharded is None:
            return nullcontext(self.final)
        return self.sharded.whole(device=device or self.accelerator.device, keep=everywhere or self.accelerator.is_main_process)

    def finish_backward(self) -> None:
        """Finish what the backward passes of a step left to do on a divided model."""
        if self.sharded is not None:
            self.sharded.finish_backward()

    def state(self) -> Any:
        """Return the ``TrainedState`` that saves and restores divided states."""
        from zoo.training.sharding.saving import TrainedState  # its imports take a second

        order = trained_names(self.plain, self.settings) if self.sharded is None else self.sharded.order
        return TrainedState(self.plain, self.optimizer, self.average, order)
