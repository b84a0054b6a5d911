"""Hashes of what a training run consists of, layer by layer, so that the first layer that differs can be named."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.types import Batch

LAYERS = ("batch", "random state", "parameters", "optimizer state", "gradients", "parameters after")


def hash_tensors(named: Iterable[tuple[str, Tensor | None]]) -> str:
    """Hash of names, types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in named:
        if tensor is None:
            digest.update(f"{name} none;".encode())
            continue
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def hash_batch(batch: Batch) -> str:
    """Hash of a batch with its ids."""
    tables = {"inputs": batch.inputs, "masks": batch.masks, "targets": batch.targets, "features": batch.features}
    named = [(f"{table}.{key}", tensor) for table, tensors in tables.items() for key, tensor in sorted(tensors.items())]
    return hash_tensors(named) + hashlib.blake2b(json.dumps(batch.ids).encode(), digest_size=4).hexdigest()


def hash_random_state() -> str:
    """Hash of the generators of Python, NumPy and torch."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr(random.getstate()).encode())
    state: Any = np.random.get_state()
    digest.update(state[1].tobytes() + str(state[2:]).encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


def hash_parameters(model: nn.Module) -> str:
    """Hash of parameters and buffers."""
    return hash_tensors(sorted(model.state_dict().items()))


def hash_gradients(model: nn.Module) -> str:
    """Hash of the gradients."""
    return hash_tensors((name, p.grad) for name, p in model.named_parameters())


def hash_optimizer(optimizer: Optimizer) -> str:
    """Hash of the optimizer's tensors, in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return hash_tensors((f"{i}.{key}", torch.as_tensor(value)) for i in sorted(state) for key, value in sorted(state[i].items()))


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first layer, in the order of a training step, whose hashes differ; None where all that both have agree."""
    return next((layer for layer in LAYERS if layer in ours and layer in theirs and ours[layer] != theirs[layer]), None)
