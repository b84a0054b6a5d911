"""Weights from wherever they lie into a model: find them, recognise whose they are, convert, load strictly.

A *source* is a run directory, a directory saved by ``zoo.save``, one of transformers or open_clip, or with a GGUF file, a file of
tensors (zoo's, timm's, open_clip's, transformers', llama.cpp's or a paper's own names), ``bundled``, ``timm://NAME`` or
``hf://OWNER/NAME``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.assembly.same_arithmetic import refuse_other_arithmetic
from zoo.assembly.system import System
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.interop.base.source import TIMM, Source, read_source
from zoo.interop.causal_lm.describe import PART as LANGUAGE_PART
from zoo.interop.readings import readings
from zoo.interop.zoo_checkpoint import find_weights
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer
from zoo.storage.tensors import LoadReport, compare, load_strictly


def load_part(module: nn.Module, source: "str | Path | Source", *, part: str = "") -> LoadReport:
    """Load a source into a model or into one part of a system, strictly: everything fits, or nothing is loaded.

    Args:
        module: the whole model.
        part: dotted name of a part of the model (``encoders.image``, ``head``); of a source that holds a whole system the same
            part is taken, of one with a classifier the encoder. "" is the whole. For a lone encoder it says what to take of
            the source: a part of a system, or ``encoder`` to leave a classifier behind.

    Raises:
        ConfigError: the model has no such part.
        WeightsError: unreadable, of unknown origin, or not an exact fit.
    """
    target = module if not isinstance(module, System) or not part else _submodule(module, part)
    found = _read_for(target, source)
    if found.config is not None and "system" in found.config and not part and not isinstance(module, System):
        parts = [f"encoders.{modality}" for modality in found.config["system"]["encoders"]]
        raise WeightsError(f"{found.origin}: holds a whole system; name the part with weights_parts=[...]: {', '.join(parts)}, head")
    tensors = _fitting(target, found, part)
    whole = isinstance(module, System) and not part
    if compare(target, tensors).fits and (found.describes_itself if whole else found.is_describable):
        refuse_other_arithmetic(module, part, found.description, found.origin)
    report = load_strictly(target, tensors, origin=found.origin)
    if isinstance(module, System) and not part:
        _take_processor(module, found)
    elif isinstance(module, System) and part == LANGUAGE_PART:
        take_tokenizer(module, found)
    return report


def _take_processor(system: System, found: Source) -> None:
    """What a source says of preprocessing travels with its weights; what it does not say stays as it was."""
    theirs: Any = found.processor()
    if theirs is not None:
        ours: Any = system.processor
        system.use_processor(Processor({**({} if ours is None else ours.parts), **theirs.parts}))


def _read_for(target: nn.Module, source: "str | Path | Source") -> Source:
    """Read a source; a backbone of timm fetches timm's weights itself, because it knows at which image size it wants them."""
    if isinstance(source, Source):
        return source
    name = str(source).removeprefix(TIMM)
    if name == str(source) or not hasattr(target, "from_timm"):
        return read_source(source)
    return Source(target.read_pretrained(name), str(source))  # type: ignore[operator]


def _submodule(system: System, part: str) -> nn.Module:
    names = [name for name, _ in system.named_modules() if name]
    if part not in names:
        raise ConfigError(f"weights: {system.name} has no part {part!r}; {name_choices(part, names)}")
    return system.get_submodule(part)


def _fitting(target: nn.Module, found: Source, part: str) -> Mapping[str, Tensor]:
    """The first reading of a source that fits the target; where none does, the one that comes nearest, for the message."""
    found_readings = list(readings(target, found, part))
    fits = (tensors for tensors in found_readings if compare(target, tensors).fits)
    return next(fits, max(found_readings, key=lambda tensors: len(compare(target, tensors).matched)))


def load_parts(module: nn.Module, source: str | Path | Source, parts: Sequence[str] | None) -> None:
    """Load the whole of a source, or only the named parts."""
    for part in parts if parts is not None else [""]:
        load_part(module, source, part=part)


def take_tokenizer(system: System, found: Any) -> None:
    """The tokenizer that a language model was trained with goes to the conversations, where they say that one is given.

    Args:
        found: the ``zoo.interop.base.source.Source`` that the language model's weights are from.
    """
    ours: Any = None if system.processor is None else system.processor.get("conversation")
    if ours is None or ours.source != "given" or ours.is_fitted:
        return
    if found.config is None:
        given = found.description.conversation if found.is_describable else None
    else:
        given: Any = found.processor()
        theirs: Any = None if given is None else given.get("conversation")
        given = None
        if theirs is not None and theirs.is_fitted:
            given = GivenTokenizer(theirs.tokenizer, theirs.names, tuple(theirs.further_ends), theirs.chat_template)
    if given is not None:
        ours.use(given)


def finish(
    model: nn.Module,
    weights: str | Path | Source | None,
    name: str,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    parts: Sequence[str] | None = None,
) -> nn.Module:
    """Load weights where asked for, set dtype and device, and leave training mode."""
    if weights is not None:
        load_parts(model, find_weights("bundled", name) if weights == "bundled" else weights, parts)
    return model.to(device=device, dtype=dtype).eval()
