"""Load weights into a model: find the source, recognise its format, convert, load strictly.

A *source* is a run directory, a directory saved by ``zoo.save``, transformers or open_clip, a directory with a GGUF file, a file of
tensors (with the names of zoo, timm, open_clip, transformers, llama.cpp or a paper), ``bundled``, ``timm://NAME`` or
``hf://OWNER/NAME``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.assembly.finite import warn_not_finite
from zoo.assembly.same_arithmetic import refuse_other_arithmetic
from zoo.assembly.system import System
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.interop.base.checkpoint_directory import find_weights
from zoo.interop.base.format import Description, NotDescribedError
from zoo.interop.base.placing import LANGUAGE, language_in
from zoo.interop.base.recognise import describe, find_format, refuse_changes
from zoo.interop.base.source import Source, read_source
from zoo.layers.low_precision.modes import MARKED, set_precision
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer
from zoo.storage.tensors import LoadReport, compare, load_strictly
from zoo.types import Part

TEXT = "encoders.text"
OUTPUT = ".lm_head.weight"  # of a language model, which a reward model does not have


def load_part(module: nn.Module, source: str | Path | Source, *, part: str = "") -> LoadReport:
    """Load a source into a model or into one part of a system, strictly: everything fits, or nothing is loaded.

    Args:
        module: the whole model.
        source: see the module.
        part: dotted name of a part of the model (``encoders.image``, ``head``). The same part is taken of a source that holds a whole
            system, and the encoder of one with a classifier. "" is the whole. For a lone encoder it names the part of the source: a
            part of a system, or ``encoder`` to leave a classifier behind.

    Raises:
        ConfigError: the model has no such part.
        WeightsError: the source cannot be read, is of unknown origin, or is not an exact fit.
    """
    target = _submodule(module, part) if isinstance(module, System) and part else module
    found = source if isinstance(source, Source) else read_source(source)
    refuse_changes(found)
    tensors = read_for(target, found, part)
    whole = isinstance(module, System) and not part
    if compare(target, tensors).fits and found.own_config is None:
        description = _description(found, needed=whole)
        if description is not None:
            refuse_other_arithmetic(module, part, description, found.origin)
    report = load_strictly(target, tensors, origin=found.origin)
    if isinstance(module, System) and not part:
        _take_processor(module, found)
    elif isinstance(module, System) and part == LANGUAGE:
        take_tokenizer(module, found)
    elif isinstance(module, System) and part == TEXT:
        take_words(module, found)
    return report


def read_for(target: nn.Module, found: Source, part: str) -> Mapping[str, Tensor]:
    """Return the tensors of a source under the names of the part that takes them; a hosted model reads its library's weights itself."""
    native = target.read_native(found) if isinstance(target, Part) and found.own_config is None else None
    if native is not None:
        return native
    tensors = find_format(found).read(found, part, target)
    language = language_in(target)
    if language is None or not language.drops_output:
        return tensors
    return {name: tensor for name, tensor in tensors.items() if f".{name}".removesuffix(OUTPUT) not in ("", ".language", ".head.language")}


def _description(found: Source, *, needed: bool) -> Description | None:
    """Return the description of a foreign source; None if the source does not say which model it belongs to.

    Args:
        found: the source.
        needed: False also gives None for a model that our parts do not make, because one of its parts may still fit.
    """
    try:
        return describe(found)
    except NotDescribedError:
        return None
    except (ConfigError, WeightsError):
        if needed:
            raise
        return None


def _take_processor(system: System, found: Source) -> None:
    """Take over the processor that comes with the weights; modalities that the source does not describe keep theirs."""
    description = _description(found, needed=True)
    theirs: Any = None if description is None else description.processor()
    if theirs is not None:
        ours: Any = system.processor
        system.use_processor(Processor({**({} if ours is None else ours.parts), **theirs.parts}))


def _submodule(system: System, part: str) -> nn.Module:
    names = [name for name, _ in system.named_modules() if name]
    if part not in names:
        raise ConfigError(f"weights: {system.name} has no part {part!r}; {name_choices(part, names)}")
    return system.get_submodule(part)


def load_parts(module: nn.Module, source: str | Path | Source, parts: Sequence[str] | None) -> None:
    """Load a whole source, or only the named parts."""
    for part in parts if parts is not None else [""]:
        load_part(module, source, part=part)


def take_tokenizer(system: System, found: Source) -> None:
    """Give the tokenizer of a language model's weights to the conversations, if their config says that one is given."""
    ours: Any = None if system.processor is None else system.processor.get("conversation")
    if ours is None or ours.source != "given" or ours.is_fitted:
        return
    description = _description(found, needed=False)
    given = None if description is None else description.conversation
    if description is not None and description.saved is not None:
        theirs: Any = description.saved.get("conversation")
        if theirs is not None and theirs.is_fitted:
            given = GivenTokenizer(theirs.tokenizer, theirs.names, tuple(theirs.further_ends), theirs.chat_template)
    if given is not None:
        ours.use(given)


def take_words(system: System, found: Source) -> None:
    """Give the tokenizers beside the weights to the processors of texts and target texts whose config says that one is given."""
    known: dict[str, Any] = {} if system.processor is None else {name: system.processor.get(name) for name in ("text", "target_text")}
    parts = {name: part for name, part in known.items() if part is not None and part.source == "given" and not part.is_fitted}
    description = _description(found, needed=False) if parts else None
    for name, part in parts.items():
        if description is not None and (tokenizer := description.tokenizer_of(name)) is not None:
            part.use(tokenizer)


def finish(
    model: nn.Module,
    weights: str | Path | Source | None,
    name: str,
    device: torch.device | str | None,
    precision: str | torch.dtype | None,
    parts: Sequence[str] | None = None,
) -> nn.Module:
    """Load weights if there are any, set device and precision (a word, or the type of the weights), and leave training mode.

    Raises:
        ConfigError: the model does not offer the precision, or not on this device.
    """
    if precision in MARKED and device is not None and torch.device(device).type not in ("cpu", "meta"):
        raise ConfigError(f"precision: {precision!r} runs on a CPU, got device {device}; use bf16 there, or device='cpu'")
    if weights is not None:
        load_parts(model, find_weights("bundled", name) if weights == "bundled" else weights, parts)
        warn_not_finite(model, str(weights.origin if isinstance(weights, Source) else weights))
    model = model.to(device=device).eval()
    return model if precision is None else set_precision(model, precision)
