"""Weights from wherever they lie into a model: find them, recognise whose they are, convert, load strictly.

A *source* is a run directory, a directory saved by ``zoo.save``, one of transformers or open_clip, or with a GGUF file, a file of
tensors (zoo's, timm's, open_clip's, transformers', llama.cpp's or a paper's own names), ``bundled``, ``timm://NAME`` or
``hf://OWNER/NAME``.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from torch import Tensor, nn

from zoo.adapters import KEY as ADAPTERS
from zoo.adapters import can_be_folded, merged_tensors
from zoo.backbones import CONFIG as FOREIGN_CONFIG
from zoo.checkpoint import CONFIG_FILE, WEIGHTS_FILE, LoadReport, compare, load_strictly, read_tensors, recover
from zoo.compose import refuse_code
from zoo.convert import gguf as gguf_names
from zoo.convert import (
    open_clip,
    timm_vit,
    torchaudio_tacotron2,
    transformers_albert,
    transformers_bert,
    transformers_clip,
    transformers_dinov2,
    transformers_roberta,
    transformers_t5,
    transformers_vit,
    vig,
    whisper,
    whisper_system,
)
from zoo.data.processor import Processor, hash_files
from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.registry import find_part, packaged_directory, read_yaml
from zoo.system import System
from zoo.weights import gguf
from zoo.weights.ctranslate2 import NAME as CTRANSLATE2
from zoo.weights.ctranslate2 import is_ctranslate2, read_ctranslate2
from zoo.weights.foreign import (
    OPEN_CLIP_CONFIG,
    Description,
    describe,
    describe_file,
    is_open_clip,
    open_clip_weights,
    refuse_other_arithmetic,
)
from zoo.weights.kosmos import kosmos_readings
from zoo.weights.language import PART as LANGUAGE_PART
from zoo.weights.language import language_readings, take_tokenizer
from zoo.weights.llava import llava_readings
from zoo.weights.torchscript import is_torchscript, read_torchscript

FORMAT = 1  # of a checkpoint directory
SYSTEM_ORIGINS = (open_clip, transformers_clip, torchaudio_tacotron2, whisper_system)  # their weights are those of a whole system
ENCODER_ORIGINS = (
    timm_vit,
    vig,
    transformers_vit,
    transformers_dinov2,
    transformers_bert,
    transformers_roberta,
    transformers_albert,
    transformers_t5,
    whisper,
)  # one encoder, perhaps with a classifier
SELF_DESCRIBING = (open_clip, whisper, gguf_names, torchaudio_tacotron2)  # files that tell the model
TIMM = "timm://"
ENCODER = "encoder"  # the part of a foreign source that is left when its classifier is dropped


@dataclass(frozen=True)
class Source:
    """Tensors as their origin names them."""

    tensors: Mapping[str, Tensor]
    origin: str
    directory: Path | None = None
    config: Mapping[str, Any] | None = None  # of a checkpoint that zoo wrote
    file: Path | None = None

    @cached_property
    def description(self) -> Description:
        """What a source that zoo did not write says of itself.

        Raises:
            WeightsError, ConfigError: see ``zoo.weights.foreign``.
        """
        if self.directory is not None:
            return describe(self.directory, self.tensors)
        if self.file is None:
            raise WeightsError(f"{self.origin}: holds weights alone; name the model: zoo.create_model(NAME, weights={self.origin!r})")
        return describe_file(self.file, self.tensors)

    @property
    def describes_itself(self) -> bool:
        """Whether it is another library's and there is a config beside its weights, or its tensors tell enough."""
        if self.config is not None:
            return False
        return self.directory is not None or (self.file is not None and any(o.recognises(self.tensors) for o in SELF_DESCRIBING))

    @property
    def is_describable(self) -> bool:
        """Whether it describes itself as a model that our parts make."""
        try:
            return self.describes_itself and self.description is not None
        except (ConfigError, WeightsError):
            return False

    def processor(self) -> Processor | None:
        """The processor that goes with the weights; None where nothing is said of it."""
        if self.config is not None and self.directory is not None:
            return load_processor(self.directory, self.config)
        says_more = any(origin.recognises(self.tensors) for origin in (whisper, gguf_names))
        alone = self.file is not None and not (self.file.parent / OPEN_CLIP_CONFIG).is_file() and not says_more
        if not self.describes_itself or alone:
            return None
        parts = {m: find_part("processor", m)(**settings) for m, settings in self.description.processors().items()}
        if self.description.tokenizer is not None:
            parts["transcript" if "transcript" in parts else "text"].use(self.description.tokenizer)
        if self.description.conversation is not None:
            parts["conversation"].use(self.description.conversation)
        return Processor(parts)


def load_part(module: nn.Module, source: "str | Path | Source", *, part: str = "") -> LoadReport:
    """Load a source into a model or into one part of a system, strictly: everything fits, or nothing is loaded.

    Args:
        module: the whole model.
        part: dotted name of a part of the model (``encoders.image``, ``head``); of a source that holds a whole system the same
            part is taken, of one with a classifier the encoder. "" is the whole. For a lone encoder it says what to take of
            the source: a part of a system, or ``encoder`` to leave a classifier behind.

    Raises:
        ConfigError: the model has no such part.
        WeightsError: unreadable, of unknown origin, or not an exact fit.
    """
    target = module if not isinstance(module, System) or not part else _submodule(module, part)
    found = _read_for(target, source)
    if found.config is not None and "system" in found.config and not part and not isinstance(module, System):
        parts = [f"encoders.{modality}" for modality in found.config["system"]["encoders"]]
        raise WeightsError(f"{found.origin}: holds a whole system; name the part with weights_parts=[...]: {', '.join(parts)}, head")
    tensors = _fitting(target, found, part)
    whole = isinstance(module, System) and not part
    if compare(target, tensors).fits and (found.describes_itself if whole else found.is_describable):
        refuse_other_arithmetic(module, part, found.description, found.origin)
    report = load_strictly(target, tensors, origin=found.origin)
    if isinstance(module, System) and not part:
        _take_processor(module, found)
    elif isinstance(module, System) and part == LANGUAGE_PART:
        take_tokenizer(module, found)
    return report


def _take_processor(system: System, found: Source) -> None:
    """What a source says of preprocessing travels with its weights; what it does not say stays as it was."""
    theirs: Any = found.processor()
    if theirs is not None:
        system.processor = Processor({**getattr(system.processor, "parts", {}), **theirs.parts})


def _read_for(target: nn.Module, source: "str | Path | Source") -> Source:
    """Read a source; a backbone of timm fetches timm's weights itself, because it knows at which image size it wants them."""
    if isinstance(source, Source):
        return source
    name = str(source).removeprefix(TIMM)
    if name == str(source) or not hasattr(target, "from_timm"):
        return read_source(source)
    return Source(target.read_pretrained(name), str(source))  # type: ignore[operator]


def _submodule(system: System, part: str) -> nn.Module:
    names = [name for name, _ in system.named_modules() if name]
    if part not in names:
        raise ConfigError(f"weights: {system.name} has no part {part!r}; {name_choices(part, names)}")
    return system.get_submodule(part)


def _fitting(target: nn.Module, found: Source, part: str) -> Mapping[str, Tensor]:
    """The first reading of a source that fits the target; where none does, the one that comes nearest, for the message."""
    readings = list(_readings(target, found, part))
    fits = (tensors for tensors in readings if compare(target, tensors).fits)
    return next(fits, max(readings, key=lambda tensors: len(compare(target, tensors).matched)))


def _readings(target: nn.Module, found: Source, part: str) -> Iterator[Mapping[str, Tensor]]:
    tensors = found.tensors
    yield _below(tensors, part) or tensors
    adapters = (found.config or {}).get("system", {}).get(ADAPTERS)
    if can_be_folded(adapters):  # a target without them takes the weights that they were folded into
        yield _below(merged_tensors(tensors, adapters), part)
    if hasattr(target, "from_timm"):  # a backbone of another library reads that library's weights itself
        yield target.from_timm(tensors)  # type: ignore[operator]
        return
    if hasattr(target, "read_pretrained"):
        if found.directory is not None and is_foreign(found.directory):
            yield target.read_pretrained(found.directory)  # type: ignore[operator]
        return
    yield from language_readings(target, tensors)
    yield from llava_readings(target, tensors, part)
    yield from kosmos_readings(target, tensors, part)
    for origin in SYSTEM_ORIGINS:
        if origin.recognises(tensors):
            converted = origin.to_zoo(tensors)
            yield converted if transformers_clip.is_tower(tensors) else _below(converted, part)  # a lone tower is an encoder itself
            if not isinstance(target, System) and not part:
                yield _below(converted, "head")
    for origin in ENCODER_ORIGINS:
        if origin.recognises(tensors):
            yield _system_reading(target, origin, tensors) if isinstance(target, System) else _encoder_reading(target, origin, found, part)


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part under its own names; "" is the whole."""
    prefix = f"{part}." if part else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _system_reading(system: System, origin: ModuleType, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder and its classifier as a system of one encoder and the head ``classifier``; one that never has any, as an encoder."""
    trunk, (modality, *_) = origin.to_zoo(tensors, drop=origin.CLASSIFIER), system.encoders
    if not hasattr(origin, "classifier_to_zoo"):
        return {f"encoders.{modality}.{name}": tensor for name, tensor in trunk.items()}
    return {f"encoders.{modality}.{name}": tensor for name, tensor in trunk.items()} | {
        f"head.{name}": tensor for name, tensor in origin.classifier_to_zoo(tensors).items()
    }


def _encoder_reading(target: nn.Module, origin: ModuleType, found: Source, part: str) -> dict[str, Tensor]:
    classifier = sorted(name for name in found.tensors if name.startswith(tuple(f"{word}." for word in origin.CLASSIFIER)))
    if classifier and not part:
        raise WeightsError(
            f"{found.origin}: holds a classifier too ({', '.join(classifier[:2])}, ...), for which an encoder has no place. Load the "
            f"encoder alone with weights_parts=[{ENCODER!r}], or both into a system with the head 'classifier'. Nothing was loaded."
        )
    pooler = getattr(origin, "POOLER", ()) if getattr(target, "pooler", None) is None else ()
    return origin.to_zoo(found.tensors, drop=[*origin.CLASSIFIER, *pooler])


def read_source(source: str | Path) -> Source:
    """Find and read a source of weights.

    Raises:
        WeightsError: not there, unreadable, or a library or network that it needs is not there.
    """
    text = str(source)
    for scheme, read in ((TIMM, _read_timm), ("hf://", _read_hub)):
        if text.startswith(scheme):
            return read(text.removeprefix(scheme))
    path = gguf.find_gguf(find_weights(source))
    if path.is_file():
        return Source(_read_file(path), text, file=path)
    if is_foreign(path):
        return _read_foreign(path, text)
    directory = find_checkpoint(path)
    return Source(read_tensors(directory / WEIGHTS_FILE), text, directory, read_config(directory))


def _read_file(path: Path) -> dict[str, Tensor]:
    if is_ctranslate2(path):
        return read_ctranslate2(path)
    if gguf.is_gguf(path):
        return gguf.read_tensors(path)
    return read_torchscript(path) if is_torchscript(path) else read_tensors(path)


def _read_foreign(directory: Path, origin: str) -> Source:
    if (directory / CTRANSLATE2).is_file():
        return Source(read_ctranslate2(directory / CTRANSLATE2), origin, directory)
    tensors = _read_file(open_clip_weights(directory)) if is_open_clip(directory) else read_shards(directory)
    return Source(tensors, origin, directory)


def is_foreign(directory: Path) -> bool:
    """Whether a directory was saved by transformers or open_clip and not by us."""
    theirs = any((directory / name).is_file() for name in (FOREIGN_CONFIG, OPEN_CLIP_CONFIG, CTRANSLATE2))
    return theirs and not (directory / CONFIG_FILE).is_file()


def find_weights(weights: str | Path, name: str | None = None) -> Path:
    """Where weights lie: "bundled" or a bundled model's name is a folder of the packaged assets, anything else a path."""
    wanted = name if weights == "bundled" else str(weights)
    if wanted in bundled_names() and (weights == "bundled" or not Path(weights).exists()):
        return packaged_directory("assets") / str(wanted)
    if weights == "bundled":
        raise WeightsError(f"weights: no bundled weights for {name!r}; {name_choices(str(name), bundled_names())}")
    return Path(weights)


def bundled_names() -> list[str]:
    """Models whose weights ship with zoo."""
    return sorted(path.parent.name for path in packaged_directory("assets").glob(f"*/{CONFIG_FILE}"))


def read_shards(directory: Path) -> dict[str, Tensor]:
    """The tensors of a transformers directory: ``model.safetensors``, its shards, or ``pytorch_model.bin``.

    Raises:
        WeightsError: none of them is there, or one is damaged.
    """
    for name in (WEIGHTS_FILE, "pytorch_model.bin"):
        index = directory / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise WeightsError(f"{index}: cannot be read ({error!r}); fetch the directory again") from error
            return {key: tensor for shard in shards for key, tensor in read_tensors(directory / Path(shard).name).items()}
        if (directory / name).is_file():
            return read_tensors(directory / name)
    raise WeightsError(f"{directory}: holds a config.json but no {WEIGHTS_FILE} and no pytorch_model.bin; fetch the directory again")


def _read_timm(name: str) -> Source:
    try:
        import timm
    except ImportError as error:
        raise WeightsError("weights: timm:// needs timm; install it with: pip install 'multimodal-zoo[vision]'") from error
    return Source(_fetched(lambda: timm.create_model(name, pretrained=True).state_dict(), f"timm://{name}"), f"timm://{name}")


def _read_hub(name: str) -> Source:
    return _read_foreign(fetch_hub(name), f"hf://{name}")


def fetch_hub(name: str) -> Path:
    """The local folder of a model of the Hugging Face hub: from the cache, or fetched into it.

    Raises:
        WeightsError: no such model, or no network.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise WeightsError("weights: hf:// needs huggingface_hub; install it with: pip install 'multimodal-zoo[transformers]'") from error
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    directory = Path(_fetched(lambda: snapshot_download(name, allow_patterns=patterns), f"hf://{name}"))
    if not any(directory.glob("*.safetensors")):  # only the oldest have none; many have both, and one is enough
        directory = Path(_fetched(lambda: snapshot_download(name, allow_patterns=[*patterns, "*.bin"]), f"hf://{name}"))
    return directory


def _fetched(fetch: Callable[[], Any], origin: str) -> Any:
    """Call a library that may fetch over the network; what it raises there becomes one line for a user."""
    try:
        return fetch()
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such model, no weights for it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{origin}: cannot be fetched ({reason}); check the name and the network, or give a local file") from error


def find_checkpoint(path: Path) -> Path:
    """The saved model of a directory: itself, or ``best`` or ``last`` inside a run directory.

    Raises:
        WeightsError: there is none.
    """
    for candidate in (path, path / "best", path / "last"):
        recover(candidate)
        if (candidate / WEIGHTS_FILE).is_file() and (candidate / CONFIG_FILE).is_file():
            return candidate
    if not path.exists():
        raise WeightsError(
            f"{path}: no such directory or file; give a run directory, a saved model, or one of: {', '.join(bundled_names())}"
        )
    raise WeightsError(f"{path}: holds no model ({CONFIG_FILE} and {WEIGHTS_FILE}, there or in best/ or last/)")


def read_config(directory: Path) -> dict[str, Any]:
    """Read and check a checkpoint's ``config.yaml``; keys that name code are refused.

    Raises:
        WeightsError: unreadable, or of another format.
    """
    path = directory / CONFIG_FILE
    try:
        config = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WeightsError(f"{path}: cannot be read ({str(error).splitlines()[0]}); a checkpoint's config is plain YAML") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise WeightsError(f"{path}: format is {found!r}; this zoo reads format {FORMAT}")
    refuse_code(config)
    return config


def load_processor(directory: Path, config: Mapping[str, Any]) -> Processor | None:
    """Read the processor that travels with the weights; one that was changed after saving is refused.

    Raises:
        WeightsError: the files are not those that were saved.
    """
    expected = config.get("processor_sha256")
    if expected is None:
        return None
    if hash_files(directory) != expected:
        raise WeightsError(
            f"{directory}: processor.json or tokenizer.json is not the one that these weights were saved with "
            f"(SHA-256 {hash_files(directory)[:12]}, expected {expected[:12]}); restore it, or save the model again"
        )
    return Processor.load(directory)


def load_parts(module: nn.Module, source: str | Path | Source, parts: Sequence[str] | None) -> None:
    """Load the whole of a source, or only the named parts."""
    for part in parts if parts is not None else [""]:
        load_part(module, source, part=part)
