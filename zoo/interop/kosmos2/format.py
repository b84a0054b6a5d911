"""Kosmos-2 of transformers: an image encoder, a ``magneto``, and the latents between them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from zoo.interop.base.files import CHAT, IMAGES, TOKENIZERS, TRANSFORMERS
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import image_keywords_of
from zoo.interop.base.placing import language_in, take_part
from zoo.interop.base.recognise import library_config
from zoo.interop.base.source import Source
from zoo.interop.causal_lm.settings import sampling_settings
from zoo.interop.kosmos2 import names as transformers_kosmos2
from zoo.interop.kosmos2.write import kosmos_export
from zoo.processors.tokenizers.chat_tokenizer import read_language_tokenizer
from zoo.registry import register

IMAGES_UNSAID = {"resize": "squash"}  # used if the directory does not describe its images


@register("format")
class Kosmos2Models(Format):
    """Systems of a ``vit``, the head ``kosmos`` with Kosmos-2's connector, and a ``magneto``."""

    targets = ("transformers",)
    takes = "systems of the encoder 'vit' with the head 'kosmos' and a 'magneto'"
    model_types = (transformers_kosmos2.MODEL_TYPE,)
    files = {**TRANSFORMERS, **TOKENIZERS, **IMAGES, **CHAT}

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if transformers_kosmos2.recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Return the whole system of a directory of transformers."""
        config = library_config(source, self)
        assert source.directory is not None
        parts = transformers_kosmos2.system(config, source.keys)
        parts["encoders"]["image"]["preprocessing"] = image_keywords_of(source.directory) or dict(IMAGES_UNSAID)
        processor = {"image": {}, "conversation": {"tokenizer": "given", "template": "kosmos"}}
        system = {"name": source.name, **parts, "processor": processor}
        given = read_language_tokenizer(source.directory)
        return Description({"system": system}, conversation=given, left_out=sampling_settings(source.directory))

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part."""
        language = language_in(into)
        tied = bool(source.config.get("tie_word_embeddings", True)) if language is None else language.ties_words
        return take_part(transformers_kosmos2.to_zoo(source.tensors, tied=tied), source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return transformers' files of a system."""
        return kosmos_export(model)
