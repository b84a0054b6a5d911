"""The folder ``best/`` of a run: the best evaluated model of the steps that the newest state knows.

An evaluation may replace ``best/`` after the newest state. A kill then leaves a model of a step that the resumed run reaches again, or,
with other settings, never. A model that a kept state knows as the best is therefore kept beside it as long as the state is kept, and a
resumed run puts it back, also one that resumes from an older state because the newest is damaged.
"""

import math
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from zoo.storage.files import real_path

FOLDER = "best"
KEPT = ".best_of_step_"  # before the step of a model that a state knows as the best


class BestModel:
    """Score, step and folder of the best model of a run.

    Attributes:
        score: of the metric that is monitored; minus infinity before the first evaluation.
        step: of the model; None before the first evaluation.
        saved: step of the model that the newest state knows.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.score: float = -math.inf
        self.step: int | None = None
        self.saved: int | None = None

    def position(self) -> dict[str, Any]:
        """Return what a state holds of it."""
        return {"best": self.score, "best_step": self.step}

    def offer(self, score: float, step: int, save: Callable[[Path], Any]) -> None:
        """Save a model whose score is at least as high as that of the best before; the later of equal ones is kept, one of NaN never."""
        if math.isnan(score) or score < self.score:
            return
        # Only the model that the newest state knows is kept: later ones are not in any state.
        if self.step is not None and self.step == self.saved and self._folder.exists():
            shutil.rmtree(self._kept_of(self.step), ignore_errors=True)
            self._folder.rename(self._kept_of(self.step))
            self.saved = None
        self.score, self.step = score, step
        save(self.run_dir / FOLDER)

    def settle(self, known: Collection[int | None] = ()) -> None:
        """Remove the models of which no state knows, after a state was saved or restored.

        Args:
            known: steps of the best models that the older states know.
        """
        self.saved = self.step
        keep = {self._kept_of(step) for step in known if step is not None and step != self.step}
        for path in self._kept():
            if path not in keep:
                shutil.rmtree(path)

    def restore(self, position: Mapping[str, Any], *, main: bool) -> None:
        """Take over what a state holds; the main process gives ``best/`` the model that the state knows."""
        self.score = position["best"]
        if "best_step" not in position:  # a state of an older version
            return
        self.step = position["best_step"]
        kept = None if self.step is None else self._kept_of(self.step)
        if main and (kept is None or kept.is_dir()):
            shutil.rmtree(self._folder, ignore_errors=True)
            if kept is not None:
                kept.rename(self._folder)

    @property
    def _folder(self) -> Path:
        return real_path(self.run_dir / FOLDER)  # a link to another disk stays a link

    def _kept(self) -> list[Path]:
        return [path for path in self._folder.parent.glob(f"{KEPT}*") if path.is_dir()]

    def _kept_of(self, step: int) -> Path:
        return self._folder.with_name(f"{KEPT}{step:09d}")
