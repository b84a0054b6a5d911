"""Describe a CLIP or SigLIP of transformers, open_clip or OpenAI as a config of ours."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.format import Description
from zoo.interop.base.library_files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, image_keywords_of, read_library_config
from zoo.interop.clip import open_clip, transformers_clip
from zoo.interop.text_encoders.describe import GIVEN
from zoo.processors.tokenizers.library_tokenizers import CLIP_VOCABULARY, read_tokenizer
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG

WHOLE: dict[str, ModuleType] = {"clip": transformers_clip, "siglip": transformers_clip}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize": "squash"}  # SigLIP's images, where nothing is said of them
RESIZES = {"shortest": "crop", "squash": "squash"}  # open_clip's: ours
CLIP_TEXT = {"tokenizer": "clip", "cleaning": "web", "eot_token_id": CLIP_VOCABULARY - 1}
CLEANINGS = {  # open_clip's: ours
    "lower": {"cleaning": "web", "lowercase": True},
    "whitespace": {"cleaning": "web", "lowercase": False},
    "canonicalize": {"cleaning": "canonical", "lowercase": True},
}
ALL_PADDING = {"pad_to": "context_length", "mask_padding": False}


def is_open_clip(directory: Path) -> bool:
    """Whether a directory is open_clip's; of one that transformers can read too, transformers' files are taken."""
    if not (directory / OPEN_CLIP_CONFIG).is_file():
        return False
    path = directory / FOREIGN_CONFIG
    return not path.is_file() or read_library_config(path).get("model_type") not in WHOLE


def open_clip_weights(directory: Path) -> Path:
    """The file of weights in open_clip's directory.

    Raises:
        WeightsError: there is none.
    """
    for name in OPEN_CLIP_WEIGHTS:
        if (directory / name).is_file():
            return directory / name
    raise WeightsError(f"{directory}: holds {OPEN_CLIP_CONFIG} but no weights ({', '.join(OPEN_CLIP_WEIGHTS[:3])}, ...); fetch it again")


def describe_transformers_clip(directory: Path, config: Mapping[str, Any], keys: list[str]) -> Description:
    kind = config["model_type"]
    system = WHOLE[kind].system(config, keys)
    system["encoders"]["image"]["preprocessing"] = image_keywords_of(directory) or (dict(HALF) if kind == "siglip" else {})
    found = read_tokenizer(directory, model_type=kind)
    text = dict(found.settings) if found is not None else {**GIVEN, **_text_defaults(kind, system["encoders"]["text"])}
    system = {"name": directory.resolve().name, **system, "processor": {"image": {}, "text": text}}
    return Description({"system": system}, None if found is None else found.tokenizer)


def _text_defaults(kind: str, encoder: Mapping[str, Any]) -> dict[str, Any]:
    """How ready ids are padded where no tokenizer says so."""
    if kind == "siglip":
        return {"eot_token_id": 1, "pad_token_id": 1, **ALL_PADDING}
    end = encoder.get("eot_token_id", encoder["vocab_size"] - 1)
    return {"eot_token_id": end, "pad_token_id": end}


def describe_open_clip(path: Path, tensors: Mapping[str, Tensor], name: str = "") -> Description:
    """From open_clip's config where there is one, and from the shapes of the weights."""
    whole = read_library_config(path) if path.is_file() else {}
    model = whole.get("model_cfg") or {}
    certain = bool({"quick_gelu", "vision_cfg"} & set(model)) or open_clip.is_openai(tensors)
    quick = model.get("quick_gelu", open_clip.is_openai(tensors) or "quickgelu" in name.lower())
    if not open_clip.recognises(tensors):
        raise ConfigError(
            f"{path}: a model of open_clip that is no CLIP with a Vision Transformer of its own, which is all that ours reads"
        )
    system = open_clip.system(tensors, {**model, "quick_gelu": quick})
    system["encoders"]["image"]["preprocessing"] = _open_clip_preprocessing(whole.get("preprocess_cfg") or {}, path)
    text, tokenizer = _open_clip_text(path.parent, model.get("text_cfg") or {}, system["encoders"]["text"])
    system = {"name": name or path.parent.resolve().name, **system, "processor": {"image": {}, "text": text}}
    return Description({"system": system}, tokenizer, certain)


def _open_clip_preprocessing(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("mean", "std"):
        if config.get(key) is not None:
            values = config[key]
            found[key] = [float(value) for value in (values if isinstance(values, list | tuple) else [values] * 3)]
    mode = config.get("resize_mode") or "shortest"
    if mode not in RESIZES:
        raise ConfigError(f"{path}: preprocess_cfg.resize_mode: got {mode!r}; allowed is {' or '.join(RESIZES)}")
    bilinear = config.get("interpolation") == "bilinear"  # whatever else it says, open_clip takes bicubic
    return {**found, "resize": RESIZES[mode], "interpolation": "bilinear" if bilinear else "bicubic"}


def _open_clip_text(directory: Path, config: Mapping[str, Any], encoder: Mapping[str, Any]) -> tuple[dict[str, Any], Tokenizer | None]:
    """Settings of the text processor: OpenAI's tokenizer, or that of transformers which the config asks for."""
    sees_all = {} if encoder["causal"] else ALL_PADDING
    words = config.get("tokenizer_kwargs") or {}
    clean = words.get("clean", "whitespace" if config.get("hf_tokenizer_name") else "lower")
    if set(words) - {"clean"} or clean not in CLEANINGS:
        raise ConfigError(f"text_cfg.tokenizer_kwargs: got {dict(words)}; allowed is clean: {', '.join(CLEANINGS)}")
    if config.get("hf_tokenizer_name"):
        found = read_tokenizer(directory)
        settings = GIVEN if found is None else found.settings
        return {**settings, **CLEANINGS[clean], **sees_all}, None if found is None else found.tokenizer
    if encoder["vocab_size"] != CLIP_VOCABULARY:
        return {**GIVEN, "eot_token_id": encoder["eot_token_id"], **sees_all}, None
    return {**CLIP_TEXT, **CLEANINGS[clean], **sees_all}, None
