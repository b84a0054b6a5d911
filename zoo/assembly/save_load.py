"""Save a model as a checkpoint directory, and load one, or a directory of another library."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from zoo.assembly.build import build_processor, build_system
from zoo.assembly.create import example_inputs
from zoo.assembly.loading import finish
from zoo.assembly.memory import refuse_larger_than_weights
from zoo.assembly.system import System
from zoo.data.system_processor import hash_files
from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.recognise import describe, tell_left_out
from zoo.interop.base.source import Source, read_source
from zoo.interop.zoo_checkpoint import FORMAT
from zoo.registry.construct import build_part
from zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE, atomic_directory
from zoo.storage.outside import understanding
from zoo.storage.tensors import compress, write_tensors
from zoo.types import Encoder, Head, LanguageModel, config_of, processor_of


def save(model: nn.Module, directory: str | Path, *, storage: str | None = None) -> Path:
    """Write ``config.yaml``, ``model.safetensors`` and the processor's files, all or nothing.

    Args:
        storage: None keeps every weight as it is; "fp16" and "int8" take fewer bytes and lose precision
            (``zoo.storage.tensors.compress``).

    Raises:
        ConfigError: the model was not built by zoo, so that it cannot be built again from a config.
    """
    config = {"system": model.config} if isinstance(model, System) else config_of(model)
    if not config or not next(iter(config.values())):
        raise ConfigError(f"{type(model).__name__} has no config: build it with zoo.create_model or zoo.create_system")
    with atomic_directory(Path(directory)) as folder:
        state = model.state_dict()
        write_tensors(state if storage is None else compress(state, storage), folder / WEIGHTS_FILE)
        content = {"format": FORMAT, **config}
        processor: Any = processor_of(model)
        if processor is not None and (isinstance(model, System) or "image" not in processor.parts):  # an image encoder's is in its config
            processor.save(folder)
            content["processor_sha256"] = hash_files(folder)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    return Path(directory)


def load(
    source: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> "System | Encoder | Head | LanguageModel":
    """Load what ``save`` wrote, the model of a run directory, or one of transformers, open_clip or OpenAI (also "hf://OWNER/NAME").

    The architecture is read from the source itself. Another library's model is built from our parts and its weights are
    converted. ViT, DINOv2, BERT, RoBERTa, ALBERT, the encoder of T5 and the vision towers of CLIP and SigLIP give an encoder. A ViT
    with classifier, a whole CLIP or SigLIP and a Whisper (of transformers, OpenAI or CTranslate2) give a system. A GPT-2, LLaMA or
    Mistral gives a system without encoders. A source is a directory, or a file: GGUF, a Whisper, or the whole CLIP of OpenAI or
    open_clip. An encoder that is loaded alone has a ``processor``. The log names each file of a directory that is not used.

    Raises:
        ConfigError: our parts do not make this architecture.
        WeightsError: the source is no checkpoint, it is damaged, its preprocessing was changed, or its weights do not fit.
    """
    found = read_source(source)
    description = describe(found)
    config = description.config
    tell_left_out(found, description)
    refuse_larger_than_weights(config, partial(_built, config, found), lambda: found.shapes, found.origin)
    model: Any = _built(config, found)
    if isinstance(model, Encoder) and model.modality == "image":  # its processor needs nothing that the encoder does not know
        model.processor = build_processor({}, {"image": model}, "encoder")
    elif not isinstance(model, System) and (processor := description.processor()) is not None:
        model.processor = processor
    elif isinstance(model, Encoder) and model.modality == "audio":
        model.processor = build_processor({}, {"audio": model}, "encoder")
    return finish(model, found, str(source), device, dtype)  # type: ignore[return-value]


def _built(config: Mapping[str, Any], found: Source) -> nn.Module:
    """Build the system, encoder, language model or head of a checkpoint's config, without its weights."""
    with understanding(f"{found.origin}: its config"):
        if "system" in config:
            return build_system(config["system"])
        kind = next((kind for kind in ("encoder", "language", "head") if kind in config), None)
        if kind is None:
            raise WeightsError(f"{found.directory}/{CONFIG_FILE}: names no system and no encoder; it was not written by zoo.save")
        given = {"inputs": example_inputs(config[kind])} if kind == "head" else {}
        model = build_part(kind, config[kind], kind, **given)
        model.config = {kind: config[kind]}
        return model
