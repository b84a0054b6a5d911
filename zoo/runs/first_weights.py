"""First weights of a run, and the preprocessing that belongs to them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.assembly.compatibility import refuse_other_eot
from zoo.assembly.loading import load_part
from zoo.assembly.system import System
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.recognise import describe
from zoo.interop.base.source import TIMM, read_source
from zoo.runs.run_directory import read_run_config
from zoo.runs.weight_sources import weight_sources

# Fine-tuning may change these settings: the size and crop of a picture, the silence after a sound. The others must be those of the weights.
VIEWS = {
    "image": ("image_size", "resize", "crop_fraction", "interpolation", "tiler"),
    "audio": ("pad_to", "mask", "max_seconds", "too_long"),
}


def prepare(system: System, config: Mapping[str, Any], source: Any, run_dir: Path) -> None:
    """Load the first weights and fit or load the processor; a resumed run loads its weights with its state.

    Raises:
        ConfigError: a resumed run names other first weights.
    """
    assert isinstance(system.processor, Processor)
    if config.get("resume") is not None:
        if config.get("weights") != read_run_config(run_dir).get("weights"):
            raise ConfigError("weights: a resumed run continues with its own; to start from others begin a new run, with another run_dir")
        system.use_processor(Processor.load(run_dir / "processor"))
        return
    start_from(system, weight_sources(config, system))
    if not system.processor.is_fitted:  # only a text processor is fitted; a source for a classifier may have no captions
        system.processor.fit(source.captions())


def start_from(system: System, sources: Mapping[str, str]) -> None:
    """Load trained weights strictly into parts of a system, with the preprocessing of each encoder.

    Args:
        sources: by part, in the form that ``zoo.assembly.loading.load_part`` accepts; the part "" is the whole system.

    Raises:
        WeightsError: a source that cannot be read, does not fit, or brings no tokenizer for its text encoder.
        ConfigError: the system's preprocessing differs from that of the weights.
    """
    images = None if system.processor is None else system.processor.get("image")
    for part, source in sources.items():
        key = f"weights.{part}".rstrip(".")
        try:
            load_part(system, source, part=part)
        except WeightsError as error:
            raise WeightsError(f"{key}: {error}") from error
        if not part:
            _keep_tiler(system, images)
        for modality in system.encoders:
            if part in ("", "encoders", f"encoders.{modality}"):
                _keep_preprocessing(system, modality, source, key)


def _keep_tiler(system: System, configured: Any) -> None:
    """Give the tiler of the config to the image processor that came with a whole system, unless the config names none.

    Args:
        configured: the image processor before the weights were loaded; None: there is none.
    """
    theirs = None if system.processor is None else system.processor.get("image")
    if theirs is None or configured is None or configured.tiler_config in (None, theirs.tiler_config):
        return
    assert isinstance(system.processor, Processor)
    system.processor.parts["image"] = type(theirs)(**{**theirs.settings, "tiler": configured.tiler_config})
    system.use_processor(system.processor)


def _keep_preprocessing(system: System, modality: str, source: str, key: str) -> None:
    """Compare the system's processor with that of an encoder's weights, and take the tokenizer and its settings from there.

    Raises:
        ConfigError: a setting differs that must be equal.
        WeightsError: the source has no tokenizer for a text encoder.
    """
    assert isinstance(system.processor, Processor)
    ours, theirs = system.processor[modality], _processor_of(source)
    if theirs is not None and modality in theirs.parts:
        # Another library's tokenizer brings its cleaning, truncation and padding; a config need not repeat them.
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
            ours.max_length = wanted or ours.max_length  # the user may choose shorter texts
    refuse_other_eot(ours, system.encoders[modality], modality, "system")
    if not ours.is_fitted:
        raise WeightsError(
            f"{key}: {source} brings no tokenizer for its {modality} encoder, and one trained on other captions would give its tokens "
            "other meanings; give a directory saved by zoo, or one of transformers with its tokenizer"
        )


def _processor_of(source: str) -> Processor | None:
    """Return the processor that is stored with the weights, or None."""
    if source.startswith(TIMM):
        return None
    found = read_source(source)
    try:
        return describe(found).processor()
    except (ConfigError, WeightsError):
        if found.own_config is not None:
            raise
        return None  # a model that our parts do not make, of which one part was loaded
