"""Modules on the meta device, which have shapes but no weights."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

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
