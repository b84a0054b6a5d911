"""Frozen encoders run once: their features are kept on disk, and training goes over these.

A locked tower (LiT, Zhai et al. 2021, arXiv 2111.07991, section 3) gives the same vectors in every epoch. With ``passes`` 4, each
item is drawn four times, augmented as in the first four epochs of a plain run; every later epoch takes one of the four.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.checkpoint import atomic_directory
from zoo.data.loader import Draw, Item, Order, ProcessedSplit, StepSampler, training_loader
from zoo.errors import ConfigError
from zoo.types import Batch, Sample

FOLDER = "frozen"  # of a run directory


class FrozenSplit:
    """A training split whose encoders have run; in place of ``ProcessedSplit``.

    Args:
        folder: what ``keep_features`` wrote.
        length: items of one pass.
        passes: how many there are.
    """

    skips = None
    order: Callable[[int, int], Order] | None = None

    def __init__(self, folder: Path, length: int, passes: int) -> None:
        self.length, self.passes = length, passes
        self.features = {path.stem: np.load(path, mmap_mode="r") for path in sorted((folder / "features").glob("*.npy"))}
        self.targets = {path.stem: np.load(path) for path in sorted((folder / "targets").glob("*.npy"))}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> Item:
        assert draw.seed is not None
        epoch = draw.seed[1]
        return Item(Sample(f"item {draw.index}", {}), {"row": epoch % self.passes * self.length + draw.index}, draw.seed)

    def collate(self, items: Sequence[Item]) -> Batch:
        """The rows of these items."""
        rows = np.array([item.tensors["row"] for item in items])
        features = {m: torch.from_numpy(table[rows].astype(np.float32)) for m, table in self.features.items()}
        targets = {name: torch.from_numpy(table[rows]) for name, table in self.targets.items()}
        return Batch(inputs={}, targets=targets, ids=[item.sample.id for item in items], features=features)


def refuse_unfrozen(encoders: Mapping[str, nn.Module]) -> None:
    """Raise ConfigError where an encoder trains what its features depend on."""
    for modality, encoder in encoders.items():
        after = tuple(f"{name}." for name in getattr(encoder, "after_features", ()))
        trained = [name for name, p in encoder.named_parameters() if p.requires_grad and not name.startswith(after or ("\0",))]
        if trained:
            raise ConfigError(
                f"training.frozen_passes: encoders.{modality}.{trained[0]} is trained, so that its features change; freeze it "
                f"(training.freeze), or set training.frozen_passes=0"
            )


def features_of(encoder: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """What a frozen encoder gives before anything that is still trained."""
    return encoder.features(x, mask) if hasattr(encoder, "features") else encoder(x, mask).pooled  # type: ignore[operator]


@torch.no_grad()
def keep_features(
    model: nn.Module,
    data: ProcessedSplit,
    folder: Path,
    *,
    passes: int,
    batch_size: int,
    seed: int,
    num_workers: int,
    autocast: Callable[[], Any],
    tell: Callable[[int, int], None] | None = None,
) -> None:
    """Run a model's frozen encoders over the split ``passes`` times and write ``features/MODALITY.npy`` (fp16) and ``targets/NAME.npy``.

    Row ``p * len(data) + i`` is item i of pass p. A folder that is there is kept: a run that resumes has its features.

    Args:
        tell: hears how many items of how many are done.
    """
    if folder.exists():
        return
    encoders: Mapping[str, nn.Module] = dict(model.encoders)  # type: ignore[arg-type]
    refuse_unfrozen(encoders)
    length, device = len(data), next(model.parameters()).device
    with atomic_directory(folder) as fresh:
        tables: dict[str, np.ndarray] = {}
        for number in range(passes):
            for rows, batch in _in_order(data, number, batch_size=batch_size, seed=seed, num_workers=num_workers):
                batch = batch.to(device)
                with autocast():
                    found = {f"features/{m}": features_of(e, batch.inputs[m], batch.masks.get(m)) for m, e in encoders.items()}
                found |= {f"targets/{name}": tensor for name, tensor in batch.targets.items()}
                for name, tensor in found.items():
                    values = (tensor.half() if name.startswith("features/") else tensor).cpu().numpy()
                    if name not in tables:
                        tables[name] = _open_table(fresh / f"{name}.npy", (passes * length, *values.shape[1:]), values.dtype)
                    tables[name][rows + number * length] = values
                if tell is not None:
                    tell(number * length + int(rows[-1]) + 1, passes * length)
        for table in tables.values():
            table.flush()  # type: ignore[attr-defined]


def _in_order(data: ProcessedSplit, number: int, *, batch_size: int, seed: int, num_workers: int) -> Any:
    """Every item once, drawn as epoch ``number`` of a plain run draws it, with its indices."""
    length = len(data)
    bounds = range(0, length, batch_size)
    draws = [[Draw(i, (seed, number, i)) for i in range(start, min(start + batch_size, length))] for start in bounds]
    for chosen, batch in zip(draws, training_loader(data, _Listed(draws), num_workers=num_workers), strict=True):  # type: ignore[arg-type]
        yield np.array([draw.index for draw in chosen]), batch


class _Listed(StepSampler):
    """Batches of draws that are given."""

    def __init__(self, draws: Sequence[Sequence[Draw]]) -> None:
        self.draws = draws

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Any:
        return iter(self.draws)


def _open_table(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    path.parent.mkdir(exist_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
