"""Sharded training states: torch's distributed checkpoint writes the part of each process, and reads them for any number of processes."""

import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from zoo.errors import WeightsError
from zoo.storage.tensors import read_tensors
from zoo.training.sharding.sharded import ShardedAverage
from zoo.training.state import SHARDED as FOLDER

MODEL, OPTIMIZER, AVERAGE, COUNT = "model.", "optimizer.", "average.", "average_updates"
UNUSED = "unused"  # stands for the optimizer state of a parameter that never had a gradient
WHOLE_FILES = ("model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl")  # Accelerate's, of a state that is not sharded
# The index of a distributed checkpoint is a pickle, which could run any code; an index of tensors consists of these classes alone.
INDEX_CLASSES = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("pathlib", "PosixPath"),
    *(("torch.distributed.checkpoint.metadata", f"{name}Metadata") for name in ("", "TensorStorage", "ChunkStorage")),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in ("MetadataIndex", "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING")
    ),
}


class TrainedState:
    """Everything that training changes, by name: weights, buffers, optimizer state, moving average; sharded or not.

    Args:
        model: without wrapper.
        optimizer: AdamW over the model's trained weights.
        average: moving average, or None.
        order: names of the trained weights in the order of an optimizer that is not sharded.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, average: Any, order: Sequence[str]) -> None:
        self.model, self.optimizer, self.average, self.order = model, optimizer, average, order
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}

    def save(self, state: Path) -> None:
        """Write the parts of all processes to the folder of a state."""
        with _first_failure():
            save(self._tensors(), storage_writer=FileSystemWriter(state / FOLDER), no_dist=not dist.is_initialized())

    def load(self, state: Path) -> None:
        """Restore what ``save`` wrote, with this number of processes or another.

        Raises:
            ValueError: the state was saved with other trained weights.
            KeyError: the state lacks a tensor.
        """
        reader = _Reader(state / FOLDER)
        names = set(reader.read_metadata().state_dict_metadata)
        states = {name.removeprefix(OPTIMIZER).rpartition(".")[::2] for name in names if name.startswith(OPTIMIZER)}
        self._make_optimizer_state({name for name, _ in states}, {name for name, key in states if key == UNUSED})
        tensors = self._tensors()
        if missing := sorted(set(tensors) - names):
            raise KeyError(f"the state has no {missing[0]}")
        with _first_failure():
            load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())

    def load_whole(self, state: Path) -> None:
        """Restore a state that was saved without sharding.

        Raises:
            ValueError: the state was saved with other trained weights.
            KeyError: the state lacks a tensor.
        """
        model, optimizer, average = (state / name for name in WHOLE_FILES)
        weights = read_tensors(model)
        saved = torch.load(optimizer, map_location="cpu", weights_only=True)
        steps = [index for group in saved["param_groups"] for index in group["params"]]
        if len(steps) != len(self.order):
            raise ValueError(f"{len(steps)} trained weights were saved, this run has {len(self.order)}")
        moments = {name: saved["state"].get(index, {UNUSED: torch.zeros(())}) for name, index in zip(self.order, steps, strict=True)}
        self._make_optimizer_state(set(moments), {name for name, moment in moments.items() if UNUSED in moment})
        found = {f"{MODEL}{name}": tensor for name, tensor in weights.items()}
        found |= {f"{OPTIMIZER}{name}.{key}": tensor for name, moment in moments.items() for key, tensor in moment.items()}
        if self.average is not None:
            averages = torch.load(average, map_location="cpu", weights_only=True)
            found |= {f"{AVERAGE}{name.removeprefix('module.')}": tensor for name, tensor in averages.items()}
            found[COUNT] = averages["n_averaged"]
        aliases = {name: id(p) for name, p in self.model.named_parameters(remove_duplicate=False)}
        for name, tensor in self._tensors().items():
            if name not in found:  # of tied weights, only one is saved
                bare = name.removeprefix(MODEL)
                twins = [f"{MODEL}{other}" for other, key in aliases.items() if key == aliases.get(bare)]
                name = next(other for other in (*twins, name) if other in found or other == name)
            _put(tensor, found[name])

    def _tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; loading writes into them."""
        named = dict(self._weights())
        state = self.optimizer.state
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                moments = state[parameter] if parameter in state else {UNUSED: torch.zeros(())}
                named |= {f"{OPTIMIZER}{self.names[id(parameter)]}.{key}": value for key, value in moments.items()}
        if isinstance(self.average, ShardedAverage):
            named |= {f"{AVERAGE}{name}": tensor for name, tensor in self.average.tensors.items()} | {COUNT: self.average.count}
        elif self.average is not None:
            averages = self.average.module.named_parameters()
            named |= {f"{AVERAGE}{name}": p.detach() for name, p in averages if p.requires_grad} | {COUNT: self.average.n_averaged}
        return named

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        saved = set(self.model.state_dict())
        for name, parameter in self.model.named_parameters():
            if parameter.is_floating_point():  # quantised weights never change
                yield f"{MODEL}{name}", parameter.detach()
        for name, buffer in self.model.named_buffers():
            if name in saved:
                yield f"{MODEL}{name}", buffer

    def _make_optimizer_state(self, saved: set[str], unused: set[str]) -> None:
        """Make empty optimizer states to load into."""
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        if different := sorted(saved ^ {self.names[id(p)] for p in trained}):
            raise ValueError(f"{different[0]} was trained then or is trained now, but not both")
        for p in trained:
            self.optimizer.state.pop(p, None)
            if self.names[id(p)] not in unused:
                step = torch.zeros((), dtype=torch.float32, device=p.device)
                self.optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


@contextmanager
def _first_failure() -> Iterator[None]:
    """Raise the error of the first process that failed in place of torch's collection, which is no ``Exception``."""
    try:
        with warnings.catch_warnings():  # a single process may read the state of several; torch warns about it
            warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
            yield
    except CheckpointException as failed:
        error, _ = next(iter(failed.failures.values()))
        raise error from None


def _put(target: Tensor, full: Tensor) -> None:
    """Write a whole tensor into one that may be sharded; every process has the whole."""
    with torch.no_grad():
        full = full.to(target.device).view(target.shape)
        target.copy_(
            distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None) if isinstance(target, DTensor) else full
        )


class _Reader(FileSystemReader):
    """Reader of a distributed checkpoint that runs no code of it."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Read the index.

        Raises:
            WeightsError: the index would run code.
        """
        with Path(self.path, ".metadata").open("rb") as file:
            metadata = _IndexReader(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _IndexReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return a class of an index of tensors, or a dtype."""
        found = super().find_class(module, name) if (module, name) in INDEX_CLASSES or module == "torch" else None
        if (module, name) in INDEX_CLASSES or isinstance(found, torch.dtype):
            return found
        raise WeightsError(f"{FOLDER}/.metadata: contains {module}.{name}, which no state of zoo has; it could run code")
