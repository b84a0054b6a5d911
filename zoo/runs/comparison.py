"""Comparison of runs: settings that differ, final and best metrics, and curves, read from the files of run directories."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import DataError, WeightsError
from zoo.runs.evaluation_results import FOLDER, KeptResult, kept_results
from zoo.runs.run_directory import RUN_CONFIG, flat_settings, read_run_config
from zoo.runs.sweep_training import best_score
from zoo.training.log import read_lines

METRICS = "metrics.jsonl"
NOT_COMPARED = ("run_dir", "resume")
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class RunRecord:
    """Facts about one run.

    Attributes:
        name: directory of the run as it was given, or that of its sweep with the number of the job.
        settings: every setting by its key, for example "training.learning_rate".
        step: last step that was logged.
        max_steps: length of the run.
        curves: points (step, value) by kind and name, for example ("train", "loss").
        watched: metric of the evaluations that selects the best model; None if nothing was evaluated.
        kept: results of ``zoo evaluate``.
    """

    name: str
    settings: dict[str, Any]
    step: int
    max_steps: int
    curves: dict[tuple[str, str], Points]
    watched: str | None
    kept: list[KeptResult] = field(default_factory=list)

    def final(self, kind: str, metric: str) -> float | None:
        """Return the last logged value of a metric."""
        points = self.curves.get((kind, metric))
        return points[-1][1] if points else None

    def best(self, metric: str | None = None) -> tuple[float, int] | None:
        """Return the highest value of an evaluated metric and its step, of equal ones the last; by default of the watched one."""
        points = self.curves.get(("evaluation", metric or self.watched or ""), [])
        known = [(value, step) for step, value in points if not math.isnan(value)]
        return max(known, default=None)


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: in the order in which they were given.
        differing: keys of the settings that are not the same in all runs.
    """

    runs: list[RunRecord]
    differing: list[str]

    def settings_of(self, run: RunRecord) -> dict[str, Any]:
        """Return the settings of a run that differ from those of another one."""
        return {key: run.settings[key] for key in self.differing if key in run.settings}

    def kept(self) -> dict[tuple[str, str], str]:
        """Return the title of each kept evaluation by its key: the label, with the folder's name if several have this label."""
        keys = list(dict.fromkeys(result.key for run in self.runs for result in run.kept))
        labels = [label for label, _ in keys]
        return {(label, name): f"{label}, {name}" if labels.count(label) > 1 else label for label, name in keys}

    def metrics(self) -> list[tuple[str, str]]:
        """Return kind and name of each metric that a run has, training first."""
        found = dict.fromkeys(key for run in self.runs for key in run.curves)
        return sorted(found, key=lambda key: key[0] != "train")


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Read the runs of directories; the directory of a sweep stands for all of its jobs.

    Raises:
        DataError: a directory holds no run, or a run has not logged anything yet.
        ConfigError: the config of a run cannot be read.
    """
    folders = [run for path in paths for run in runs_in(Path(path))]
    runs = [_read(folder) for folder in dict.fromkeys(folders)]
    trained = [run for run in runs if run.settings]  # of the others only evaluations are known
    keys = dict.fromkeys(key for run in trained for key in run.settings)
    differing = [key for key in keys if not _same(run.settings.get(key) for run in trained)]
    return Comparison(runs, _without_keywords_of_replaced_parts(differing))


def runs_in(folder: Path) -> list[Path]:
    """Return the run of a directory, or those of a sweep in the order of their numbers.

    A directory with kept evaluations alone is a run too: ``zoo evaluate`` writes those of bundled and foreign models to ``runs/NAME``.

    Raises:
        DataError: it holds neither.
    """
    if (folder / RUN_CONFIG).is_file() or (folder / FOLDER).is_dir():
        return [folder]
    jobs = [path.parent for path in folder.glob(f"*/{RUN_CONFIG}")] if folder.is_dir() else []
    if not jobs:
        raise DataError(f"{folder}: holds no run and no sweep; give the run_dir of zoo train, or the directory of a sweep (zoo train -m)")
    return sorted(jobs, key=lambda path: (int(path.name) if path.name.isdigit() else math.inf, path.name))


def _read(folder: Path) -> RunRecord:
    if not (folder / RUN_CONFIG).is_file():
        return RunRecord(str(folder), {}, 0, 0, {}, None, kept_results(folder))
    config = read_run_config(folder)
    path = folder / METRICS
    curves: dict[tuple[str, str], Points] = {}
    for line in read_lines(path) if path.is_file() else []:
        step, kind = line.get("step"), line.get("kind")
        if not isinstance(step, int) or not isinstance(kind, str):
            raise DataError(f"{path}: a line has no step or no kind; restore the file that zoo train wrote")
        for name, value in line.items():
            if name not in ("step", "kind") and isinstance(value, int | float):
                curves.setdefault((kind, name), []).append((step, float(value)))
    settings = {key: value for key, value in flat_settings(config) if key not in NOT_COMPARED}
    step = max((points[-1][0] for points in curves.values()), default=0)
    max_steps, watched = int(config["training"].get("max_steps", 0)), _watched(folder, config, curves)
    return RunRecord(str(folder), settings, step, max_steps, curves, watched, kept_results(folder))


def _watched(folder: Path, config: dict[str, Any], curves: dict[tuple[str, str], Points]) -> str | None:
    """Return the metric that selects the best model: that of ``training.monitor``, or the one whose maximum the newest state holds."""
    evaluated = [name for kind, name in curves if kind == "evaluation"]
    if (named := config["training"].get("monitor")) in evaluated:
        return named
    try:
        best = best_score(folder)
    except WeightsError:  # a damaged state hides no figures
        best = None
    same = [name for name in evaluated if best is not None and max(value for _, value in curves["evaluation", name]) == best]
    return (same or evaluated or [None])[0]


def _same(values: Iterable[Any]) -> bool:
    found = list(values)
    return all(value == found[0] for value in found)


def _without_keywords_of_replaced_parts(keys: list[str]) -> list[str]:
    """Return the keys that differ; of a part that is another one only its name, not each keyword that one of the two lacks."""
    replaced = {key.removesuffix(".name") for key in keys if key.endswith(".name")}
    return [key for key in keys if not any(key.startswith(f"{part}.") and key != f"{part}.name" for part in replaced)]
