"""First weights of a run, and the preprocessing that comes with them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.assembly.compatibility import refuse_other_eot
from zoo.assembly.loading import load_part
from zoo.assembly.system import System
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.interop.base.source import TIMM, read_source
from zoo.runs.run_directory import read_run_config


def weight_sources(config: Mapping[str, Any], system: System) -> dict[str, str]:
    """Where a run's first weights come from, by part: ``{"encoders.image": "runs/clip"}``; the part "" is the whole system.

    Raises:
        ConfigError: a part that the system does not have, or something that is no path.
    """
    sources = dict(_flattened(config.get("weights") or {}, ""))
    parts = dict(system.named_modules())
    for part, source in sources.items():
        key = f"weights.{part}".rstrip(".")
        if part not in parts:
            as_deep = [name for name in parts if name and name.count(".") <= part.count(".")]
            raise ConfigError(f"{key}: the system has no part {part!r}; {name_choices(part, as_deep)}")
        if not isinstance(source, str):
            raise ConfigError(f"{key}: got {source!r}; give a run directory, a saved model or a file of weights")
    return sources


def _flattened(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """``{"encoders": {"image": X}}`` as ``("encoders.image", X)``; None is left out."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _flattened(value, f"{key}.{name}".strip("."))
    elif node is not None:
        yield key, node


# How a picture is seen, and how much silence is shown behind a sound, may change in fine-tuning; their numbers may not.
VIEWS = {"image": ("image_size", "resize", "crop_fraction", "interpolation"), "audio": ("pad_to", "mask", "max_seconds", "too_long")}


def prepare(system: System, config: Mapping[str, Any], source: Any, run_dir: Path) -> None:
    """First weights and the processor; a resumed run has its weights in its state."""
    assert isinstance(system.processor, Processor)
    if config.get("resume") is not None:
        if config.get("weights") != read_run_config(run_dir).get("weights"):
            raise ConfigError("weights: a resumed run goes on with its own; to start from others begin a new run, with another run_dir")
        system.use_processor(Processor.load(run_dir / "processor"))
        return
    start_from(system, weight_sources(config, system))
    if not system.processor.is_fitted:  # only texts ask for captions; a source for a classifier may have none
        system.processor.fit(source.captions())


def start_from(system: System, sources: Mapping[str, str]) -> None:
    """Load trained weights into parts of a system, each strictly; an encoder's preprocessing comes with its weights.

    Args:
        sources: by part, as ``zoo.assembly.loading.load_part`` takes them; the part "" is the whole.

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
        if ours.tokenizer is not None or not ours.is_fitted:
            wanted = ours.settings.get("max_length")
            system.processor.parts[modality] = ours = theirs[modality]
            ours.max_length = wanted or ours.max_length  # shorter texts are the user's choice
    refuse_other_eot(ours, system.encoders[modality], modality, "system")
    if not ours.is_fitted:
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
