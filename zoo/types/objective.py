"""Base class of objectives, which replace a head's own loss in a training run."""

from typing import Any, ClassVar

from torch import Tensor

from zoo.types.batch import Batch, Encoded, HeadOutput
from zoo.types.head import Head


class Objective:
    """A loss that a run computes in place of the head's own.

    A subclass must define ``check``, ``frozen_targets`` and ``__call__``.

    Attributes:
        needs_teacher: True if the run must name a teacher (``teacher=DIR``); if False, the frozen model is a copy of the run's first
            weights.
    """

    needs_teacher: ClassVar[bool] = False

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError if the system cannot be trained with this objective, or not with this batch size per process."""
        raise NotImplementedError

    def check_teacher(self, system: Any, teacher: Any) -> None:
        """Raise ConfigError if the teacher does not fit the system; by default every teacher does."""

    def frozen_targets(self, head: Head, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return targets by name that the frozen model (teacher or reference) computes for a batch."""
        raise NotImplementedError

    def __call__(self, head: Head, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss of a batch that contains the targets of ``frozen_targets``."""
        raise NotImplementedError
