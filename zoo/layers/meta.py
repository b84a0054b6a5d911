"""Modules on the meta device, which have shapes but no weights."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SHORT = 2  # steps of a recurrence that ``ShortRecurrences`` runs: the first, and one with a state
FILLS = ("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_")


@contextmanager
def meta_device() -> Iterator[None]:
    """Build modules on the meta device inside this context, without initialising their weights.

    Meta tensors have no values, but ``torch.nn.init`` would still run Python decompositions for them, and importing these takes longer than
    a whole check.
    """
    with ExitStack() as stack:
        for name in FILLS:
            stack.enter_context(patch.object(nn.init, name, _filling_only_real_tensors(getattr(nn.init, name))))
        stack.enter_context(torch.device("meta"))
        yield


def _filling_only_real_tensors(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a version of an initialiser that skips meta tensors.

    It must still fill real tensors: a library that is first imported inside ``meta_device`` may keep a reference to it.
    """

    def fill_or_leave(tensor: Tensor, *arguments: object, **keywords: object) -> Tensor:
        return tensor if tensor.is_meta else fill(tensor, *arguments, **keywords)

    return fill_or_leave


def unused_parameters(model: nn.Module, *outputs: Tensor) -> tuple[str, ...]:
    """Return the names of the trainable parameters that get no gradient from the outputs, in the order of the model.

    They are read from the graph, because a backward pass takes as long as the forward pass, also without weights.
    """
    waiting: list[Any] = [output.grad_fn for output in outputs]
    seen, used = {None}, set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            if node.name() == "torch::autograd::AccumulateGrad":  # the end of the graph at a parameter
                used.add(id(node.variable))
            waiting += [following for following, _ in node.next_functions]
    return tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad and id(parameter) not in used)


class ShortRecurrences(TorchFunctionMode):
    """Mode in which ``torch.lstm`` and ``torch.gru`` of meta tensors run two steps and repeat the second one.

    Shapes, dtypes and which parameters get a gradient are those of the whole recurrence. On the meta device torch unrolls it in Python,
    which takes 45 seconds for a Tacotron. Do not count FLOPs in this mode.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_unpacked = func in (torch.lstm, torch.gru) and isinstance(args[3], bool)  # of packed rows, args[3] are the weights
        if not is_unpacked or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        x, time = args[0], int(args[-1])  # the last argument is batch_first
        steps = x.shape[time]
        if steps <= SHORT:
            return func(*args, **(kwargs or {}))
        output, *states = func(x.narrow(time, 0, SHORT), *args[1:], **(kwargs or {}))
        last = output.narrow(time, SHORT - 1, 1)
        rest = last.expand(*(steps - SHORT if axis == time else -1 for axis in range(output.ndim)))
        return torch.cat([output, rest], dim=time), *states
