"""Disk cache of zero-shot classifier weights, the text embeddings of class prompts.

The file name is a hash of everything that the weights depend on: the system's config, the text encoder and its projection, the text
processor with its tokenizer, and the prompts. Files carry a checksum; a damaged file is computed again. An unwritable cache directory
disables caching.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from zoo.storage.places import cache_directory
from zoo.types import ModalityProcessor

FORMAT = 1  # increase it if a change of code changes the result for equal weights and prompts
FOLDER = "classifiers"
LARGEST = 64  # maximum number of files; the least recently used ones are removed
PIECE = 2**24  # bytes per task of a hashing thread


def classifier_vectors(system: Any, prompts: Sequence[Sequence[str]], *, cached: bool = True) -> Float[Tensor, "classes embed_dim"]:
    """Return ``system.prompt_vectors(prompts)``, from the cache if possible.

    Args:
        system: system with the method ``prompt_vectors``.
        prompts: a list of prompts for each class.
        cached: False neither reads nor writes the cache.

    Raises:
        DataError: as ``prompt_vectors``.
    """
    key = classifier_key(system, prompts) if cached else None
    if key is None:
        return system.prompt_vectors(prompts)
    path = cache_directory() / FOLDER / f"{key}.safetensors"
    found = read_vectors(path, len(prompts))
    if found is None:
        found = system.prompt_vectors(prompts)
        _write(path, found)
    return found.to(system.device)


def classifier_key(system: Any, prompts: Sequence[Sequence[str]]) -> str | None:
    """Return a hash of everything that classifier weights depend on, or None if the system cannot be identified.

    Identification needs a config, a text processor with settings and a serialisable tokenizer, and a text encoder.
    """
    if not system.config or system.processor is None or "text" not in system.encoders:
        return None
    part = system.processor["text"]
    if not isinstance(part, ModalityProcessor) or part.tokenizer is None:
        return None
    facts = {
        "format": FORMAT,
        "config": system.config,
        "processor": part.settings,
        "tokenizer": hashlib.sha256(part.tokenizer.to_str().encode()).hexdigest(),
        "tower": hash_weights(system.encoders["text"]),
        "projection": hash_weights(system.head.projections["text"]),
        "prompts": [list(own) for own in prompts],
    }
    precision = system.encoders["text"].precision
    facts |= {} if precision is None else {"precision": precision}  # the weights are stored as in fp32
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def hash_weights(module: nn.Module) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of a module's tensors.

    150 M parameters take 0.2 s on two cores with SHA instructions.
    """
    tensors = sorted(module.state_dict().items())
    names = json.dumps([(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in tensors])
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda piece: hashlib.sha256(piece).digest(), _pieces([tensor for _, tensor in tensors]))
        return hashlib.sha256(names.encode() + b"".join(digests)).hexdigest()


def _pieces(tensors: Sequence[Tensor]) -> Iterator[Any]:
    for tensor in tensors:
        if tensor.numel():
            content: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            yield from (content[start : start + PIECE] for start in range(0, len(content), PIECE))


def read_vectors(path: Path, classes: int) -> Float[Tensor, "classes embed_dim"] | None:
    """Read a cache file; returns None if it is missing, damaged or for another number of classes."""
    try:
        content = load(path.read_bytes())
        vectors, digest = content["vectors"], bytes(content["sha256"].tolist())
    except (OSError, KeyError, ValueError, TypeError, SafetensorError):
        return None
    if vectors.ndim != 2 or len(vectors) != classes or digest != _digest(vectors):
        return None
    with suppress(OSError):
        os.utime(path)  # mark as recently used
    return vectors


def _digest(vectors: Tensor) -> bytes:
    return hashlib.sha256(vectors.contiguous().flatten().view(torch.uint8).numpy().tobytes()).digest()


def _write(path: Path, vectors: Tensor) -> None:
    """Write a cache file atomically, and remove the least recently used files beyond ``LARGEST``; errors are ignored."""
    plain = vectors.detach().cpu().contiguous()
    content = save({"vectors": plain, "sha256": torch.tensor(list(_digest(plain)), dtype=torch.uint8)})
    fresh = path.with_name(f"{uuid4().hex}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_bytes(content)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    with suppress(OSError):  # another process may remove the same files
        by_age = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in by_age[LARGEST:]:
            old.unlink()
