"""Modules without weights."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

FILLS = ("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_")


@contextmanager
def meta_device() -> Iterator[None]:
    """Build modules on the meta device and leave out filling their weights.

    There is nothing to fill, but ``torch.nn.init`` would still fall into Python decompositions on meta, and their import
    takes longer than a whole check.
    """
    with ExitStack() as stack:
        for name in FILLS:
            stack.enter_context(patch.object(nn.init, name, _filling_only_real_tensors(getattr(nn.init, name))))
        stack.enter_context(torch.device("meta"))
        yield


def _filling_only_real_tensors(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A library that is first imported inside ``meta_device`` may keep what it finds: that must still fill real weights."""

    def fill_or_leave(tensor: Tensor, *arguments: object, **keywords: object) -> Tensor:
        return tensor if tensor.is_meta else fill(tensor, *arguments, **keywords)

    return fill_or_leave
