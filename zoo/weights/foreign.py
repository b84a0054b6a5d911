"""Models of transformers, open_clip and OpenAI as configs of ours: what ``zoo.load`` builds before it converts the weights."""

import inspect
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from zoo.backbones import CONFIG as FOREIGN_CONFIG
from zoo.backbones import read_preprocessing
from zoo.convert import open_clip, torchaudio_tacotron2, transformers_clip, transformers_dinov2, transformers_vit, whisper
from zoo.data.conversation_tokenizer import GivenTokenizer
from zoo.data.tokenizers import CLIP_VOCABULARY, read_tokenizer
from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.registry import find_part
from zoo.system import System
from zoo.weights.gguf import is_gguf
from zoo.weights.kosmos import KOSMOS, describe_kosmos, refuse_other_latents
from zoo.weights.language import LANGUAGE, describe_gguf, describe_language, language_config, refuse_other_language
from zoo.weights.llava import LLAVA, describe_llava, refuse_other_layer
from zoo.weights.text import GIVEN, TEXT, describe_text
from zoo.weights.whisper import describe_whisper, refuse_other_heads

VISION: dict[str, ModuleType] = {  # by model_type
    "vit": transformers_vit,
    "dinov2": transformers_dinov2,
    "dinov2_with_registers": transformers_dinov2,
    "clip_vision_model": transformers_clip,
    "siglip_vision_model": transformers_clip,
}
WHOLE: dict[str, ModuleType] = {"clip": transformers_clip, "siglip": transformers_clip}
TALKING = {LLAVA: describe_llava, KOSMOS: describe_kosmos}  # language models that see
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (  # in the order in which open_clip looks for them
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize": "squash"}  # SigLIP's images, where nothing is said of them
RESIZES = {"shortest": "crop", "squash": "squash"}  # open_clip's: ours
CLIP_TEXT = {"tokenizer": "clip", "cleaning": "web", "eot_token_id": CLIP_VOCABULARY - 1}
CLEANINGS = {  # open_clip's: ours
    "lower": {"cleaning": "web", "lowercase": True},
    "whitespace": {"cleaning": "web", "lowercase": False},
    "canonicalize": {"cleaning": "canonical", "lowercase": True},
}
ALL_PADDING = {"pad_to": "context_length", "mask_padding": False}
SIZES = {  # by modality: what a processor must know of its encoder; the first tells which it is
    "text": ("vocab_size", "context_length"),
    "audio": ("num_mels", "context_length"),
    "image": ("image_size",),
}
UNSEEN = ("num_heads", "activation", "causal")  # keywords of encoders that change what weights compute, but none of their shapes
UNSEEN_IN_SYSTEMS = (*UNSEEN, "eps", "pool", "eot_token_id")  # an encoder alone may well be pooled in another way

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Description:
    """What a foreign source says of itself.

    Attributes:
        config: the content of the ``config.yaml`` that the same model has here: an encoder, or a system.
        tokenizer: that lies beside it.
        certain: whether it says with which activation it was trained; bare weights do not.
        left_out: what of it no part of ours makes yet, in words; empty where it is taken whole.
        conversation: the tokenizer of a language model.
    """

    config: dict[str, Any]
    tokenizer: Tokenizer | None = None
    certain: bool = True
    left_out: str = ""
    conversation: GivenTokenizer | None = None

    def processors(self) -> dict[str, dict[str, Any]]:
        """The whole settings of the processor of each modality, of which the source says something."""
        encoders = self.config["system"]["encoders"] if "system" in self.config else {None: self.config["encoder"]}
        given = self.config.get("system", self.config).get("processor") or {}
        found = {}
        for modality, encoder in encoders.items():
            modality = modality or next((m for m, size in SIZES.items() if size[0] in encoder), "image")
            if modality == "image" and not encoder.get("preprocessing"):
                continue
            own = {**{key: encoder[key] for key in SIZES[modality]}, **encoder.get("preprocessing", {})}
            found[modality] = {**own, **(given.get(modality) or {})}
        if "conversation" in given:
            language = self.config["system"]["head"]["language"]
            found["conversation"] = {**{key: language[key] for key in ("vocab_size", "context_length")}, **given["conversation"]}
        if "transcript" in given:
            head = self.config["system"]["head"]
            found["transcript"] = {**{key: head[key] for key in ("vocab_size", "context_length")}, **given["transcript"]}
        return found


def describe(directory: Path, tensors: Mapping[str, Tensor]) -> Description:
    """A directory that transformers or open_clip saved.

    Raises:
        WeightsError: its config or its tokenizer cannot be read.
        ConfigError: an architecture or preprocessing that we do not have.
    """
    if is_open_clip(directory):
        return _describe_open_clip(directory / OPEN_CLIP_CONFIG, tensors)
    path = directory / FOREIGN_CONFIG
    if whisper.recognises(tensors):
        return Description(*describe_whisper(tensors, directory))
    config = _read_config(path)
    if "architecture" in config:
        raise ConfigError(f"{path}: a model of timm; use zoo.create_model('timm/{config['architecture']}', weights={str(directory)!r})")
    kind, keys = config.get("model_type"), list(tensors)
    if kind in VISION:
        return Description(_describe_vision(directory, config, keys))
    if kind in TEXT:
        content, tokenizer, left_out = describe_text(directory, config, keys)
        return Description(content, tokenizer, left_out=left_out)
    if kind in WHOLE:
        return _describe_whole(directory, config, keys)
    if kind in LANGUAGE:
        system, given = describe_language(directory, config, keys)
        return Description({"system": system}, conversation=given)
    if kind in TALKING:
        system, given = TALKING[kind](directory, config, keys, _preprocessing(directory))
        return Description({"system": system}, conversation=given)
    known = [*VISION, *TEXT, *WHOLE, *LANGUAGE, *TALKING]
    raise ConfigError(
        f"{path}: model_type {kind!r} cannot be converted to parts of ours; {name_choices(str(kind), known)}. As they are, any vision "
        f"model can be used as the encoder, and any causal language model as the language model transformers/{directory}"
    )


def is_open_clip(directory: Path) -> bool:
    """Whether a directory is open_clip's; of one that transformers can read too, transformers' files are taken."""
    if not (directory / OPEN_CLIP_CONFIG).is_file():
        return False
    path = directory / FOREIGN_CONFIG
    return not path.is_file() or _read_config(path).get("model_type") not in WHOLE


def open_clip_weights(directory: Path) -> Path:
    """The file of weights in open_clip's directory.

    Raises:
        WeightsError: there is none.
    """
    for name in OPEN_CLIP_WEIGHTS:
        if (directory / name).is_file():
            return directory / name
    raise WeightsError(f"{directory}: holds {OPEN_CLIP_CONFIG} but no weights ({', '.join(OPEN_CLIP_WEIGHTS[:3])}, ...); fetch it again")


def describe_file(path: Path, tensors: Mapping[str, Tensor]) -> Description:
    """A file alone: GGUF, a Whisper, or a CLIP of OpenAI or open_clip, with the open_clip_config.json beside it.

    Raises:
        WeightsError: weights that do not tell which model they are of.
        ConfigError: something that our parts do not have.
    """
    if is_gguf(path):
        system, given = describe_gguf(path, tensors)
        return Description({"system": system}, conversation=given)
    if whisper.recognises(tensors):
        return Description(*describe_whisper(tensors, path))
    if torchaudio_tacotron2.recognises(tensors):
        return Description({"system": torchaudio_tacotron2.system_config(tensors)})
    if not open_clip.recognises(tensors):
        beside = path.parent / FOREIGN_CONFIG
        hint = f"give the directory {path.parent}" if beside.is_file() else f"name the model: zoo.create_model(NAME, weights={str(path)!r})"
        raise WeightsError(f"{path}: weights that do not say which model they are of (only whole CLIPs of OpenAI and open_clip do); {hint}")
    return _describe_open_clip(path.parent / OPEN_CLIP_CONFIG, tensors, name=path.stem)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not {"architecture", "model_type", "model_cfg"} & set(config):
            raise KeyError("model_type")
    except (OSError, ValueError, KeyError) as error:
        owner = "open_clip" if path.name == OPEN_CLIP_CONFIG else "transformers"
        raise WeightsError(f"{path}: not a config of {owner} ({error!r}); fetch the directory again") from error
    return config


def _preprocessing(directory: Path) -> dict[str, Any]:
    found = read_preprocessing(str(directory))
    return {} if found is None else {"image_size": found[0], **found[1]}


def _describe_vision(directory: Path, config: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    encoder = {"name": "vit", **VISION[config["model_type"]].arguments(config, keys), "preprocessing": _preprocessing(directory)}
    classifier = any(key.startswith("classifier.") for key in keys)
    return {"system": _classifier(directory, config, encoder)} if classifier else {"encoder": encoder}


def _classifier(directory: Path, config: Mapping[str, Any], encoder: dict[str, Any]) -> dict[str, Any]:
    labels = config.get("id2label") or {}
    names = [str(name) for _, name in sorted(labels.items(), key=lambda pair: int(pair[0]))]
    head = {"name": "classifier", "num_classes": len(names) or config.get("num_labels", 2), "class_names": names or None}
    return {"name": directory.resolve().name, "encoders": {"image": encoder}, "head": head, "processor": {"image": {}}}


def _read_optional(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _describe_whole(directory: Path, config: Mapping[str, Any], keys: list[str]) -> Description:
    kind = config["model_type"]
    system = WHOLE[kind].system(config, keys)
    system["encoders"]["image"]["preprocessing"] = _preprocessing(directory) or (dict(HALF) if kind == "siglip" else {})
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


def _describe_open_clip(path: Path, tensors: Mapping[str, Tensor], name: str = "") -> Description:
    """From open_clip's config where there is one, and from the shapes of the weights."""
    whole = _read_config(path) if path.is_file() else {}
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


def refuse_other_arithmetic(module: nn.Module, part: str, description: Description, origin: str) -> None:
    """Raise ConfigError where an encoder would compute something else with these weights than the model they come from.

    Where they do not tell their activation, the log says which one they get.
    """
    theirs = description.config
    language = theirs["system"]["head"].get("language") if "system" in theirs else None
    key, ours = language_config(module, part)
    if language is not None and ours is not None:
        refuse_other_language(ours, language, key, origin)
    head = theirs["system"]["head"] if "system" in theirs else {}
    refuse_other_layer(module, part, head, origin)
    refuse_other_heads(module, part, head, origin)
    refuse_other_latents(module, part, head, origin)
    encoders = theirs["system"]["encoders"] if "system" in theirs else {None: theirs["encoder"]}
    words = UNSEEN_IN_SYSTEMS if isinstance(module, System) and not part else UNSEEN
    for modality, config in encoders.items():
        key, ours = _encoder_config(module, part, modality)
        if ours is None or ours.get("name") != config["name"]:
            continue
        if not description.certain:
            _say_activation(origin, key, ours)
        defaults = {word: p.default for word, p in inspect.signature(find_part("encoder", ours["name"])).parameters.items()}
        for word in words:
            known = word in config and (word != "activation" or description.certain)
            if known and not _same(word, {**defaults, **ours}, config):
                raise ConfigError(
                    f"{key}.{word}: {ours.get(word, defaults[word])!r}, but {origin} was trained with {config[word]!r}, which no "
                    f"shape shows; set {key}.{word} to it, or let zoo.load build the model. Nothing was loaded."
                )


def _encoder_config(module: nn.Module, part: str, modality: str | None) -> tuple[str, Mapping[str, Any] | None]:
    """The key and the config of our encoder that a source's encoder of this modality goes into; None where there is none."""
    if not isinstance(module, System):
        fits = modality in (None, getattr(module, "modality", None))
        return "encoder", getattr(module, "config", {}).get("encoder") if fits else None
    for name, config in module.config.get("encoders", {}).items():
        if part in ("", "encoders", f"encoders.{name}") and modality in (None, name):
            return f"system.encoders.{name}", config
    return "system", None


def _same(word: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether a keyword means the same: the largest id of a text is its end symbol where that is the last of the vocabulary."""
    if word == "eps":
        return math.isclose(ours[word], theirs[word], rel_tol=1e-3)
    if word == "eot_token_id" and "eot" not in (ours["pool"], theirs["pool"]):
        return True
    if word in ("pool", "eot_token_id") and {ours["pool"], theirs["pool"]} == {"eot", "argmax"}:
        end = ours if ours["pool"] == "eot" else theirs
        return end["eot_token_id"] == theirs["vocab_size"] - 1
    return ours[word] == theirs[word]


def _say_activation(origin: str, key: str, ours: Mapping[str, Any]) -> None:
    log.warning(
        "%s does not tell the activation that its weights were trained with; %s.activation=%s is used. Of OpenAI's weights and of "
        'those whose name says so it is quick_gelu, else gelu; write {"model_cfg": {"quick_gelu": true}} (or false) into %s beside it',
        *(origin, key, ours.get("activation", "gelu"), OPEN_CLIP_CONFIG),
    )
