"""Vision-language models of transformers beside LLaVA, as whole directories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.files import CHAT, IMAGES, TOKENIZERS, TRANSFORMERS, USED
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.image_preprocessing import read_image_settings, read_video_settings
from zoo.interop.base.placing import language_in, take_part
from zoo.interop.base.recognise import library_config
from zoo.interop.base.schemas import checked_image_settings
from zoo.interop.base.source import Source
from zoo.interop.causal_lm.settings import sampling_settings
from zoo.interop.vlm.families import FAMILIES
from zoo.interop.vlm.family import Family
from zoo.interop.vlm.write import vlm_export
from zoo.processors.tokenizers.chat_tokenizer import read_language_tokenizer
from zoo.registry import register


@register("format")
class VisionLanguageModels(Format):
    """Systems with the head ``llava`` and a ``causal_lm``: with a tiler, or with a prefix (PaliGemma)."""

    targets = ("transformers",)
    takes = (
        "systems with the head 'llava' and a 'causal_lm': of an encoder 'vit' with an image tiler 'split', 'anyres' or 'canvas', or with "
        "a prefix; or of 'qwen_vision' with the tiler 'fit'"
    )
    model_types = tuple(kind for family in FAMILIES for kind in family.model_types)
    files = {**TRANSFORMERS, **TOKENIZERS, **IMAGES, **CHAT, "video_preprocessor_config.json": USED}

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if any(family.recognises(source.keys) for family in FAMILIES) else NO

    def describe(self, source: Source) -> Description:
        """Return the whole system of a directory of transformers."""
        config = library_config(source, self)
        assert source.directory is not None
        family = _family(source)
        parts = family.system(config, source.keys)
        image, settings = parts["encoders"]["image"], _images(family, source.directory, parts)
        if family.tiler is not None:
            settings["tiler"] |= family.tiler_options(config)
            videos = read_video_settings(str(source.directory)) or ({}, str(source.directory))
            settings["tiler"] |= family.video_options(config, *videos, image["preprocessing"])
        given = read_language_tokenizer(source.directory)
        template = "tokenizer" if given is not None and given.chat_template is not None else family.template
        processor = {"image": settings, "conversation": {"tokenizer": "given", "template": template, **family.conversation}}
        system = {"name": source.name, **parts, "encoders": {"image": image}, "processor": processor}
        return Description({"system": system}, conversation=given, left_out=sampling_settings(source.directory))

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part."""
        language = language_in(into)
        tied = bool(source.config.get("tie_word_embeddings", False)) if language is None else language.ties_words
        return take_part(_family(source).to_zoo(source.tensors, tied), source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return transformers' files of a system."""
        return vlm_export(model)


def _family(source: Source) -> Family:
    named = [family for family in FAMILIES if source.model_type in family.model_types]
    found = named or [family for family in FAMILIES if family.recognises(source.keys)]
    if not found:
        raise WeightsError(f"{source.origin}: holds no vision-language model whose names are known")
    return found[0]


def _images(family: Family, directory: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of our image processor, and give the encoder its preprocessing.

    Raises:
        ConfigError: there are no settings, or tiles have another size than the tower's pictures.
    """
    found = read_image_settings(str(directory))
    if found is None:
        raise ConfigError(
            f"{directory}: holds no preprocessor_config.json and no processor_config.json with an image processor, which says how pictures "
            "are cut into tiles; download the directory again"
        )
    checked_image_settings(*found)
    preprocessing, settings = family.images(*found)
    image = parts["encoders"]["image"]
    for key, noun in (("image_size", "tiles"), ("patch_size", "patches")):
        side = preprocessing.pop(key, image[key])
        if side != image[key]:
            raise ConfigError(
                f"{found[1]}: {noun} have {side} pixels, but the image tower takes {image[key]} (vision_config.{key}); allowed is the same "
                "number in both"
            )
    image["preprocessing"] = preprocessing
    return settings
