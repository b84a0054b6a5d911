"""Save a model as a checkpoint directory, and load one, or a directory of another library."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import nn

from zoo.assembly.build import build_processor
from zoo.assembly.described import build_described, refuse_undescribed
from zoo.assembly.loading import finish
from zoo.assembly.memory import refuse_larger_than_weights
from zoo.assembly.placement import find_device, find_precision
from zoo.assembly.system import System
from zoo.data.system_processor import hash_files
from zoo.errors import ConfigError
from zoo.interop.base.checkpoint_directory import FORMAT
from zoo.interop.base.recognise import describe, tell_left_out
from zoo.interop.base.source import read_source
from zoo.registry.pretrained import is_tagged
from zoo.registry.requirements import KEY as REQUIRES
from zoo.registry.requirements import parts_named, refuse_missing, requirements
from zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE, atomic_directory
from zoo.storage.outside import understanding
from zoo.storage.tensors import compress, write_tensors
from zoo.types import Encoder, Head, LanguageModel, Part, config_of, processor_of


def save(model: nn.Module, directory: str | Path, *, storage: str | None = None) -> Path:
    """Write ``config.yaml``, ``model.safetensors`` and the processor's files, all or nothing.

    Args:
        storage: None keeps every weight as it is; "fp16" and "int8" take fewer bytes and lose precision
            (``zoo.storage.tensors.compress``).

    Raises:
        ConfigError: the model was not built by zoo, or its config does not describe it, so that it cannot be built again from a config.
    """
    config = {"system": model.config} if isinstance(model, System) else config_of(model)
    if not config or not next(iter(config.values())):
        raise ConfigError(f"{type(model).__name__} has no config: build it with zoo.create_model or zoo.create_system")
    refuse_undescribed(model, config)
    with atomic_directory(Path(directory)) as folder:
        state = model.saved_tensors() if isinstance(model, System) else model.state_dict()
        write_tensors(state if storage is None else compress(state, storage), folder / WEIGHTS_FILE)
        content = {"format": FORMAT, **config}
        processor: Any = processor_of(model)
        if processor is not None and (isinstance(model, System) or "image" not in processor.parts):  # an image encoder's is in its config
            processor.save(folder)
            content["processor_sha256"] = hash_files(folder)
        needs = requirements([*parts_named(config), *(("processor", name) for name in (processor.parts if processor else ()))])
        content |= {REQUIRES: needs} if needs else {}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    return Path(directory)


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    precision: str | None = None,
    revision: str | None = None,
    base: str | Path | None = None,
) -> "System | Encoder | Head | LanguageModel":
    """Load what ``save`` wrote, the model of a run directory, or one of transformers, open_clip or OpenAI (also "hf://OWNER/NAME").

    A name with a tag ("clip_vit_b32:openai") stands for published weights (``zoo list --pretrained``).

    The architecture is read from the source itself. Another library's model is built from our parts and its weights are
    converted. ViT, DINOv2, BERT, RoBERTa, ALBERT, the encoder of T5 and the vision towers of CLIP and SigLIP give an encoder. A ViT
    with classifier, a whole CLIP or SigLIP and a Whisper (of transformers, OpenAI or CTranslate2) give a system. A GPT-2, LLaMA or
    Mistral gives a system without encoders. A source is a directory, or a file: GGUF, a Whisper, or the whole CLIP of OpenAI or
    open_clip. An encoder that is loaded alone has a ``processor``. The log names each file of a directory that is not used.

    An adapter of PEFT is merged into the weights beside it, or into those of the base model that it names.

    Args:
        source: a directory, a file, a bundled model's name, or a model of the hub: "hf://OWNER/NAME", also "OWNER/NAME" if there is no
            such directory.
        device: "auto" is the GPU if there is one; None is the CPU.
        dtype: of the weights; None is float32.
        precision: "fp32", "bf16", "fp16" or "fp64", which are types of the weights (fp16 not on a CPU, see ``set_precision``); "int8"
            or "int4" for inference on a CPU (``zoo.layers.low_precision``); "auto" for bf16 on a GPU that has it, else fp32.
        revision: branch, tag or commit of a model of the hub; "hf://OWNER/NAME@REVISION" says the same.
        base: source of the weights that an adapter of PEFT changes; None takes the base that the adapter names.

    Raises:
        ConfigError: our parts do not make this architecture.
        WeightsError: the source is no checkpoint, it is damaged, its preprocessing was changed, or its weights do not fit.
    """
    device = find_device(device)
    found_precision = find_precision(precision, dtype, device=device)
    if is_tagged(source) and base is None:
        from zoo.assembly.pretrained import load_pretrained  # it imports this module

        return load_pretrained(str(source), device=device, precision=found_precision, revision=revision)  # type: ignore[return-value]
    found = read_source(source, base, revision=revision)
    if found.own_config is not None:
        refuse_missing(found.own_config, found.directory)
    description = describe(found)
    config = description.config
    tell_left_out(found, description)
    place = f"{found.directory}/{CONFIG_FILE}"
    with understanding(f"{found.origin}: its config"):
        refuse_larger_than_weights(config, partial(build_described, config, place), lambda: found.shapes, found.origin)
        model = build_described(config, place)
    if "system" not in config:
        part = cast(Part, model)
        if isinstance(model, Encoder) and model.modality == "image":  # its processor needs nothing that the encoder does not know
            part.remember(part.config or {}, build_processor({}, {"image": model}, "encoder"))
        elif (processor := description.processor()) is not None:
            part.remember(part.config or {}, processor)
        elif isinstance(model, Encoder) and model.modality == "audio":
            part.remember(part.config or {}, build_processor({}, {"audio": model}, "encoder"))
    return finish(model, found, str(source), device, found_precision)  # type: ignore[return-value]
