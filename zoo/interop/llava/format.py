"""LLaVA of transformers: an image encoder, a language model, and the connector between them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from zoo.interop.base.files import CHAT, IMAGES, TOKENIZERS, TRANSFORMERS
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import image_keywords_of
from zoo.interop.base.placing import language_in, take_part
from zoo.interop.base.recognise import describe, library_config
from zoo.interop.base.source import Source
from zoo.interop.causal_lm.settings import sampling_settings
from zoo.interop.llava import names as transformers_llava
from zoo.interop.llava.hosted import NAME, Hosted, language_facts, read_with_transformers
from zoo.interop.llava.write import llava_export
from zoo.processors.tokenizers.chat_tokenizer import read_language_tokenizer
from zoo.registry import register

TEMPLATE = "vicuna_v1"  # of LLaVA-1.5; used if the directory has no chat template


@register("format")
class LlavaModels(Format):
    """Systems of a ``vit``, the head ``llava`` and a ``causal_lm``; other towers and language models run in transformers."""

    targets = ("transformers",)
    takes = "systems of an encoder 'vit' or 'transformers' with the head 'llava' and a 'causal_lm' or 'transformers'"
    model_types = (transformers_llava.MODEL_TYPE,)
    files = {**TRANSFORMERS, **TOKENIZERS, **IMAGES, **CHAT}

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if transformers_llava.recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Return the whole system of a directory of transformers."""
        config = library_config(source, self)
        assert source.directory is not None
        parts = transformers_llava.system(config, source.keys)
        image, images = parts["encoders"]["image"], image_keywords_of(source.directory)
        # A hosted encoder has the size of its config, unless the directory says another.
        size = {"image_size": images.pop("image_size")} if images and image["name"] == NAME else {}
        image |= {**size, "preprocessing": images}
        given = read_language_tokenizer(source.directory)
        template = "tokenizer" if given is not None and given.chat_template is not None else TEMPLATE
        facts = language_facts(parts["head"]["language"])
        processor = {"image": {}, "conversation": {**facts, "tokenizer": "given", "template": template}}
        system = {"name": source.name, **parts, "processor": processor}
        return Description({"system": system}, conversation=given, left_out=sampling_settings(source.directory))

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part."""
        language = language_in(into)
        tied = bool(source.config.get("tie_word_embeddings", False)) if language is None else language.ties_words
        hosted = Hosted.of(describe(source).config["system"]) if source.model_type in self.model_types else Hosted()
        tensors = read_with_transformers(source) if hosted.vision or hosted.language else source.tensors
        return take_part(transformers_llava.to_zoo(tensors, tied=tied, hosted=hosted), source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return transformers' files of a system."""
        return llava_export(model)
