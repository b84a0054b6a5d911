"""Data of a run: its source, and the processed items that it trains on."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zoo.assembly.compatibility import refuse_source
from zoo.assembly.system import System
from zoo.data.augmentation import Augmentation
from zoo.data.budget_batches import BudgetBatches
from zoo.data.denoising.denoising import Denoising
from zoo.data.loader import ProcessedSplit
from zoo.data.masking import Masking
from zoo.data.mixup import Mix, refuse_mix
from zoo.data.packs import Packs
from zoo.data.planned import Planned
from zoo.data.skips import MAX_SHARE, Tolerant
from zoo.data.system_processor import CONVERSATION, is_target
from zoo.data.token_batches import TokenBatches
from zoo.errors import ConfigError
from zoo.processors.tokenizers.piece_tokenizer import PieceTokenizer
from zoo.registry import find_part
from zoo.registry.construct import build_part, check_keywords, construct
from zoo.storage.files import write_text_atomically
from zoo.training.progress import Progress
from zoo.types import Source


def complete_config(config: Mapping[str, Any], source: Any = None) -> dict[str, Any]:
    """Add the head's keywords that come from the data (``Head.from_source``), for example the class names.

    Args:
        source: if None, only facts that the source's class states are used; no data is read.

    Raises:
        ConfigError: the head's keywords and the source contradict each other.
    """
    system = config["system"]
    head = system.get("head")
    if not isinstance(head, Mapping) or "name" not in head:
        return dict(config)  # building the system says what is wrong
    part: Any = find_part("head", head["name"], "system.head.name")
    if not part.from_source:
        return dict(config)
    keywords = check_keywords(part, {k: v for k, v in head.items() if k != "name"}, "system.head", {"inputs": None})
    facts = {fact: _fact_of_class(config, fact) if source is None else getattr(source, fact) for fact in part.from_source}
    try:
        completed = part.complete(keywords, **facts)
    except ConfigError as error:
        raise ConfigError(f"system.head.{error}") from error
    return {**config, "system": {**system, "head": {"name": head["name"], **completed}}}


def _fact_of_class(config: Mapping[str, Any], fact: str) -> Any:
    """Return a fact that the source's class states; None if only a source with its data knows it."""
    source = find_part("source", config["data"]["source"].get("name"), "data.source.name")
    return next((vars(each)[fact] for each in source.__mro__ if each is not Source and fact in vars(each)), None)


def source_modalities(config: Mapping[str, Any], system: System) -> Sequence[str]:
    """Return the processors that read the source's samples: those of its modalities, then those that fill targets.

    Raises:
        ConfigError: the source lacks a modality that an encoder needs.
    """
    name = config["data"]["source"].get("name")
    given = find_part("source", name, "data.source.name").modalities
    refuse_source(name, given, system.encoders)
    parts: Mapping[str, Any] = system.processor.parts  # type: ignore[union-attr]
    targets = [name for name, part in parts.items() if is_target(part) and part.modality in given]
    return [*(m for m in given if m in parts), *targets]


DATA_FILE = "data.json"  # in a run directory: what the source, packs and token batches hold and left out, if they report it


def report_data(source: Any, data: Any, run_dir: Path, progress: Progress | None) -> None:
    """Write and display the report of the source (for example documents left out) and of packs or token batches.

    Args:
        data: the items of the trainer; only packs and batches by a budget have a report.
    """
    name = "packs" if isinstance(data, Packs) else "token_batches"
    reports = {"source": source.report(), name: {} if isinstance(data, ProcessedSplit) else data.report()}
    found = {key: report for key, report in reports.items() if report}
    if found:
        write_text_atomically(run_dir / DATA_FILE, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        if progress is not None:
            progress.say(found)


def make_source(data: Mapping[str, Any]) -> Any:
    """Build the source of a config; with ``on_bad_item`` it tolerates a share of bad items."""
    source, policy = build_part("source", data["source"], "data.source"), data.get("on_bad_item")
    if policy is None:
        return source
    return Tolerant(source, policy, MAX_SHARE if data.get("max_bad_share") is None else data["max_bad_share"])


Items = ProcessedSplit | Planned


def make_items(config: Mapping[str, Any], system: System, source: Any, progress: Progress | None) -> Items:
    """Return the processed training items of a run: augmented, mixed, masked or denoised, and grouped by tokens if the config says so."""
    data = config["data"]
    settings = data.get("augmentation")
    items = ProcessedSplit(
        source.split("train"),
        system.processor,  # type: ignore[arg-type]
        construct(Augmentation, settings, "data.augmentation") if settings else None,
        make_mixup(data.get("mix"), system, source),
        make_masking(data.get("masking"), system) or make_denoising(data.get("denoising"), system),
    )
    return grouped(items, data, int(config["seed"]), progress, per_step=int(config["training"]["batch_size"]))


def grouped(items: ProcessedSplit, data: Mapping[str, Any], seed: int, progress: Progress | None, *, per_step: int = 1) -> Items:
    """Return the items as packs or as batches with a budget of tokens or patches; without settings of either, as they are.

    Args:
        per_step: groups of a step, ``training.batch_size``.
    """
    found = grouping_of(data, items.processor)
    if found is None:
        return items
    key, kind = found
    if kind is BudgetBatches:
        return construct(kind, data[key], f"data.{key}", data=items, seed=seed, per_step=per_step)
    tell = None if progress is None else partial(progress.prepare, what="measured documents" if kind is Packs else "measured items")
    return construct(kind, data[key], f"data.{key}", data=items, seed=seed, tell=tell)


def grouping_of(data: Mapping[str, Any], processor: Any) -> tuple[str, type[Planned]] | None:
    """Return the key of ``data`` that groups the items, and the class of the groups; None if there is no such key.

    Raises:
        ConfigError: both keys are set, or a keyword is unknown.
    """
    keys = [key for key in ("packing", "token_batches") if data.get(key)]
    if len(keys) > 1:
        raise ConfigError("data.packing and data.token_batches are both set; packing is for documents and conversations; set one to null")
    if not keys:
        return None
    kind = Packs if keys == ["packing"] else BudgetBatches if has_budget(processor) else TokenBatches
    given = ("data", "seed", "per_step" if kind is BudgetBatches else "tell")
    check_keywords(kind, data[keys[0]], f"data.{keys[0]}", dict.fromkeys(given))
    return keys[0], kind


def has_budget(processor: Any) -> bool:
    """Return True if ``data.token_batches`` counts patches of pictures, whose tiler has a budget of them, not tokens of texts."""
    tiler = processor.parts["image"].tiler if "image" in processor.parts else None
    return CONVERSATION not in processor.parts and tiler is not None and tiler.max_patches is not None


def make_mixup(settings: Mapping[str, Any] | None, system: System, source: Any) -> Mix | None:
    """Build mixup or CutMix from its settings; None without settings."""
    if not settings:
        return None
    refuse_mix(source.class_names, list(system.processor.parts))  # type: ignore[union-attr]
    refuse_tiler(system, "data.mix", "mixes pictures of one size")
    return construct(Mix, settings, "data.mix", num_classes=len(source.class_names))


def refuse_tiler(system: System, key: str, does: str) -> None:
    """Raise ConfigError if the pictures of a system are cut by a tiler, with which something at ``key`` does not work."""
    part = None if system.processor is None else system.processor.get("image")
    if part is not None and part.tiler is not None:
        raise ConfigError(f"{key}: {does}, but system.processor.image.tiler cuts them by their own sizes; take one of the two away")


def make_masking(settings: Mapping[str, Any] | None, system: System) -> Masking | None:
    """Build the masking of text tokens from its settings; None without settings."""
    if settings is None:
        return None
    part: Any = system.processor["text"]  # type: ignore[index]
    return construct(Masking, settings, "data.masking", tokenizer=part.tokenizer, mask_token_id=part.mask_token_id)


def make_denoising(settings: Mapping[str, Any] | None, system: System) -> Denoising | None:
    """Build the noise of texts from its settings; None without settings.

    Raises:
        ConfigError: the system has no processor of targets, or the settings do not fit it.
    """
    if settings is None:
        return None
    return construct(Denoising, settings, "data.denoising", **facts_of_denoising(system))


def facts_of_denoising(system: System) -> dict[str, Any]:
    """Return the keywords of ``Denoising`` that come from a system's processors."""
    source: Any = system.processor.get("text")  # type: ignore[union-attr]
    target: Any = system.processor.get("target_text")  # type: ignore[union-attr]
    if source is None or target is None:
        raise ConfigError(
            "data.denoising: makes targets of texts, which needs a text encoder and the head 'seq2seq'; set data.denoising=null"
        )
    if isinstance(source.tokenizer, PieceTokenizer):
        raise ConfigError("data.denoising: MarianMT's vocabulary has no free ids for sentinels and masks; choose another tokenizer")
    return {
        "tokenizer": source.tokenizer,
        "vocab_size": source.vocab_size,
        "start_token_id": target.start_token_ids[0],
        "eot_token_id": source.eot_token_id,
        "pad_token_id": source.pad_token_id,
        "target_length": target.context_length,
    }
