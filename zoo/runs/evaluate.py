"""Evaluate a checkpoint with one evaluation or several."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.assembly.save_load import load
from zoo.errors import ConfigError
from zoo.interop.base.checkpoint_directory import bundled_names, find_checkpoint, find_weights
from zoo.interop.base.source import is_foreign, weights_on_disk
from zoo.layers.low_precision.modes import precision_of
from zoo.losses.distributed import rank
from zoo.registry import name_of, part_names
from zoo.registry.construct import build_part
from zoo.runs.data_setup import make_source
from zoo.runs.evaluation_results import FOLDER, METRICS, fingerprint_of, result_folder
from zoo.runs.evaluation_setup import make_evaluation
from zoo.runs.ranked_evaluation import evaluate_on_ranks, join_ranks
from zoo.runs.run_directory import ENVIRONMENT, describe_environment, read_run_config
from zoo.storage.files import atomic_directory

Runner = Callable[..., tuple[Any, Mapping[str, float] | None]]  # as ``evaluate_on_ranks``


def evaluate(
    config: Mapping[str, Any], *, advance: Any = lambda items: None, expect: Any = lambda items: None, run: Runner = evaluate_on_ranks
) -> tuple[Any, Path]:
    """Evaluate a checkpoint; data and evaluation that the config does not give are those of its run.

    Under ``torchrun`` the processes divide the items, and the first one writes the result.

    Args:
        advance: progress callback; receives the number of items just finished.
        expect: receives the number of items before the first one, if the evaluation reads one split.
        run: calls the evaluation.

    Returns:
        The evaluation's result (on other ranks than the first perhaps None), and the folder of ``metrics.json`` and the plot.

    Raises:
        ConfigError: the config gives no data, and the checkpoint does not belong to a run.
        WeightsError: the checkpoint cannot be loaded.
    """
    directory, place = _find_model(str(config["checkpoint"]))
    run_dir = next((folder for folder in (place, directory.parent) if (folder / "state").is_dir()), None)
    own = read_run_config(run_dir) if run_dir is not None else {}
    data, settings = config.get("data") or own.get("data"), _settings(config.get("evaluation") or {}, own.get("evaluation") or {})
    if not data:
        raise ConfigError(
            f"data: {config['checkpoint']} is not a run directory, so that its data is unknown; choose one, for example data=digits"
        )
    source = make_source(data)
    model = load(directory, device=join_ranks(config.get("device")), precision=config.get("precision"))
    evaluation = make_evaluation(settings, model)
    if evaluation is None:
        known = ", ".join(part_names("evaluation"))
        raise ConfigError(f"evaluation: {directory} has no default evaluation; choose one with evaluation=NAME, known: {known}")
    name = name_of("evaluation", type(evaluation))
    if not evaluation.reads_other_splits:
        length = len(source.split(data["test_split"]))
        expect(length if evaluation.limit is None else min(length, evaluation.limit))
    result, _ = run(evaluation, model, source, data["test_split"], advance=advance)
    fingerprint = fingerprint_of(data, {"name": name, **settings}, config.get("precision"))
    output = Path(config.get("output") or result_folder(place, name, data, fingerprint))
    if rank() == 0:
        facts = {
            "evaluation": name,
            "model": str(directory),
            "split": data["test_split"],
            "data": dict(data),
            "precision": precision_of(model),
            "fingerprint": fingerprint,
        }
        write_result(result, output, facts)
    return result, output


def _settings(given: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of an evaluation: keywords without a name change those of the run."""
    return given if "name" in given else {**own, **given}


def evaluate_each(
    config: Mapping[str, Any], *, advance: Any = lambda items: None, expect: Any = lambda items: None
) -> Iterator[tuple[Any, Path]]:
    """Run ``evaluate`` for each config of ``each_evaluation``."""
    for one in each_evaluation(config):
        yield evaluate(one, advance=advance, expect=expect)


def each_evaluation(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a config for each name (or mapping with ``name``) in ``evaluations``; without ``evaluations``, the config itself.

    Raises:
        ConfigError: both ``evaluation`` and ``evaluations`` are set, or ``evaluations`` is not a list of different names.
    """
    chosen = config.get("evaluations")
    if chosen is None:
        return [config]
    if config.get("evaluation") is not None:
        raise ConfigError("evaluations: evaluation is set too; give one of the two")
    parts = [{"name": part} if isinstance(part, str) else part for part in chosen] if isinstance(chosen, list) else []
    names = [part.get("name") if isinstance(part, Mapping) else None for part in parts]
    if not names or None in names or len(set(names)) < len(names):
        raise ConfigError(f"evaluations: got {chosen!r}; give a list of different names, for example [zero_shot,linear_probe]")
    for part in parts:  # an unknown name is found now, and not after the first evaluation
        build_part("evaluation", part, f"evaluations.{part['name']}")
    outputs = [None if config.get("output") is None else str(Path(config["output"]) / str(name)) for name in names]
    return [{**config, "evaluation": part, "output": output} for part, output in zip(parts, outputs, strict=True)]


def output_of(config: Mapping[str, Any]) -> Path:
    """Return the folder of all results of a config."""
    return Path(config.get("output") or _find_model(str(config["checkpoint"]))[1] / FOLDER)


def _find_model(checkpoint: str) -> tuple[Path, Path]:
    """Return the path of a model and the directory of its evaluations, which for bundled and foreign models is under ``runs/``."""
    path = Path(weights_on_disk(checkpoint))
    if checkpoint in bundled_names() and not path.exists():
        return find_weights("bundled", checkpoint), Path("runs") / checkpoint
    if path.is_file() or is_foreign(path):
        return path, Path("runs") / path.resolve().name
    return find_checkpoint(path), path


def write_result(result: Any, output: Path, facts: Mapping[str, Any]) -> None:
    """Write the plot, ``metrics.json`` and ``environment.json`` (command, commit, versions) of a result."""
    with atomic_directory(output) as folder:
        result.draw(folder)
        content = {**result.metrics, "items": result.num_items, **facts, "details": result.details, **result.facts}
        (folder / METRICS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / ENVIRONMENT).write_text(json.dumps(describe_environment(), indent=2) + "\n", encoding="utf-8")
