"""Whole image-text models: CLIP and SigLIP of transformers, open_clip and OpenAI."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.files import GENERATION, HARMLESS, IMAGES, TOKENIZERS, TRANSFORMERS, USED
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    WHOLE_CLIPS,
    image_keywords_of,
    read_library_config,
)
from zoo.interop.base.placing import take_part
from zoo.interop.base.recognise import library_config, not_described
from zoo.interop.base.source import OPEN_CLIP, Source
from zoo.interop.base.source import TRANSFORMERS as DIRECTORY
from zoo.interop.clip import naflex, open_clip, transformers_clip
from zoo.interop.clip.write import clip_parts, to_open_clip, to_transformers
from zoo.interop.text_encoders.format import GIVEN
from zoo.processors.tokenizers.library_tokenizers import CLIP_VOCABULARY, read_tokenizer
from zoo.registry import register

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize": "squash"}  # SigLIP's images, if the directory does not describe them
RESIZES = {"shortest": {"resize": "crop"}, "squash": {"resize": "squash"}, "longest": {"resize": "border", "fill": 0}}  # open_clip's: ours
CLIP_TEXT = {"tokenizer": "clip", "cleaning": "web", "eot_token_id": CLIP_VOCABULARY - 1}
CLEANINGS = {  # open_clip's: ours
    "lower": {"cleaning": "web", "lowercase": True},
    "whitespace": {"cleaning": "web", "lowercase": False},
    "canonicalize": {"cleaning": "canonical", "lowercase": True},
}
ALL_PADDING = {"pad_to": "context_length", "mask_padding": False}


@register("format")
class Clips(Format):
    """Systems of the encoders ``vit`` (of open_clip also ``timm``) and ``text`` (of Chinese-CLIP ``bert``) and the head ``clip``."""

    targets = ("transformers", "open_clip")
    takes = "systems of the encoders 'vit' and 'text' with the head 'clip'"
    model_types = WHOLE_CLIPS
    files = {
        **TRANSFORMERS,
        **TOKENIZERS,
        **IMAGES,
        **GENERATION,
        OPEN_CLIP_CONFIG: USED,
        **dict.fromkeys(OPEN_CLIP_WEIGHTS, USED),
        "*.json": HARMLESS,  # NAME.json of an export: the same model_cfg for open_clip.add_model_config
    }

    def recognises(self, source: Source) -> float:
        """Go by the config of either library, else by the names of the tensors."""
        if source.library == OPEN_CLIP or source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if open_clip.recognises(source.keys) or open_clip.refusal(source.keys) or _is_whole(source) else NO

    def describe(self, source: Source) -> Description:
        """Return the whole system; a file of open_clip or OpenAI tells it by shapes."""
        if source.library == OPEN_CLIP and source.directory is not None:
            return describe_open_clip(source, source.directory / OPEN_CLIP_CONFIG, source.name)
        if source.file is not None and (open_clip.recognises(source.keys) or open_clip.refusal(source.keys)):
            return describe_open_clip(source, source.file.parent / OPEN_CLIP_CONFIG, source.file.stem)
        if source.directory is None or source.library != DIRECTORY:
            raise not_described(source)
        return describe_transformers(source, source.directory, library_config(source, self))

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part."""
        origin = open_clip if open_clip.recognises(source.keys) else transformers_clip
        return take_part(origin.to_zoo(source.tensors), source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return the files of transformers or open_clip of an image-text system."""
        parts = clip_parts(model)
        if parts is None:
            return None
        return to_open_clip(parts, directory) if target == "open_clip" else to_transformers(parts)


def _is_whole(source: Source) -> bool:
    return transformers_clip.recognises(source.keys) and not transformers_clip.is_tower(source.keys)


def describe_transformers(source: Source, directory: Path, config: Mapping[str, Any]) -> Description:
    """Describe a directory of transformers."""
    kind = config["model_type"]
    system = transformers_clip.system(config, list(source.keys))
    image = system["encoders"]["image"]
    defaults = {"siglip": HALF, naflex.KIND: {**HALF, "interpolation": "bilinear", "tiler": naflex.DEFAULT_TILER}}
    image["preprocessing"] = image_keywords_of(directory) or dict(defaults.get(kind, {}))
    found = read_tokenizer(directory, model_type=kind)
    text = dict(found.settings) if found is not None else {**GIVEN, **_text_defaults(kind, system["encoders"]["text"])}
    system = {"name": source.name, **system, "processor": {"image": {}, "text": text}}
    return Description({"system": system}, None if found is None else found.tokenizer)


def _text_defaults(kind: str, encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the padding of ready token ids, for a directory without tokenizer."""
    if kind in transformers_clip.SIGLIPS:
        return {"eot_token_id": 1, "pad_token_id": 1, **ALL_PADDING}
    if encoder["name"] == "bert":  # its padding is masked
        return {"eot_token_id": encoder["vocab_size"] - 1, "pad_token_id": 0}
    end = encoder.get("eot_token_id", encoder["vocab_size"] - 1)
    return {"eot_token_id": end, "pad_token_id": end}


def describe_open_clip(source: Source, path: Path, name: str) -> Description:
    """Describe weights of open_clip or OpenAI by the shapes of the tensors, and by open_clip's config if there is one.

    Args:
        source: the weights.
        path: of the config, which need not exist.
        name: for the system; of a file it also tells OpenAI's activation.
    """
    whole = read_library_config(path) if path.is_file() else {}
    model = whole.get("model_cfg") or {}
    openai = open_clip.is_openai(source.keys)
    certain = bool({"quick_gelu", "vision_cfg"} & set(model)) or openai
    quick = model.get("quick_gelu", openai or (source.file is not None and "quickgelu" in name.lower()))
    if not open_clip.recognises(source.keys):
        raise _refusal(source, path)
    system = open_clip.system(source.outline, {**model, "quick_gelu": quick})
    system["encoders"]["image"]["preprocessing"] = _open_clip_preprocessing(whole.get("preprocess_cfg") or {}, path)
    text, tokenizer = _open_clip_text(path.parent, model.get("text_cfg") or {}, system["encoders"]["text"])
    system = {"name": name, **system, "processor": {"image": {}, "text": text}}
    return Description({"system": system}, tokenizer, certain, tells_processing=path.is_file())


def _refusal(source: Source, path: Path) -> ConfigError:
    """Return the error for a model of open_clip that is no CLIP of our parts."""
    why = open_clip.refusal(source.keys) or "zoo knows the CLIPs of open_clip with a Vision Transformer or a model of timm as image tower"
    return ConfigError(f"{path if path.is_file() else source.origin}: cannot be converted: {why}")


def _open_clip_preprocessing(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("mean", "std"):
        if config.get(key) is not None:
            values = config[key]
            found[key] = [float(value) for value in (values if isinstance(values, list | tuple) else [values] * 3)]
    mode = config.get("resize_mode") or "shortest"
    if mode not in RESIZES:
        raise ConfigError(f"{path}: preprocess_cfg.resize_mode: got {mode!r}; allowed is {' or '.join(RESIZES)}")
    bilinear = config.get("interpolation") == "bilinear"  # open_clip uses bicubic for every other word
    return {**found, **RESIZES[mode], "interpolation": "bilinear" if bilinear else "bicubic"}


def _open_clip_text(directory: Path, config: Mapping[str, Any], encoder: Mapping[str, Any]) -> tuple[dict[str, Any], Tokenizer | None]:
    """Return the settings of the text processor, and the tokenizer of transformers if the config asks for one instead of OpenAI's."""
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
