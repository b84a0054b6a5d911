"""Rules of every registered part with weights: keywords, gradients, saved states."""

import copy
import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from zoo.registry.construct import build_part
from zoo.testing.rules.comparison import refuse, require

PLAIN = (type(None), bool, int, float, str)


def check_keywords(part: type, *, supplied: Collection[str] = (), key: str = "") -> None:
    """Raise ContractError unless a constructor takes keywords only, with defaults that YAML can hold.

    Args:
        part: the registered class.
        supplied: keywords that the assembly gives, for example a head's ``inputs``.
        key: name of the part, for messages; empty takes the registered name.
    """
    who = key or part
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            refuse(
                who,
                "constructor arguments are keywords only",
                f"{name} is {parameter.kind.description}",
                "def __init__(self, *, ...)",
                "write * first",
            )
        if name not in supplied and parameter.default is not parameter.empty and not is_plain(parameter.default):
            refuse(
                who,
                "defaults are plain YAML values",
                f"{name} is {parameter.default!r}",
                "numbers, strings, lists, mappings",
                f"change {name}",
            )
    silent = [name for name in vars_of(part, "silent_keywords") if name not in inspect.signature(part).parameters]
    require(
        not silent, who, "silent_keywords are keywords of the constructor", f"there is no {silent}", "names of keywords", "correct the list"
    )


def vars_of(part: type, name: str) -> Iterable[str]:
    """Return a class attribute that is a list of names; empty if the kind has no such word."""
    return next((vars(base)[name] for base in part.__mro__ if name in vars(base)), ())


def is_plain(value: Any) -> bool:
    """Return True for a value that YAML holds as it is; tuples count as lists."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and is_plain(each) for name, each in value.items())
    return isinstance(value, PLAIN) or (isinstance(value, list | tuple) and all(map(is_plain, value)))


def check_gradients(part: nn.Module, loss: Tensor, *, exempt: Collection[str] = (), rule: str = "every parameter gets a gradient") -> None:
    """Raise ContractError unless a backward pass reaches every parameter that is to be trained.

    Several processes wait for each other's gradients, so that a parameter without one stops a distributed run.

    Args:
        part: the module.
        loss: depends on its whole output.
        exempt: names of parameters that get none, on purpose.
        rule: for the message.
    """
    for parameter in part.parameters():
        parameter.grad = None
    loss.backward()
    missed = [n for n, p in part.named_parameters() if p.requires_grad and p.grad is None and not n.startswith(tuple(exempt) or ("\0",))]
    remedy = "use them in forward, set requires_grad_(False), or name them in without_gradient=(...)"
    require(not missed, part, rule, f"{', '.join(missed[:4])} of {len(missed)} get none", "a gradient for each", remedy)
    for parameter in part.parameters():
        parameter.grad = None


def check_state(part: nn.Module, kind: str, config: Mapping[str, Any] | None) -> Any:
    """Return a copy of a part that went through a file: built anew from its config if it has one, and loaded strictly.

    Raises:
        ContractError: the state dict does not fit the part that the config describes.
    """
    state = {name: tensor.detach().contiguous().clone() for name, tensor in part.state_dict().items()}  # as ``zoo.save`` writes them
    read = load(save(state))
    if config and kind in config and kind != "head":
        if not is_plain(config[kind]):
            refuse(part, "the config is plain YAML", f"it is {config[kind]!r:.80}", "numbers, strings, lists, mappings", "see remember()")
        other = build_part(kind, config[kind], kind)
    else:
        other = copy.deepcopy(part)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    found = other.load_state_dict(read, strict=False)
    wrong = [*found.missing_keys, *found.unexpected_keys]
    require(
        not wrong, part, "its config builds a part with the same weights", f"{wrong[:3]} differ", "equal names", "check the constructor"
    )
    return other.train(part.training)
