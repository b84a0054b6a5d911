"""Random generators that stay as they are while something else draws numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def unchanged_generators(device: torch.device | None = None) -> Iterator[None]:
    """Restore the random generators of torch, NumPy and Python afterwards, so that a run does not depend on what happens meanwhile.

    Args:
        device: whose generator is restored too; None or the CPU: that of the CPU alone.
    """
    kept = np.random.get_state(), random.getstate()
    others, kind = [], "cuda"
    if device is not None and device.type not in ("cpu", "meta") and torch.get_device_module(device).is_available():
        others, kind = [device], device.type
    try:
        with torch.random.fork_rng(devices=others, device_type=kind):
            yield
    finally:
        np.random.set_state(kept[0])
        random.setstate(kept[1])
