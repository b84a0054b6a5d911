"""Whole jobs from a composed config: train, evaluate. The command line calls these, and so may anyone."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import set_seed
from torch import nn

from zoo.alignment import add_reference, make_objective
from zoo.build import add_adapters, build_part, build_system, construct, load, refuse_other_eot, save
from zoo.checkpoint import atomic_directory, write_text_atomically
from zoo.data.augment import Augmentation
from zoo.data.loader import ProcessedSplit
from zoo.data.masking import Masking
from zoo.data.mix import Mix, refuse_mix
from zoo.data.packs import Packs
from zoo.data.processor import Processor
from zoo.data.skips import MAX_SHARE, Tolerant
from zoo.errors import ConfigError, WeightsError
from zoo.inspection import check, complete_config, weight_sources
from zoo.registry import part_names, read_yaml
from zoo.system import System
from zoo.training.log import SKIPPED_FILE
from zoo.training.loop import Progress, Trainer
from zoo.training.settings import TrainingSettings
from zoo.training.teacher import Teacher
from zoo.weights.loading import TIMM, bundled_names, find_checkpoint, find_weights, is_foreign, load_part, read_source

RUN_CONFIG = "config.yaml"
DATA_FILE = "data.json"  # of a run directory: what the source and the packs hold and left out, where they tell
# How a picture is seen, and how much silence is shown behind a sound, may change in fine-tuning; their numbers may not.
VIEWS = {"image": ("image_size", "resize", "crop_fraction", "interpolation"), "audio": ("pad_to", "mask", "max_seconds", "too_long")}
PACKAGES = (
    "torch torchvision transformers accelerate timm tokenizers numpy safetensors hydra-core multimodal-zoo".split()  # whose versions matter
)


@dataclass
class TrainingResult:
    """What a finished run leaves.

    Attributes:
        skipped: ``items`` that were asked for, ``skipped`` by reason and ``examples``, where bad items are skipped; the bad entries
            that the source left out as ``left_out``.
    """

    run_dir: Path
    metrics: dict[str, float]
    model: Path
    skipped: dict[str, Any] = field(default_factory=lambda: {"left_out": []})


def train(config: Mapping[str, Any], *, progress: Progress | None = None) -> TrainingResult:
    """Train a composed config; with ``resume`` set, the run's own config is used and the run goes on.

    Raises:
        ConfigError: parts that do not fit (found before any weight is made), or a run directory that is in use.
        DataError: unusable data, or a loss that is not finite.
        Interrupted: the user stopped the run; it can be resumed.
    """
    settings = construct(TrainingSettings, config["training"], "training")
    check(config)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    resuming = config.get("resume") is not None
    run_dir = Path(config["resume"] if resuming else config["run_dir"] or default_run_dir(config))
    source = _make_source(config["data"])
    config = complete_config(config, source)
    set_seed(int(config["seed"]))
    system = build_system(config["system"])
    _prepare(system, config, source, run_dir)
    add_adapters(system, settings.adapters, "training.adapters")
    system.objective = objective = make_objective(config, system, settings.batch_size)
    trainer = _make_trainer(config, settings, system, source, run_dir, progress)
    if trainer.accelerator.is_main_process and not resuming:
        _open_run_dir(run_dir, config, system)
    _tell_of_data(source, trainer, run_dir, progress)
    if objective is not None:
        add_reference(trainer, objective, config, run_dir)
    trainer.accelerator.wait_for_everyone()
    set_seed(int(config["seed"]) + trainer.accelerator.process_index)
    metrics = trainer.run(resume=resuming)
    skipped = read_yaml(run_dir / SKIPPED_FILE) if (run_dir / SKIPPED_FILE).exists() else {}
    return TrainingResult(run_dir, metrics, find_checkpoint(run_dir), {**skipped, "left_out": list(getattr(source, "skipped", ()))})


def _tell_of_data(source: Any, trainer: Trainer, run_dir: Path, progress: Progress | None) -> None:
    """Write and show what became of the source's documents, where it counts them, and how they were packed."""
    parts: dict[str, Any] = {"source": source, "packs": trainer.data}
    found = {key: part.report() for key, part in parts.items() if hasattr(part, "report")}
    if found and trainer.accelerator.is_main_process:
        write_text_atomically(run_dir / DATA_FILE, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        if progress is not None:
            progress.say(found)


def _make_source(data: Mapping[str, Any]) -> Any:
    """The source of a config, with its tolerance of bad items where one is given."""
    source, policy = build_part("source", data["source"], "data.source"), data.get("on_bad_item")
    if policy is None:
        return source
    return Tolerant(source, policy, MAX_SHARE if data.get("max_bad_share") is None else data["max_bad_share"])


def _prepare(system: System, config: Mapping[str, Any], source: Any, run_dir: Path) -> None:
    """First weights and the processor; a resumed run has its weights in its state."""
    assert isinstance(system.processor, Processor)
    if config.get("resume") is not None:
        if config.get("weights") != read_run_config(run_dir).get("weights"):
            raise ConfigError("weights: a resumed run goes on with its own; to start from others begin a new run, with another run_dir")
        system.processor = Processor.load(run_dir / "processor")
        return
    start_from(system, weight_sources(config, system))
    if not system.processor.is_fitted:  # only texts ask for captions; a source for a classifier may have none
        system.processor.fit(source.captions())


def start_from(system: System, sources: Mapping[str, str]) -> None:
    """Load trained weights into parts of a system, each strictly; an encoder's preprocessing comes with its weights.

    Args:
        sources: by part, as ``zoo.weights.loading.load_part`` takes them; the part "" is the whole.

    Raises:
        WeightsError: a source that cannot be read, does not fit, or brings no tokenizer for its text encoder.
        ConfigError: a system's preprocessing that is not that of the weights.
    """
    for part, source in sources.items():
        key = f"weights.{part}".rstrip(".")
        try:
            load_part(system, source, part=part)
        except WeightsError as error:
            raise WeightsError(f"{key}: {error}") from error
        for modality in system.encoders:
            if part in ("", "encoders", f"encoders.{modality}"):
                _keep_preprocessing(system, modality, source, key)


def _keep_preprocessing(system: System, modality: str, source: str, key: str) -> None:
    """Hold the system's processor against that of an encoder's weights; a tokenizer is taken from there, with all that goes with it."""
    assert isinstance(system.processor, Processor)
    ours, theirs = system.processor[modality], _processor_of(source)
    if theirs is not None and modality in theirs.parts:
        # How another library's texts are cleaned, cut and padded goes with its tokenizer; nobody has to repeat it in a config.
        named = theirs[modality].settings.get("tokenizer", "trained") != "trained"
        free = theirs[modality].settings if named else VIEWS.get(modality, ())
        for name, value in theirs[modality].settings.items():
            if name not in free and ours.settings[name] != value:
                raise ConfigError(
                    f"system.processor.{modality}.{name}: {ours.settings[name]}, but {key}={source} was trained with {value}; they "
                    f"must be equal: set system.processor.{modality}.{name} to it"
                )
        if hasattr(ours, "fit"):
            wanted = ours.settings.get("max_length")
            system.processor.parts[modality] = ours = theirs[modality]
            ours.max_length = wanted or ours.max_length  # shorter texts are the user's choice
    refuse_other_eot(ours, system.encoders[modality], modality, "system")
    if hasattr(ours, "fit") and not ours.is_fitted:
        raise WeightsError(
            f"{key}: {source} brings no tokenizer for its {modality} encoder, and one trained on other captions would give its tokens "
            "other meanings; give a directory saved by zoo, or one of transformers with its tokenizer"
        )


def _processor_of(source: str) -> Processor | None:
    """The processor beside weights; None where they come alone or from elsewhere."""
    if source.startswith(TIMM):
        return None
    found = read_source(source)
    return found.processor() if found.config is not None or found.is_describable else None


def _make_trainer(
    config: Mapping[str, Any], settings: TrainingSettings, system: System, source: Any, run_dir: Path, progress: Progress | None
) -> Trainer:
    data = config["data"]
    words = data.get("augmentation")
    augmentation = construct(Augmentation, words, "data.augmentation") if words else None
    evaluation = _make_evaluation(config.get("evaluation"), system)
    if hasattr(evaluation, "cache"):
        evaluation.cache = False  # these weights change with every step and are never met again
    if evaluation is not None and settings.evaluate_every:  # what cannot be is found now, not at the first evaluation
        source.split(data["validation_split"])
        evaluation.check(system, source)
    settings = replace(settings, monitor=settings.monitor or getattr(evaluation, "monitor", None))

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert evaluation is not None
        return evaluation(model, source, data["validation_split"]).metrics

    items = ProcessedSplit(
        source.split("train"),
        system.processor,  # type: ignore[arg-type]
        augmentation,
        _make_mix(data.get("mix"), system, source),
        _make_masking(data.get("masking"), system),
    )
    return Trainer(
        system,
        _packed(items, data.get("packing"), int(config["seed"]), progress),
        settings,
        run_dir=run_dir,
        seed=int(config["seed"]),
        save_model=save,
        evaluate=evaluate if evaluation is not None else None,
        progress=progress,
        num_workers=data["num_workers"],
        **_teacher(config, system),
    )


def _packed(items: ProcessedSplit, words: Mapping[str, Any] | None, seed: int, progress: Progress | None) -> ProcessedSplit | Packs:
    """The items as packs of so many tokens, where a config asks for it."""
    if not words:
        return items
    tell = None if progress is None else partial(progress.prepare, what="measured documents")
    return construct(Packs, words, "data.packing", data=items, seed=seed, tell=tell)


def _teacher(config: Mapping[str, Any], system: System) -> dict[str, Teacher]:
    """What completes each batch where a config names a teacher; its tokenizer must be the student's."""
    if not config.get("teacher") or config.get("objective"):  # an objective asks it for something else
        return {}
    model: Any = load(config["teacher"])
    (modality,) = system.encoders
    theirs = getattr(model, "processor", None)
    ours = system.processor[modality]  # type: ignore[index]
    if theirs is not None and modality in theirs.parts and hasattr(ours, "tokenizer"):
        texts = [part.tokenizer.to_str() for part in (ours, theirs[modality])]
        if texts[0] != texts[1]:
            raise ConfigError(
                f"teacher: {config['teacher']} has another tokenizer than system.encoders.{modality}; start from weights with its own"
            )
    return {"complete": Teacher(model, modality)}


def _make_mix(words: Mapping[str, Any] | None, system: System, source: Any) -> Mix | None:
    if not words:
        return None
    refuse_mix(source.class_names, list(system.processor.parts))  # type: ignore[union-attr]
    return construct(Mix, words, "data.mix", num_classes=len(source.class_names))


def _make_masking(words: Mapping[str, Any] | None, system: System) -> Masking | None:
    """What hides tokens of the training texts; ``zoo.inspection.check`` has seen that the head learns from it."""
    if words is None:
        return None
    part: Any = system.processor["text"]  # type: ignore[index]
    return construct(Masking, words, "data.masking", tokenizer=part.tokenizer, mask_token_id=part.mask_token_id)


def _make_evaluation(words: Mapping[str, Any] | None, model: Any) -> Any:
    """The evaluation that a config names, or the one that the model's head names; None where neither does.

    One that asks another model, by its name in ``judge``, is given the model.
    """
    own = getattr(getattr(model, "head", None), "evaluation", None)
    words = words or ({"name": own} if own else None)
    evaluation = build_part("evaluation", words, "evaluation") if words else None
    if evaluation is not None and isinstance(name := getattr(evaluation, "judge", None), str):
        evaluation.judge = load(name)
    return evaluation


def default_run_dir(config: Mapping[str, Any]) -> Path:
    """``runs/DATE_TIME_SYSTEM_SOURCE``; under torchrun every process must be given the same ``run_dir``."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("run_dir: null; with several processes give one that all share, run_dir=PATH")
    return Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config['system']['name']}_{config['data']['source']['name']}"


def _open_run_dir(run_dir: Path, config: Mapping[str, Any], system: System) -> None:
    """Make the run's folder with its config, environment and processor; a folder that holds a run is refused."""
    if (run_dir / RUN_CONFIG).exists():
        raise ConfigError(f"run_dir: {run_dir} holds a run already; go on with it (zoo train resume={run_dir}) or choose another")
    run_dir.mkdir(parents=True, exist_ok=True)
    with atomic_directory(run_dir / "processor") as folder:
        system.processor.save(folder)  # type: ignore[union-attr]
    write_text_atomically(run_dir / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")
    text = yaml.safe_dump({**config, "run_dir": str(run_dir), "resume": None}, sort_keys=False, allow_unicode=True)
    write_text_atomically(run_dir / RUN_CONFIG, text)


def read_run_config(run_dir: str | Path) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        ConfigError: the folder holds no run.
    """
    path = Path(run_dir) / RUN_CONFIG
    if not path.is_file():
        raise ConfigError(f"resume: {run_dir} holds no run ({RUN_CONFIG} is missing); give the run_dir of an earlier zoo train")
    config = read_yaml(path)
    if not isinstance(config, dict) or "training" not in config:
        raise ConfigError(f"resume: {path} is not the config of a run; give the run_dir of an earlier zoo train")
    return config


def describe_environment() -> dict[str, Any]:
    """What a run's numbers may depend on: versions, git state, machine, command."""

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "command": sys.argv,
        "git_commit": git("rev-parse", "HEAD"),
        "git_changes": (git("status", "--porcelain") or "").splitlines(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def evaluate(config: Mapping[str, Any], *, advance: Any = lambda items: None) -> tuple[Any, Path]:
    """Evaluate a checkpoint; data and evaluation are the run's own where the config has none.

    Returns:
        The evaluation's result and the folder that holds ``metrics.json`` and its picture.

    Raises:
        ConfigError: no data and no run to take it from.
        WeightsError: the checkpoint cannot be loaded.
    """
    directory, place = _find_model(str(config["checkpoint"]))
    run = next((folder for folder in (place, directory.parent) if (folder / "state").is_dir()), None)
    own = read_run_config(run) if run is not None else {}
    data, words = config.get("data") or own.get("data"), config.get("evaluation") or own.get("evaluation")
    if not data:
        raise ConfigError(
            f"data: {config['checkpoint']} is no run directory, so it has no data of its own; choose one, for example data=digits"
        )
    source = _make_source(data)
    model = load(directory, device=config.get("device"))
    evaluation = _make_evaluation(words, model)
    if evaluation is None:
        known = ", ".join(part_names("evaluation"))
        raise ConfigError(f"evaluation: {directory} has none of its own; choose one with evaluation=NAME, known: {known}")
    name = type(evaluation).__module__.rpartition(".")[2]
    result = evaluation(model, source, data["test_split"], advance=advance)
    output = Path(config.get("output") or place / "evaluation" / name)
    _write_result(result, output, {"evaluation": name, "model": str(directory), "split": data["test_split"], "data": dict(data)})
    return result, output


def evaluate_each(config: Mapping[str, Any], *, advance: Any = lambda items: None) -> Iterator[tuple[Any, Path]]:
    """``evaluate`` for each name (or mapping with ``name``) in ``evaluations``, or for the one evaluation where there are none.

    Raises:
        ConfigError: both ``evaluation`` and ``evaluations`` are set, or no list of names; and what ``evaluate`` raises.
    """
    chosen = config.get("evaluations")
    if chosen is None:
        yield evaluate(config, advance=advance)
        return
    if config.get("evaluation") is not None:
        raise ConfigError("evaluations: evaluation is set too; give one of the two")
    parts = [{"name": part} if isinstance(part, str) else part for part in chosen] if isinstance(chosen, list) else []
    names = [part.get("name") if isinstance(part, Mapping) else None for part in parts]
    if not names or None in names or len(set(names)) < len(names):
        raise ConfigError(f"evaluations: got {chosen!r}; give a list of different names, for example [zero_shot,linear_probe]")
    for part in parts:  # a name that is not there is found before the first hour of work, not after it
        build_part("evaluation", part, f"evaluations.{part['name']}")
    for name, part in zip(names, parts, strict=True):
        output = None if config.get("output") is None else str(Path(config["output"]) / str(name))
        yield evaluate({**config, "evaluation": part, "output": output}, advance=advance)


def _find_model(checkpoint: str) -> tuple[Path, Path]:
    """Where a model lies, and where its evaluations go: beside it, and those of a bundled one or another library's under ``runs/``."""
    path = Path(checkpoint)
    if checkpoint in bundled_names() and not path.exists():
        return find_weights("bundled", checkpoint), Path("runs") / checkpoint
    if path.is_file() or is_foreign(path):
        return path, Path("runs") / path.resolve().name
    return find_checkpoint(path), path


def _write_result(result: Any, output: Path, facts: Mapping[str, Any]) -> None:
    with atomic_directory(output) as folder:
        result.draw(folder)
        content = {**result.metrics, "items": result.num_items, **facts, "details": result.details, **result.facts}
        (folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
