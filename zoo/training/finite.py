"""Check that losses are finite, which does not wait for the device of the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.losses.distributed import max_over_ranks
from zoo.types import Batch

LATE = ("cuda", "xpu")  # types of devices that compute behind the host; reading a value there waits for all earlier work


@dataclass(frozen=True)
class _Observed:
    """Flags of one step, on their way to the CPU: 1 for each batch whose loss is not finite, then 1 if any process has such a batch."""

    step: int
    ids: list[list[str]]
    flags: Tensor
    arrived: Any


class FiniteLosses:
    """Check of the losses of every step, on all processes together.

    On a CPU, a loss that is not finite ends the run before the weights change. On a GPU, the run ends one step later, because the
    host would otherwise have to wait for the device. ``refuse`` waits, and must be called before a state is saved.

    Args:
        device: of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.is_late = device, device.type in LATE
        self._last: _Observed | None = None

    def observe(self, step: int, losses: Sequence[Tensor | None], batches: Sequence[Batch]) -> None:
        """Look at the losses of a step, one for each of its batches; every process has to call it.

        Raises:
            DataError: a loss is not finite; on a GPU, one of the step before.
        """
        self.refuse()
        bad = [(~torch.isfinite(loss.detach())).float() if loss is not None else torch.zeros((), device=self.device) for loss in losses]
        flags = torch.stack([*bad, max_over_ranks(torch.stack(bad).amax())])
        arrived = torch.get_device_module(self.device).Event() if self.is_late else None
        copied = flags.to("cpu", non_blocking=self.is_late)
        if arrived is not None:
            arrived.record()
        self._last = _Observed(step, [batch.ids for batch in batches], copied, arrived)
        if not self.is_late:
            self.refuse()

    def refuse(self) -> None:
        """Raise DataError if a loss of the last observed step was not finite on any process; waits for that step's losses."""
        last, self._last = self._last, None
        if last is None:
            return
        if last.arrived is not None:
            last.arrived.synchronize()
        if not last.flags[-1]:
            return
        ids = next((ids for ids, flag in zip(last.ids, last.flags, strict=False) if flag), None)
        items = "items of another process" if ids is None else ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")
        raise DataError(
            f"the loss is not finite at step {last.step}; its batch holds {items}. The last saved state is kept: check "
            "these items, or resume with a lower training.learning_rate"
        )
