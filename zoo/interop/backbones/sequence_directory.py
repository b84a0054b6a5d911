"""Text and audio encoders that transformers saved and that no other format converts: encoder, processor and tokenizer of a directory."""

from collections.abc import Mapping
from typing import Any

from zoo.errors import ConfigError
from zoo.interop.backbones import rows, sequences
from zoo.interop.base.format import SIZES, Description
from zoo.interop.base.source import TRANSFORMERS, Source
from zoo.layers.meta import meta_device
from zoo.processors.tokenizers.library_tokenizers import read_tokenizer
from zoo.registry.construct import build_part

WHOLE = ("text_config", "audio_config", "vision_config", "auto_map")  # keys of models of several parts, and of code that is not run


def describe_sequence(source: Source, config: Mapping[str, Any]) -> Description | None:
    """Return the text or audio encoder of a directory with its processor; None for any other model.

    Raises:
        ConfigError: transformers cannot build the encoder, or a file cannot be used.
    """
    if source.library != TRANSFORMERS or source.directory is None or "model_type" not in config or any(key in config for key in WHOLE):
        return None
    place = str(source.directory)
    modality = sequences.modality_of(place, config)
    if modality not in sequences.FAMILIES or rows.is_language(f"transformers/{place}"):
        return None
    family, arguments = rows.describe_directory(place)
    encoder = {"name": family, **arguments}
    try:
        with meta_device():
            built: Any = build_part("encoder", encoder, place)
    except ConfigError:
        return None  # the caller's error names the model type and the ways out
    found = read_tokenizer(source.directory, model_type=source.model_type) if modality == "text" else None
    settings = {**{key: getattr(built, key) for key in SIZES[modality]}, **built.preprocessing}
    heads = [str(name) for name in config.get("architectures") or () if "For" in str(name)]
    return Description(
        {"encoder": encoder, "processor": {modality: settings}},
        None if found is None else found.tokenizer,
        left_out=tuple(f"of {name}, its head is left out; the encoder gives tokens and pooled vectors" for name in heads),
    )
