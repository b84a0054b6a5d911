"""Models of ours as others' files: a transformers directory, or weights under timm's or a paper's names."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from zoo.adapters import without_adapters
from zoo.backbones import CONFIG as FOREIGN_CONFIG
from zoo.build import build_part, save
from zoo.checkpoint import WEIGHTS_FILE, atomic_directory, write_tensors
from zoo.convert import timm_vit, transformers_clip, transformers_dinov2, transformers_vit, vig
from zoo.data.image import INTERPOLATIONS, ImageProcessor
from zoo.errors import ConfigError, name_choices
from zoo.exports.clip import CLIP_FORMATS, is_clip, write_clip
from zoo.exports.kosmos import is_kosmos, write_kosmos
from zoo.exports.language import is_language, write_language
from zoo.exports.llava import is_llava, write_llava
from zoo.exports.speech import FORMAT as TORCHAUDIO
from zoo.exports.speech import write_tacotron2
from zoo.exports.text import is_text, write_text
from zoo.exports.whisper import FORMAT as OPENAI_WHISPER
from zoo.exports.whisper import is_whisper, write_whisper
from zoo.registry import find_part
from zoo.system import System

OURS = "zoo"


@dataclass(frozen=True)
class Parts:
    """What is exported: an image encoder with its whole keywords, and perhaps a classifier."""

    encoder: nn.Module
    family: str
    arguments: Mapping[str, Any]
    head: nn.Module | None
    processor: ImageProcessor


def export(model: nn.Module, directory: str | Path, format: str = "transformers") -> Path:
    """Write a model so that another library reads it; ``zoo.load`` or ``weights=`` read it back.

    Args:
        model: an image encoder (``vit``, ``vig``), a system of one with the head ``classifier``, an image-text system with the
            head ``clip`` ("transformers" and "open_clip", see ``zoo.exports.clip``), a language model ("transformers": GPT-2, LLaMA,
            Mistral; with the tokenizer where it has one), one that sees through a ``vit`` ("transformers": LLaVA, Kosmos-2), or a text
            encoder (``bert``, ``albert``, ``t5``), alone or in a system with the head ``bert`` ("transformers": BERT, RoBERTa, ALBERT, T5;
            with the tokenizer where it has one), or a system of encoder and head ``whisper`` ("transformers", "openai-whisper").
        directory: replaced as a whole when everything is written.
        format: "transformers" (config.json, model.safetensors, preprocessor_config.json: ViT, DINOv2 with and without registers, the
            vision towers of CLIP and SigLIP, ViTForImageClassification), "timm" (model.safetensors with the names of its
            ``VisionTransformer``), "vig" (model.safetensors with the names of the published ``.pth`` files) or "open_clip"
            (open_clip_config.json, open_clip_model.safetensors), "torchaudio" (Tacotron 2, see ``zoo.exports.speech``),
            "openai-whisper" (``model.pt``, see ``zoo.exports.whisper``) or "zoo" (what ``zoo.save`` writes, of any model). In all of
            them adapters are folded into the weights that they stand beside.

    Raises:
        ConfigError: no such format, or it has no such architecture.
    """
    if format not in (known := [*FORMATS, *CLIP_FORMATS, TORCHAUDIO, OPENAI_WHISPER, OURS]):
        raise ConfigError(f"format: there is no {format!r}; {name_choices(format, known)}")
    model = without_adapters(model)
    if format == OURS:
        return save(model, directory)
    if format == TORCHAUDIO:
        return write_tacotron2(model, Path(directory))
    if format == OPENAI_WHISPER or (format == "transformers" and is_whisper(model)):
        return write_whisper(model, Path(directory), format)
    if format in CLIP_FORMATS and is_clip(model):
        return write_clip(cast(System, model), Path(directory), format, preprocessor)
    if format == "transformers" and is_kosmos(model):
        return write_kosmos(cast(System, model), Path(directory), preprocessor)
    if format == "transformers" and is_llava(model):
        return write_llava(cast(System, model), Path(directory), preprocessor)
    if format == "transformers" and is_language(model):
        return write_language(model, Path(directory))
    if format == "transformers" and is_text(model):
        return write_text(model, Path(directory))
    if format not in FORMATS:
        raise ConfigError(f"format: {format!r} has whole image-text systems only, and this is none; choose from {', '.join(FORMATS)}")
    files, tensors = FORMATS[format](parts_of(model))
    with atomic_directory(Path(directory)) as folder:
        write_tensors(tensors, folder / WEIGHTS_FILE)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return Path(directory)


def parts_of(model: nn.Module) -> Parts:
    """Take an image encoder, or a classifier of images, apart.

    Raises:
        ConfigError: it is neither.
    """
    system = model if isinstance(model, System) else None
    encoder: Any = model if system is None else dict(system.encoders).get("image")
    config = getattr(model, "config", {}).get("encoder") if system is None else system.config["encoders"].get("image")
    alone = system is None or (len(system.encoders) == 1 and hasattr(system.head, "linear"))
    if config is None or not alone or encoder.modality != "image":
        raise ConfigError(f"export: {type(model).__name__} is no image encoder and no classifier of images; only these can be exported")
    keywords = {key: value for key, value in config.items() if key != "name"}
    defaults = {key: p.default for key, p in inspect.signature(find_part("encoder", config["name"])).parameters.items()}
    settings = {"image_size": encoder.image_size, **getattr(encoder, "preprocessing", {})}
    saved = getattr(model, "processor", None)
    processor = saved["image"] if saved is not None else build_part("processor", {"name": "image", **settings}, "processor.image")
    return Parts(encoder, config["name"], {**defaults, **keywords}, None if system is None else cast(nn.Module, system.head), processor)


def _refuse_family(parts: Parts, family: str, format: str) -> None:
    if parts.family != family:
        raise ConfigError(f"format: {format!r} has no {parts.family!r}, only {family!r}; choose another, or save it with zoo.save")


def _to_timm(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    _refuse_family(parts, "vit", "timm")
    head = {} if parts.head is None else timm_vit.classifier_from_zoo(_linear_only(parts.head, "timm"))
    registers = bool(parts.arguments["num_registers"])  # timm's carry no position, nor does the class token before them
    return {}, timm_vit.from_zoo(parts.encoder.state_dict(), no_embed_class=registers) | head


def _to_vig(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    _refuse_family(parts, "vig", "vig")
    head = {} if parts.head is None else vig.classifier_from_zoo(parts.head.state_dict())
    return {}, vig.from_zoo(parts.encoder.state_dict()) | head


def _to_transformers(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    _refuse_family(parts, "vit", "transformers")
    state = parts.encoder.state_dict()
    files = {"preprocessor_config.json": preprocessor(parts.processor)}
    if parts.head is not None:
        weights = _linear_only(parts.head, "transformers")
        names: Any = parts.head.class_names or [f"LABEL_{i}" for i in range(len(weights["linear.bias"]))]
        labels = {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {name: i for i, name in enumerate(names)}}
        config = {**transformers_vit.config(parts.arguments), **labels, "architectures": ["ViTForImageClassification"]}
        tensors = transformers_vit.from_zoo(state, prefix="vit.") | transformers_vit.classifier_from_zoo(weights)
        return {**files, FOREIGN_CONFIG: config}, tensors
    reasons = []
    for origin in (transformers_vit, transformers_dinov2, transformers_clip):
        try:
            config = origin.config(parts.arguments)
        except ConfigError as error:
            reasons.append(str(error))
        else:
            return {**files, FOREIGN_CONFIG: config}, origin.from_zoo(state)
    raise ConfigError("format: 'transformers' has no model of this form: " + "; ".join(reasons))


def _linear_only(head: nn.Module, format: str) -> dict[str, Tensor]:
    state = head.state_dict()
    if set(state) != {"linear.weight", "linear.bias"}:
        raise ConfigError(f"format: {format!r} has plain linear classifiers only; this head also has {', '.join(sorted(state))}")
    return state


def preprocessor(processor: ImageProcessor) -> dict[str, Any]:
    """``preprocessor_config.json``: with CLIP's processor where the centre is cut, LLaVA's where images are padded, else with ViT's.

    Raises:
        ConfigError: a part is cut of images that are squashed or padded, which none does.
    """
    size = processor.image_size
    shared = {
        "resample": int(INTERPOLATIONS[processor.interpolation]),  # PIL's number
        **{"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255},
        **{"image_mean": list(processor.mean), "image_std": list(processor.std)},
    }
    if processor.resize == "squash" and processor.crop_fraction == 1:
        return {**shared, "image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}}
    if processor.resize == "pad" and processor.crop_fraction == 1:
        square = {"height": size, "width": size}
        cut = {"size": {"shortest_edge": size}, "crop_size": square, "do_center_crop": True}
        return {**shared, **cut, "image_processor_type": "LlavaImageProcessor", "do_pad": True}
    if processor.resize != "crop":
        raise ConfigError(
            f"format: 'transformers' has no processor that resizes by {processor.resize!r} and cuts {processor.crop_fraction}"
        )
    scaled, square = {"shortest_edge": int(size / processor.crop_fraction)}, {"height": size, "width": size}
    return {**shared, "image_processor_type": "CLIPImageProcessor", "size": scaled, "crop_size": square, "do_center_crop": True}


FORMATS: dict[str, Callable[[Parts], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    "transformers": _to_transformers,
    "timm": _to_timm,
    "vig": _to_vig,
}
