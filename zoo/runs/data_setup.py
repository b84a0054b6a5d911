"""Source, split, packs and processors of a run."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zoo.assembly.system import System
from zoo.data.loader import ProcessedSplit
from zoo.data.masking import Masking
from zoo.data.mixup import Mix, refuse_mix
from zoo.data.packs import Packs
from zoo.data.skips import MAX_SHARE, Tolerant
from zoo.data.system_processor import is_target
from zoo.errors import ConfigError
from zoo.registry import find_part
from zoo.registry.construct import build_part, check_keywords, construct
from zoo.storage.files import write_text_atomically
from zoo.training.loop import Progress, Trainer


def complete_config(config: Mapping[str, Any], source: Any = None) -> dict[str, Any]:
    """Fill in what the head takes from the data (``Head.from_source``), by the head's own ``complete``.

    Args:
        source: None asks the source's class, which may know without reading anything.

    Raises:
        ConfigError: the head's keywords and the source say different things.
    """
    system = config["system"]
    head = system.get("head")
    if not isinstance(head, Mapping) or "name" not in head:
        return dict(config)  # building the system says what is wrong
    part: Any = find_part("head", head["name"], "system.head.name")
    if not part.from_source:
        return dict(config)
    keywords = check_keywords(part, {k: v for k, v in head.items() if k != "name"}, "system.head", {"inputs": None})
    asked = find_part("source", config["data"]["source"].get("name"), "data.source.name") if source is None else source
    facts = {fact: getattr(asked, fact, None) for fact in part.from_source}
    if source is None:  # a class has the empty default of its base where only its instances know
        facts = {fact: value or None for fact, value in facts.items()}
    try:
        completed = part.complete(keywords, **facts)
    except ConfigError as error:
        raise ConfigError(f"system.head.{error}") from error
    return {**config, "system": {**system, "head": {"name": head["name"], **completed}}}


def source_modalities(config: Mapping[str, Any], system: System) -> Sequence[str]:
    """What the source gives and the system uses; refuse a source that lacks something."""
    name = config["data"]["source"].get("name")
    given = find_part("source", name, "data.source.name").modalities
    for modality in system.encoders:
        if modality not in given:
            raise ConfigError(
                f"data.source: {name!r} gives {', '.join(given)}; system.encoders.{modality} needs {modality}: choose another "
                f"source (data=...) or an encoder of {' or '.join(given)}"
            )
    parts: Mapping[str, Any] = system.processor.parts  # type: ignore[union-attr]
    learnt = [name for name, part in parts.items() if is_target(part) and part.modality in given]
    return [*(m for m in given if m in parts), *learnt]


DATA_FILE = "data.json"  # of a run directory: what the source and the packs hold and left out, where they tell


def report_data(source: Any, trainer: Trainer, run_dir: Path, progress: Progress | None) -> None:
    """Write and show what became of the source's documents, where it counts them, and how they were packed."""
    reports = {"source": source.report(), "packs": trainer.data.report() if isinstance(trainer.data, Packs) else {}}
    found = {key: report for key, report in reports.items() if report}
    if found and trainer.accelerator.is_main_process:
        write_text_atomically(run_dir / DATA_FILE, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        if progress is not None:
            progress.say(found)


def make_source(data: Mapping[str, Any]) -> Any:
    """The source of a config, with its tolerance of bad items where one is given."""
    source, policy = build_part("source", data["source"], "data.source"), data.get("on_bad_item")
    if policy is None:
        return source
    return Tolerant(source, policy, MAX_SHARE if data.get("max_bad_share") is None else data["max_bad_share"])


def pack(items: ProcessedSplit, words: Mapping[str, Any] | None, seed: int, progress: Progress | None) -> ProcessedSplit | Packs:
    """The items as packs of so many tokens, where a config asks for it."""
    if not words:
        return items
    tell = None if progress is None else partial(progress.prepare, what="measured documents")
    return construct(Packs, words, "data.packing", data=items, seed=seed, tell=tell)


def make_mixup(words: Mapping[str, Any] | None, system: System, source: Any) -> Mix | None:
    if not words:
        return None
    refuse_mix(source.class_names, list(system.processor.parts))  # type: ignore[union-attr]
    return construct(Mix, words, "data.mix", num_classes=len(source.class_names))


def make_masking(words: Mapping[str, Any] | None, system: System) -> Masking | None:
    """What hides tokens of the training texts; ``zoo.runs.check.check`` has seen that the head learns from it."""
    if words is None:
        return None
    part: Any = system.processor["text"]  # type: ignore[index]
    return construct(Masking, words, "data.masking", tokenizer=part.tokenizer, mask_token_id=part.mask_token_id)
