"""Models of other libraries as rows: ``timm/NAME``, ``timm/hf_hub:OWNER/NAME`` and ``transformers/DIRECTORY_OR_HUB_ID``.

No table of ``conf/`` lists them; their rows are made here when such a name is used. Neither torch nor the library is imported for
that. A row of transformers holds the whole parsed ``config.json``, so that a model that is built from it and saved does not need
the directory any more.
"""

import fnmatch
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, first_line
from zoo.interop.backbones import sequences
from zoo.interop.base.image_preprocessing import read_preprocessing
from zoo.registry import Row
from zoo.storage.hub import CONFIG, find_file, read_json_object

MODALITY = "image"
MODALITIES = {family: modality for modality, family in sequences.FAMILIES.items()}
HUB = re.compile(r"hf[-_]hub:")  # timm's prefix of a model of the hub
TIMM_PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
CAUSAL = ("ForCausalLM", "LMHeadModel")  # ends of the names of transformers' causal language models
# Keys of a config.json that do not describe the backbone: its origin, labels of its classifier, the type that it was saved in.
NEEDLESS = ("architectures", "dtype", "id2label", "label2id", "num_labels", "problem_type", "torch_dtype", "transformers_version")


def find_row(name: str, kinds: Collection[str]) -> Row | None:
    """Return the row of a name of another library, as an encoder or a language model; None if ``kinds`` allow neither.

    Raises:
        ConfigError: see ``describe`` and ``describe_language``.
    """
    if "language" in kinds and ("encoder" not in kinds or is_language(name)):
        family, arguments = describe_language(name)
        return Row(name, "language", family, "text", arguments)
    if "encoder" in kinds:
        family, arguments = describe(name)
        return Row(name, "encoder", family, MODALITIES.get(family, MODALITY), arguments)
    return None


def list_names(pattern: str, kind: str | None = None, modality: str | None = None) -> list[str]:
    """Return the names of timm's models that match a pattern; they are image encoders."""
    return sorted(list_timm(pattern)) if kind in (None, "encoder") and modality in (None, MODALITY) else []


def describe(name: str) -> tuple[str, dict[str, Any]]:
    """Return the family of a name and the constructor keywords of its part; timm checks the name when the model is built.

    Raises:
        ConfigError: no model behind the slash, or a directory or hub id without a usable config.
    """
    family, _, model = name.partition("/")
    if not model:
        raise ConfigError(
            f"{name}: names no model; write {'timm/resnet18' if family == 'timm' else 'transformers/DIRECTORY or /OWNER/NAME'}"
        )
    if family != "timm":
        return describe_directory(model)
    return family, _timm_of_hub(model) if HUB.match(model) else {"model": model}


def describe_directory(source: str) -> tuple[str, dict[str, Any]]:
    """Return the family and the constructor keywords of the encoder of a directory of transformers, or of a hub id.

    Raises:
        ConfigError: see ``read_directory``.
    """
    path = find_file(source, CONFIG)
    config = {} if path is None else read_json_object(path)
    modality = sequences.modality_of(source, config)
    if path is None or modality == MODALITY or "model_type" not in config:
        return "transformers", read_directory(source)
    if modality == "text":
        return sequences.FAMILIES[modality], sequences.text_arguments(source, _needful(config), _tensor_names(path.parent))
    if isinstance(config.get("audio_config"), dict):  # of a model with a text tower (CLAP), only the audio tower is kept
        kept = {"model_type": config["model_type"], "audio_config": _needful(config["audio_config"])}
        config = kept | {key: config[key] for key in ("auto_map",) if key in config}
    return sequences.FAMILIES[modality], sequences.audio_arguments(source, _needful(config))


def _timm_of_hub(model: str) -> dict[str, Any]:
    """Return the keywords of the part ``timm`` for ``hf_hub:OWNER/NAME``: its architecture and preprocessing, as timm pushed them.

    Raises:
        ConfigError: it is no model of timm, or one with arguments that the part does not take.
    """
    name = HUB.sub("", model)
    path = find_file(name, CONFIG)
    config = {} if path is None else read_json_object(path)
    if not isinstance(config.get("architecture"), str):
        raise ConfigError(f"timm/{model}: its {CONFIG} names no architecture of timm; try transformers/{name}")
    arguments = dict(config.get("model_args") or {})
    side = arguments.pop("img_size", None)
    if arguments:
        raise ConfigError(f"timm/{model}: model_args: {arguments!r} are not taken; allowed is img_size")
    found = dict(config.get("pretrained_cfg") or {})
    size = found.get("input_size") or [3, side, side]
    side = side if side is not None or len(set(size[1:])) > 1 else size[-1]
    kept = {key: found[key] for key in TIMM_PREPROCESSING if key in found}
    return {"model": config["architecture"], **({} if side is None else {"image_size": side}), "pretrained_cfg": kept}


def describe_language(name: str) -> tuple[str, dict[str, Any]]:
    """Return the family and the constructor keywords of a language model of transformers.

    Raises:
        ConfigError: it is timm's, or names no directory or hub id with a usable config.
    """
    family, _, source = name.partition("/")
    if family != "transformers" or not source:
        raise ConfigError(f"{name}: is no language model; write transformers/DIRECTORY or transformers/OWNER/NAME")
    return family, {"config": _needful(_parsed(source))}


def is_language(name: str) -> bool:
    """Return True for a directory of transformers, or a hub id, whose config names a causal language model."""
    source = name.removeprefix("transformers/")
    try:
        return source != name and any(str(word).endswith(CAUSAL) for word in _parsed(source).get("architectures") or ())
    except ConfigError:
        return False


def _parsed(source: str) -> dict[str, Any]:
    path = find_file(source, CONFIG)
    if path is None:
        raise ConfigError(f"transformers/{source}: holds no {CONFIG}; give a directory that transformers saved")
    config = read_json_object(path)
    if "model_type" not in config:
        raise ConfigError(f"{path}: has no model_type, so it is no config of transformers")
    return config


def list_timm(pattern: str) -> list[str]:
    """Return the names ``timm/...`` that match a shell pattern; a pattern with a dot also lists the tags (``timm/resnet18.a1_in1k``).

    Raises:
        ConfigError: timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"{pattern}: needs timm; install it with: zoo install vision") from error
    names = timm.list_models(include_tags=True) if "." in pattern else timm.list_models()
    return [name for name in (f"timm/{name}" for name in names) if fnmatch.fnmatchcase(name, pattern)]


def read_directory(source: str) -> dict[str, Any]:
    """Return the keywords of the part ``transformers`` for a directory that transformers saved, or for a hub id.

    Raises:
        ConfigError: no such directory or id, files that cannot be read, code of the model's own, or preprocessing that ours
            cannot do.
    """
    path = find_file(source, CONFIG)
    if path is None:
        raise ConfigError(f"transformers/{source}: holds no {CONFIG}; give a directory that transformers saved")
    arguments: dict[str, Any] = {"config": _vision_part(read_json_object(path), path)}
    preprocessing = read_preprocessing(source)
    if preprocessing is not None:
        arguments["image_size"], arguments["preprocessing"] = preprocessing
    names = _tensor_names(path.parent)
    if names is not None and not any("pooler." in name for name in names):
        arguments["pooler"] = False
    return arguments


def _vision_part(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the backbone's part of a config; of a model with a vision tower (CLIP, LLaVA) only the tower's config is kept."""
    if "model_type" not in config:
        hint = f"; it is timm's: use timm/{config['architecture']}" if "architecture" in config else ""
        raise ConfigError(f"{path}: has no model_type, so it is no config of transformers{hint}")
    if isinstance(config.get("vision_config"), dict):
        kept = {"model_type": config["model_type"], "vision_config": _needful(config["vision_config"])}
        return kept | {key: config[key] for key in ("auto_map",) if key in config}
    return _needful(config)


def _needful(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NEEDLESS and not key.startswith("_")}


def _tensor_names(directory: Path) -> list[str] | None:
    """Return the names of the weights beside a config; None if they are not safetensors."""
    index, weights = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if index.is_file():
        return list(read_json_object(index).get("weight_map", {}))
    if not weights.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="np") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{weights}: cannot be read ({first_line(error)}); the file is damaged") from error
