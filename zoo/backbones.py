"""Models of other libraries as rows: ``timm/NAME`` and ``transformers/DIRECTORY_OR_HUB_ID``, vision backbones and language models.

They stand in no table of ``conf/``; what a table's row would say is made here when such a name is asked for. Neither torch nor
the library is imported for that. A row of transformers holds the whole parsed ``config.json``, so that what is built from it
and saved does not need the directory any more.
"""

import fnmatch
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, name_choices

FAMILIES = ("timm", "transformers")
MODALITY = "image"
CONFIG = "config.json"
CAUSAL = ("ForCausalLM", "LMHeadModel")  # ends of the names of transformers' causal language models
# Keys of a config.json that say nothing of the backbone: where it came from, its classifier's labels, in which type it was saved.
NEEDLESS = ("architectures", "dtype", "id2label", "label2id", "num_labels", "problem_type", "torch_dtype", "transformers_version")
RESAMPLINGS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
# Image processors of transformers that do no more than resize, centre crop, rescale and normalise, and whether a plain number
# as ``size`` (files of older releases) means both sides or the shortest one.
SQUARE, SHORTEST = "both sides", "shortest side"
PROCESSORS = {
    **dict.fromkeys(("Beit", "Blip", "DINOv3ViT", "DeiT", "Pvt", "Segformer", "ViT"), SQUARE),
    **dict.fromkeys(
        ("Bit", "CLIP", "ChineseCLIP", "ConvNext", "Levit", "Llava", "MobileNetV1", "MobileNetV2", "PoolFormer", "Siglip"), SHORTEST
    ),
}


def is_backbone(name: object) -> bool:
    """Whether a name is one of another library."""
    return isinstance(name, str) and name.startswith(tuple(f"{family}/" for family in FAMILIES))


def describe(name: str) -> tuple[str, dict[str, Any]]:
    """The family of a name and the constructor keywords of its part. That timm knows the model is found when it is built.

    Raises:
        ConfigError: no model behind the slash, or a directory or hub id without a usable config.
    """
    family, _, model = name.partition("/")
    if not model:
        raise ConfigError(
            f"{name}: names no model; write {'timm/resnet18' if family == 'timm' else 'transformers/DIRECTORY or /OWNER/NAME'}"
        )
    return family, {"model": model} if family == "timm" else read_directory(model)


def describe_language(name: str) -> tuple[str, dict[str, Any]]:
    """The family and the constructor keywords of a language model of transformers.

    Raises:
        ConfigError: it is timm's, or names no directory or hub id with a usable config.
    """
    family, _, source = name.partition("/")
    if family != "transformers" or not source:
        raise ConfigError(f"{name}: is no language model; write transformers/DIRECTORY or transformers/OWNER/NAME")
    return family, {"config": _needful(_parsed(source))}


def is_language(name: str) -> bool:
    """Whether a directory of transformers, or a hub id, says of itself that it is a causal language model."""
    source = name.removeprefix("transformers/")
    try:
        return source != name and any(str(word).endswith(CAUSAL) for word in _parsed(source).get("architectures") or ())
    except ConfigError:
        return False


def _parsed(source: str) -> dict[str, Any]:
    path = _find_file(source, CONFIG)
    if path is None:
        raise ConfigError(f"transformers/{source}: holds no {CONFIG}; give a directory that transformers saved")
    config = _read_json(path)
    if "model_type" not in config:
        raise ConfigError(f"{path}: has no model_type, so it is no config of transformers")
    return config


def list_timm(pattern: str) -> list[str]:
    """Names ``timm/...`` that match a shell pattern; those with a tag of weights (``timm/resnet18.a1_in1k``) where it holds a dot.

    Raises:
        ConfigError: timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"{pattern}: needs timm; install it with: pip install 'multimodal-zoo[vision]'") from error
    names = timm.list_models(include_tags=True) if "." in pattern else timm.list_models()
    return [name for name in (f"timm/{name}" for name in names) if fnmatch.fnmatchcase(name, pattern)]


def read_directory(source: str) -> dict[str, Any]:
    """Keywords of the part ``transformers`` from a directory that transformers saved, or from a hub id.

    Raises:
        ConfigError: no such directory or id, files that cannot be read, code of the model's own, or preprocessing that ours
            cannot do.
    """
    path = _find_file(source, CONFIG)
    if path is None:
        raise ConfigError(f"transformers/{source}: holds no {CONFIG}; give a directory that transformers saved")
    arguments: dict[str, Any] = {"config": _vision_part(_read_json(path), path)}
    preprocessing = read_preprocessing(source)
    if preprocessing is not None:
        arguments["image_size"], arguments["preprocessing"] = preprocessing
    names = _tensor_names(path.parent)
    if names is not None and not any("pooler." in name for name in names):
        arguments["pooler"] = False
    return arguments


def _find_file(source: str, name: str) -> Path | None:
    """A file of a local directory or of a model on the hub (from the cache, or fetched into it); None if the model has none."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        return directory / name if (directory / name).is_file() else None
    _refuse_missing_directory(source, directory)
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import RemoteEntryNotFoundError
    except ImportError as error:
        raise ConfigError(
            f"transformers/{source}: no such directory; a hub id needs huggingface_hub: pip install 'multimodal-zoo[transformers]'"
        ) from error
    try:
        cached = try_to_load_from_cache(source, name)
        if cached is not None and not isinstance(cached, str):
            return None  # the cache knows that the model has no such file
        return Path(cached or hf_hub_download(source, name))
    except RemoteEntryNotFoundError:
        return None
    except (OSError, ValueError) as error:  # offline, no such model, no access
        raise ConfigError(
            f"transformers/{source}: no such directory, and as a hub id its {name} is not in the local cache and cannot be fetched "
            f"({_first_line(error)}); check the name and the network, or give a directory"
        ) from error


def _refuse_missing_directory(source: str, directory: Path) -> None:
    """Raise ConfigError for what can only be meant as a directory, so that a misspelt path never waits for a network."""
    if directory.parent != Path() and directory.parent.is_dir():
        beside = [path.name for path in directory.parent.iterdir() if (path / CONFIG).is_file()]
        raise ConfigError(f"transformers/{source}: no such directory; {name_choices(directory.name, beside)} (in {directory.parent})")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise ConfigError(f"transformers/{source}: no such directory; give one that transformers saved, or a hub id OWNER/NAME")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({_first_line(error)}); it should be the JSON that transformers saves") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {type(found).__name__}; it should be the JSON object that transformers saves")
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _vision_part(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a config says of the backbone; of a model with a vision tower (CLIP, LLaVA) only the tower's config is kept."""
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
    """Names of the weights beside a config, where there are safetensors."""
    index, weights = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if index.is_file():
        return list(_read_json(index).get("weight_map", {}))
    if not weights.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="np") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{weights}: cannot be read ({_first_line(error)}); the file is damaged") from error


def read_preprocessing(source: str) -> tuple[int, dict[str, Any]] | None:
    """Image size and preprocessing of a source; None where it says nothing of them."""
    path = _find_file(source, "preprocessor_config.json")
    settings = _read_json(path) if path else None
    if settings is None:  # a whole processor (CLIP: of images and text) is one file
        path = _find_file(source, "processor_config.json")
        settings = _read_json(path).get("image_processor") if path else None
    return None if settings is None else image_keywords(settings, str(path))


def image_keywords(settings: Mapping[str, Any], origin: str = "preprocessor_config.json") -> tuple[int, dict[str, Any]]:
    """An image processor's settings in transformers as image size and keywords of ``zoo.data.image.ImageProcessor``.

    Conversion to RGB is always done, as there where ``do_convert_rgb`` is set; ``do_reduce_labels`` is about targets. Where an
    odd number of pixels is cut off, theirs cuts the larger half on the far side, ours as torchvision rounds.

    Args:
        settings: the parsed ``preprocessor_config.json``.
        origin: for messages.

    Raises:
        ConfigError: something that our processor cannot do, or that the file does not say.
    """
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", _kind_of(settings))
    if kind not in PROCESSORS:
        raise ConfigError(
            f"{origin}: image_processor_type {_kind_of(settings)!r} cannot be done by zoo's image processor; "
            f"{name_choices(kind, PROCESSORS, most=20)} (with ImageProcessor behind it). Leave the file out, and set the preprocessing "
            "yourself"
        )
    pads = kind == "Llava" and bool(settings.get("do_pad"))
    for key, wanted in (("do_resize", True), ("do_pad", pads), ("do_flip_channel_order", False)):
        if bool(settings.get(key, wanted)) != wanted and settings.get(key) is not None:
            raise ConfigError(f"{origin}: {key}: {settings[key]} cannot be done by zoo's image processor; allowed is {str(wanted).lower()}")
    if settings.get("resample") not in RESAMPLINGS:
        raise ConfigError(f"{origin}: resample: got {settings.get('resample')!r}; allowed are {RESAMPLINGS} (PIL's numbers)")
    mode, size, scaled = _sizes(kind, settings, origin)
    mode = "pad" if pads else mode
    keywords = {"resize": mode, "interpolation": RESAMPLINGS[settings["resample"]], "crop_fraction": _fraction(size, scaled)}
    return size, keywords | _normalisation(settings, origin)


def _kind_of(settings: Mapping[str, Any]) -> str:
    return str(settings.get("image_processor_type") or settings.get("feature_extractor_type"))


def _sizes(kind: str, settings: Mapping[str, Any], origin: str) -> tuple[str, int, int]:
    """How to resize, the size of the result, and the size before the centre is cut."""
    shape, side = _side(settings.get("size"), PROCESSORS[kind], f"{origin}: size")
    shape = SQUARE if settings.get("use_square_size") else shape  # Kosmos-2's files
    crop = _side(settings.get("crop_size"), SQUARE, f"{origin}: crop_size")[1] if settings.get("do_center_crop") else None
    if kind == "ConvNext":  # warps from 384 pixels on, and cuts its centre itself below
        return ("crop", side, int(side / settings.get("crop_pct", 224 / 256))) if side < 384 else ("squash", side, side)
    if kind == "PoolFormer" and settings.get("crop_pct") is not None:
        side = int(side / settings["crop_pct"])
    if kind == "Levit":
        side = int(256 / 224 * side)
    if crop is None and shape == SHORTEST:
        raise ConfigError(f"{origin}: do_center_crop: false leaves images that are not square; allowed is true with size.shortest_edge")
    if crop is not None and crop > side:
        raise ConfigError(f"{origin}: crop_size {crop} is larger than size {side}; zoo's image processor does not pad with zeros")
    return "crop" if shape == SHORTEST else "squash", side if crop is None else crop, side


def _side(size: Any, plain: str, key: str) -> tuple[str, int]:
    """What a size measures, and the number of pixels."""
    if isinstance(size, int):
        return plain, size
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return SHORTEST, size["shortest_edge"]
    pair = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else size
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int) and pair[0] == pair[1]:
        return SQUARE, pair[0]
    raise ConfigError(f"{key}: got {size!r}; allowed are a number, equal height and width, or shortest_edge")


def _fraction(size: int, scaled: int) -> float:
    """The ``crop_fraction`` from which ``ImageProcessor`` gets the scaled size back: ``int(size / fraction)``."""
    fraction = size / scaled
    return fraction if int(size / fraction) == scaled else math.nextafter(fraction, 0.0)


def _normalisation(settings: Mapping[str, Any], origin: str) -> dict[str, list[float]]:
    """Mean and std of values in [0, 1]; another ``rescale_factor`` than 1/255 is folded into them."""
    normalises = settings.get("do_normalize", True)
    mean, std = (settings.get("image_mean"), settings.get("image_std")) if normalises else ([0.0] * 3, [1.0] * 3)
    for key, values in (("image_mean", mean), ("image_std", std)):
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
            raise ConfigError(f"{origin}: {key}: got {values!r}; allowed are three numbers")
    factor = 255 * (settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0)
    factor = 1.0 if math.isclose(factor, 1.0) else factor
    return {"mean": [float(value) / factor for value in mean or ()], "std": [float(value) / factor for value in std or ()]}
