"""Precision of a model: the words that users write, and the layers that they mark."""

import logging
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.linear import Linear
from zoo.layers.low_precision.cpu import has_fbgemm
from zoo.layers.low_precision.packings import forget, packed_bytes
from zoo.layers.low_precision.simulated import SIMULATED
from zoo.types import Encoder, LanguageModel, Part

log = logging.getLogger("zoo")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
MARKED = {"int8": torch.float32, "int4": torch.float32}  # precision of marked layers -> type of all other weights
PRECISIONS = (*DTYPES, *MARKED)


def set_precision(model: nn.Module, precision: str | torch.dtype, *, keep: Collection[str] = ()) -> nn.Module:
    """Set the precision in which a model computes, in place, and return it.

    fp32, bf16, fp16 and fp64 convert the weights. int8 and int4 are for inference on a CPU: they convert the weights to ``MARKED`` and mark
    the linear layers of every part that offers the precision (``Part.low_precision``); parts that do not offer it stay in that type. Marked
    layers pack their weights at the first use; what is stored, saved and exported stays as it was.

    fp16 marks layers, too, if the model is on an x86 CPU and not in training mode: such CPUs compute in float16 far slower than in float32,
    but read packed weights in float16 faster. All linear layers of all parts are marked, and everything else stays in float32.

    Args:
        model: a part or a system.
        precision: a word of ``PRECISIONS``, or a type to which the weights are converted on every device.
        keep: further layers that are not marked, as patterns of their names in ``model`` ("*.fc2").

    Raises:
        ConfigError: there is no such precision, no part offers it, or the model is in training mode.
    """
    if not isinstance(precision, torch.dtype) and precision not in PRECISIONS:
        raise ConfigError(f"precision: there is no {precision!r}; {name_choices(str(precision), PRECISIONS)}")
    _unmark(model)
    if isinstance(precision, torch.dtype) or (precision in DTYPES and not _marks_fp16(model, precision)):
        return model.to(type_of(precision))
    chosen = _chosen(model, precision, keep)
    if any(part.training for part in chosen.values()):
        raise ConfigError(f"precision: {precision!r} is for inference, the model is in training mode; call eval() first")
    model.to(MARKED.get(precision, torch.float32))
    _mark(model, chosen, precision, keep)
    if left := _left_out(model):
        log.warning("precision: %r is not offered for %s, computed in the type of the weights", precision, ", ".join(left))
    return model


def simulate_precision(model: nn.Module, precision: str, *, keep: Collection[str] = (), key: str = "precision") -> nn.Module:
    """Let the layers that ``set_precision`` would mark round as in int8 or int4, in training too; in place, and return the model.

    The gradient passes the rounding unchanged, so that the model learns weights that lose less by it. The weights stay as they are and are
    saved as usual; ``set_precision(model, "fp32")`` ends the simulation.

    Args:
        model: a part or a system, on any device, in any mode.
        precision: "int8" or "int4".
        keep: further layers that are not rounded, as patterns of their names in ``model``.
        key: config key, for messages.

    Raises:
        ConfigError: there is no such precision, or no part offers it.
    """
    if precision not in MARKED:
        raise ConfigError(f"{key}: there is no {precision!r}; {name_choices(str(precision), MARKED)}")
    _unmark(model)
    mark = next(mark for mark, meant in SIMULATED.items() if meant == precision)
    _mark(model, _chosen(model, precision, keep, key), mark, keep)
    return model


def _chosen(model: nn.Module, precision: str, keep: Collection[str], key: str = "precision") -> dict[str, Linear]:
    """Return the layers that a precision marks, by name."""
    chosen = {name: layer for name, layer in markable(model, precision) if not any(fnmatchcase(name, each) for each in keep)}
    if not chosen:
        instead = f"it offers {', '.join(precisions_of(model))}"
        raise ConfigError(f"{key}: {_name(model)} does not offer {precision!r}: {_reason(model, precision)}; {instead}")
    return chosen


def _mark(model: nn.Module, chosen: Mapping[str, Linear], mark: str, keep: Collection[str]) -> None:
    for name, layer in chosen.items():
        layer.precision = mark
        owner = _owner(model, name)
        assert owner is not None
        owner[1].precision = " without ".join([mark, *keep])
    for part in model.modules():
        if isinstance(part, Part) and part.precision is not None:
            part.after_precision(mark)


def markable(model: nn.Module, precision: str) -> Iterator[tuple[str, Linear]]:
    """Yield name and layer of all linear layers that a precision may mark: those of parts that offer it, less those that the parts keep."""
    for name, layer in model.named_modules():
        owner = _owner(model, name)
        if isinstance(layer, Linear) and owner is not None:
            prefix, part = owner
            kept = part.low_precision.get(precision, () if precision == "fp16" else None)
            if kept is not None and not any(fnmatchcase(name[len(prefix) :].lstrip("."), each) for each in kept):
                yield name, layer


def type_of(precision: str | torch.dtype) -> torch.dtype | None:
    """Return the type of the weights in a precision of ``DTYPES``, or None for one that marks layers."""
    return precision if isinstance(precision, torch.dtype) else DTYPES.get(precision)


def _marks_fp16(model: nn.Module, precision: str) -> bool:
    """True if fp16 marks layers of a model instead of converting its weights."""
    if precision != "fp16" or model.training or not has_fbgemm():
        return False
    return all(weight.device.type == "cpu" for weight in model.parameters()) and next(markable(model, precision), None) is not None


def _owner(model: nn.Module, name: str) -> tuple[str, Part] | None:
    """Return name and object of the innermost part that holds a module (a language model within a head), or None if no part does."""
    words = name.split(".")
    for end in range(len(words) - 1, -1, -1):
        prefix = ".".join(words[:end])
        if isinstance(part := model.get_submodule(prefix), Part):
            return prefix, part
    return None


def precisions_of(model: nn.Module) -> list[str]:
    """Return the precisions that a model offers."""
    return [*DTYPES, *(each for each in MARKED if next(markable(model, each), None) is not None)]


def precision_of(model: nn.Module) -> str:
    """Return the precision in which a model computes: that of its marked layers, or the type of its weights; "mixed" if these differ."""
    parts = [part for part in model.modules() if isinstance(part, Part)]
    marked = {part.precision.split()[0] for part in parts if part.precision is not None}  # a part may compute its logits in another
    if marked:
        return marked.pop() if len(marked) == 1 else "mixed"
    words = {dtype: word for word, dtype in DTYPES.items()}
    found = {words.get(weight.dtype, str(weight.dtype)) for weight in model.parameters() if weight.is_floating_point()}
    return found.pop() if len(found) == 1 else "mixed" if found else "fp32"


def packed_memory(model: nn.Module) -> int:
    """Return the memory in bytes of all packed copies of a model's weights, beside the weights themselves."""
    return packed_bytes(model.parameters())


def _left_out(model: nn.Module) -> list[str]:
    """Return the names of encoders and language models of which no layer is marked; heads are small beside them."""
    parts = [(name, part) for name, part in model.named_modules() if isinstance(part, Encoder | LanguageModel)]
    return [name or type(part).__name__ for name, part in parts if part.precision is None]


def _unmark(model: nn.Module) -> None:
    forget(model.parameters())
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.precision = None
        elif isinstance(layer, Part):
            layer.precision = None
            layer.after_precision(None)


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _reason(model: nn.Module, precision: str) -> str:
    parts = sorted({type(part).__name__ for part in model.modules() if isinstance(part, Part)})
    return f"no linear layer of its parts ({', '.join(parts)}) is offered in it" if parts else "it has no parts of zoo"
