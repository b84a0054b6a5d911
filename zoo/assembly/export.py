"""Write models as files of another library."""

import json
from pathlib import Path
from typing import Any, cast

from torch import nn

from zoo.assembly.save_load import save
from zoo.errors import ConfigError, name_choices
from zoo.interop.base.image_preprocessing import preprocessor
from zoo.interop.causal_lm.write import is_language, write_language
from zoo.interop.clip.write import CLIP_FORMATS, is_clip, write_clip
from zoo.interop.kosmos2.write import is_kosmos, write_kosmos
from zoo.interop.llava.write import is_llava, write_llava
from zoo.interop.tacotron2 import FORMAT as TORCHAUDIO
from zoo.interop.tacotron2 import write_tacotron2
from zoo.interop.text_encoders.write import is_text, write_text
from zoo.interop.vit.write import FORMATS, parts_of
from zoo.interop.whisper.write import FORMAT as OPENAI_WHISPER
from zoo.interop.whisper.write import is_whisper, write_whisper
from zoo.layers.adapters import without_adapters
from zoo.storage.files import WEIGHTS_FILE, atomic_directory
from zoo.storage.tensors import write_tensors

OURS = "zoo"


def export(model: nn.Module, directory: str | Path, format: str = "transformers") -> Path:
    """Write a model so that another library reads it; ``zoo.load`` or ``weights=`` read it back.

    Args:
        model: an image encoder (``vit``, ``vig``), a system of one with the head ``classifier``, an image-text system with the
            head ``clip`` ("transformers" and "open_clip", see ``zoo.interop.clip.write``), a language model ("transformers": GPT-2, LLaMA,
            Mistral; with the tokenizer where it has one), one that sees through a ``vit`` ("transformers": LLaVA, Kosmos-2), or a text
            encoder (``bert``, ``albert``, ``t5``), alone or in a system with the head ``bert`` ("transformers": BERT, RoBERTa, ALBERT, T5;
            with the tokenizer where it has one), or a system of encoder and head ``whisper`` ("transformers", "openai-whisper").
        directory: replaced as a whole when everything is written.
        format: "transformers" (config.json, model.safetensors, preprocessor_config.json: ViT, DINOv2 with and without registers, the
            vision towers of CLIP and SigLIP, ViTForImageClassification), "timm" (model.safetensors with the names of its
            ``VisionTransformer``), "vig" (model.safetensors with the names of the published ``.pth`` files) or "open_clip"
            (open_clip_config.json, open_clip_model.safetensors), "torchaudio" (Tacotron 2, see ``zoo.exports.speech``),
            "openai-whisper" (``model.pt``, see ``zoo.interop.whisper.write``) or "zoo" (what ``zoo.save`` writes, of any model). In all of
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
        return write_clip(cast(Any, model), Path(directory), format, preprocessor)
    if format == "transformers" and is_kosmos(model):
        return write_kosmos(cast(Any, model), Path(directory), preprocessor)
    if format == "transformers" and is_llava(model):
        return write_llava(cast(Any, model), Path(directory), preprocessor)
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
