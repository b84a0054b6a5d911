"""Values of a training step for the log, which stay on the device until they are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo.losses.distributed import full_tensor, mean_over_ranks
from zoo.training.finite import FiniteLosses
from zoo.types import HeadOutput


@dataclass(frozen=True)
class StepValues:
    """Values of one step.

    Attributes:
        outputs: output of the head for each batch of the step.
        rate: learning rate.
        norm: norm of all gradients before clipping; None if the engine does not measure it.
    """

    outputs: Sequence[HeadOutput]
    rate: float
    norm: Tensor | None

    def read(self, finite: FiniteLosses) -> dict[str, float]:
        """Return the values as numbers, for which the host waits for the device; every process has to call it.

        Raises:
            DataError: the loss is not finite.
        """
        finite.refuse()
        # Ranks may hold different numbers of tokens; the mean of their losses is that of all items.
        losses = [float(mean_over_ranks(output.loss)) for output in self.outputs if output.loss is not None]
        metrics = {name: float(value) for name, value in self.outputs[-1].metrics.items()}
        norm = math.nan if self.norm is None else float(full_tensor(self.norm))
        return {"loss": sum(losses) / max(len(losses), 1), "learning_rate": self.rate, "gradient_norm": norm, **metrics}
