"""Hashes of the parts of a training state, to name the first part that differs between two runs or after a resume."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.losses.distributed import local_part
from zoo.types import Batch

LAYERS = ("batch", "random state", "parameters", "optimizer state", "gradients", "parameters after")


def hash_tensors(named: Iterable[tuple[str, Tensor | None]]) -> str:
    """Return a hash of names, types, shapes and bytes of tensors; of a sharded tensor, of this process's part."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in named:
        if tensor is None:
            digest.update(f"{name} none;".encode())
            continue
        plain = local_part(tensor.detach()).cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def hash_batch(batch: Batch) -> str:
    """Return a hash of a batch, including its ids."""
    tables = {"inputs": batch.inputs, "masks": batch.masks, "targets": batch.targets, "features": batch.features}
    named = [(f"{table}.{key}", tensor) for table, tensors in tables.items() for key, tensor in sorted(tensors.items())]
    return hash_tensors(named) + hashlib.blake2b(json.dumps(batch.ids).encode(), digest_size=4).hexdigest()


def hash_random_state() -> str:
    """Return a hash of the random states of Python, NumPy and torch (CPU)."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr(random.getstate()).encode())
    state: Any = np.random.get_state()
    digest.update(state[1].tobytes() + str(state[2:]).encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


def seed_of(*numbers: int) -> int:
    """Return a seed that is different for each sequence of numbers, and the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest())


def hash_parameters(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Return a hash of the model's parameters and buffers, or of those that it would have in another floating point type."""
    tensors = sorted(model.state_dict().items())
    return hash_tensors(
        (name, tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor) for name, tensor in tensors
    )


def hash_gradients(model: nn.Module) -> str:
    """Return a hash of the model's gradients."""
    return hash_tensors((name, p.grad) for name, p in model.named_parameters())


def hash_optimizer(optimizer: Optimizer) -> str:
    """Return a hash of the optimizer's state, in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return hash_tensors((f"{i}.{key}", torch.as_tensor(value)) for i in sorted(state) for key, value in sorted(state[i].items()))


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return the first of ``LAYERS``, in the order of a training step, whose hashes differ, or None if all common ones agree."""
    return next((layer for layer in LAYERS if layer in ours and layer in theirs and ours[layer] != theirs[layer]), None)


class Trace:
    """Writer of the hashes of every step, to find the step at which two runs differ.

    Args:
        enabled: False writes nothing and computes nothing.
    """

    def __init__(self, run_dir: Path, rank: int, enabled: bool) -> None:
        self.file, self.enabled = run_dir / f"trace_{rank}.jsonl", enabled
        self.hashes: dict[str, str] = {}

    def before(self, batch: Batch) -> None:
        """Hash what a step starts from."""
        if self.enabled:
            self.hashes = {"batch": hash_batch(batch), "random state": hash_random_state()}

    def gradients(self, model: nn.Module) -> None:
        """Hash the gradients, after the backward pass."""
        if self.enabled:
            self.hashes["gradients"] = hash_gradients(model)

    def after(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        """Hash what a step ends with, and write one line."""
        if self.enabled:
            hashes = {**self.hashes, "parameters after": hash_parameters(model), "optimizer state": hash_optimizer(optimizer)}
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **hashes}) + "\n")
