"""Models of timm and transformers that zoo hosts as they are, and that no other format converts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.backbones import rows
from zoo.interop.backbones.sequence_directory import describe_sequence
from zoo.interop.backbones.timm_classifier import describe_classifier, read_classifier
from zoo.interop.backbones.timm_directory import TIMM, describe_timm
from zoo.interop.base.files import CHAT, CLASSES, GENERATION, HARMLESS, IMAGES, TOKENIZERS, TRANSFORMERS
from zoo.interop.base.format import MAYBE, NO, Description, Format
from zoo.interop.base.recognise import library_config
from zoo.interop.base.source import TRANSFORMERS as DIRECTORY
from zoo.interop.base.source import Source
from zoo.layers.hosted_transformers import import_transformers
from zoo.registry import register
from zoo.types import is_system

WHOLE = ("text_config", "audio_config")  # keys of models of several modalities, of which an image encoder alone is only a part
HEAD = "its head is left out; the encoder gives tokens and pooled vectors"


@register("format")
class Backbones(Format):
    """Directories of transformers and timm whose model type no other format knows: encoders that run in their own library.

    DINOv3, AIMv2, ConvNeXt, Swin and every other vision backbone are among them. A part that hosts such a model reads its weights itself
    (``Part.read_native``); parts of ours cannot take them.
    """

    files = {**TRANSFORMERS, **TOKENIZERS, **IMAGES, **CHAT, **GENERATION, **CLASSES}
    files |= dict.fromkeys(("alphabet.json", "language_model/*"), HARMLESS)  # of wav2vec 2.0's beam search, which an encoder has not

    def recognises(self, source: Source) -> float:
        """Return a little certainty for every directory with a ``config.json`` that names a model."""
        named = source.library == DIRECTORY and (bool(source.model_type) or TIMM in _config(source))
        return MAYBE if named else NO

    def describe(self, source: Source) -> Description:
        """Return an encoder of images, texts or sounds, or a classifier of timm; another model raises the error that names the way out."""
        config = _config(source)
        if (timm := describe_timm(source) or describe_classifier(source)) is not None:
            return timm
        if _is_backbone(config):
            family, arguments = rows.describe(f"transformers/{source.directory}")
            heads = [str(name) for name in config.get("architectures") or () if "For" in str(name)]
            return Description({"encoder": {"name": family, **arguments}}, left_out=tuple(f"of {name}, {HEAD}" for name in heads))
        if (sequence := describe_sequence(source, config)) is not None:
            return sequence
        library_config(source, self)
        raise AssertionError("this format describes no other model type")

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Return the tensors of a described classifier, or all under their own names, which strict loading then refuses with its report."""
        described = is_system(into) or part.startswith(("encoders.", "head"))
        return read_classifier(source, part) if described and describe_classifier(source) is not None else source.tensors


def _is_backbone(config: Mapping[str, Any]) -> bool:
    """Return True if transformers has a model of images alone for a config."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or any(key in config for key in WHOLE) or "auto_map" in config:
        return False
    library = import_transformers()
    if kind not in library.CONFIG_MAPPING:
        return False
    known = library.MODEL_MAPPING
    parsed = library.CONFIG_MAPPING[kind]
    architecture = known[parsed] if parsed in known else None
    return isinstance(architecture, type) and architecture.main_input_name == "pixel_values"  # type: ignore[attr-defined]


def _config(source: Source) -> Mapping[str, Any]:
    try:
        return source.config
    except ConfigError:
        return {}
