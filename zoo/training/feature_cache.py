"""Feature cache: run frozen encoders once, store their features on disk, and train on the stored features.

A frozen encoder (LiT, Zhai et al. 2021, arXiv 2111.07991, section 3) computes the same features in every epoch. With 4 passes, the
features of each item are stored four times, with the augmentation of the first four epochs of a plain run; epoch e uses pass e % 4.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.loader import Draw, Item, Order, ProcessedSplit, StepSampler, training_loader
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError
from zoo.storage.files import atomic_directory
from zoo.types import Batch, Encoder, Sample

FOLDER, OLD_FOLDER = "feature_cache", "frozen"  # folder names in a run directory; the old one until the next release


class FeatureSplit:
    """Training split of stored encoder features; used in place of ``ProcessedSplit``.

    Args:
        folder: folder written by ``keep_features``.
        length: number of items of the split (one pass).
        order: function that gives the order of an epoch; None shuffles.
    """

    skips = None

    def __init__(self, folder: Path, length: int, order: Callable[[int, int], Order] | None = None) -> None:
        self.length, self.order = length, order
        self.features = {path.stem: np.load(path, mmap_mode="r") for path in sorted((folder / "features").glob("*.npy"))}
        self.targets = {path.stem: np.load(path) for path in sorted((folder / "targets").glob("*.npy"))}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> Item:
        assert draw.seed is not None
        return Item(Sample(f"item {draw.index}", {}), {"index": draw.index, "epoch": draw.seed[1]}, draw.seed)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Collate the stored features of these items into a batch; epoch e uses pass ``e % passes`` of each modality."""
        index, epoch = (np.array([item.tensors[key] for item in items]) for key in ("index", "epoch"))
        features = {}
        for modality, table in self.features.items():
            rows = epoch % (len(table) // self.length) * self.length + index
            features[modality] = torch.from_numpy(table[rows].astype(np.float32))
        targets = {name: torch.from_numpy(table[index]) for name, table in self.targets.items()}
        return Batch(inputs={}, targets=targets, ids=[item.sample.id for item in items], features=features)


def cache_folder(run_dir: Path) -> Path:
    """Return the folder of a run's stored features; a run that began with the old folder name keeps it."""
    old = run_dir / OLD_FOLDER
    return old if old.exists() else run_dir / FOLDER


def refuse_unfrozen(encoders: Mapping[str, Any]) -> None:
    """Raise ConfigError if a parameter that an encoder's features depend on is trained."""
    for modality, encoder in encoders.items():
        after = tuple(f"{name}." for name in encoder.after_features)
        trained = [name for name, p in encoder.named_parameters() if p.requires_grad and not name.startswith(after or ("\0",))]
        if trained:
            raise ConfigError(
                f"training.cache_features: encoders.{modality}.{trained[0]} is trained, so that stored features would be outdated; "
                f"freeze it (training.freeze), or set training.cache_features=0"
            )


def passes_of(encoders: Collection[str], passes: int | Mapping[str, int]) -> dict[str, int]:
    """Return the number of passes of each modality.

    Raises:
        ConfigError: a modality is unknown or missing, or a number is below 1.
    """
    counts = dict.fromkeys(encoders, passes) if isinstance(passes, int) else dict(passes)
    if set(counts) != set(encoders) or min(counts.values()) < 1:
        raise ConfigError(f"training.cache_features: got {counts}; give a number of 1 or more for each of: {', '.join(encoders)}")
    return counts


@torch.no_grad()
def keep_features(
    model: nn.Module,
    data: ProcessedSplit,
    folder: Path,
    *,
    passes: int | Mapping[str, int],
    batch_size: int,
    seed: int,
    num_workers: int,
    autocast: Callable[[], Any],
    tell: Callable[[int, int], None] | None = None,
) -> None:
    """Run a model's frozen encoders over the split and write ``features/MODALITY.npy`` (fp16) and ``targets/NAME.npy``.

    Row ``p * len(data) + i`` of a modality is item i of pass p. A modality that no item has is left out. If the folder
    exists, nothing is computed: a resumed run uses the features of its beginning.

    Args:
        passes: number of passes over the data, or a mapping by modality (texts are cheap, and their captions vary).
        tell: progress callback ``(done, total)`` in items over all passes and modalities.

    Raises:
        ConfigError: an encoder is trained, only some items have a modality, or ``passes`` has an unknown modality, lacks one, or has a
            number below 1.
    """
    if folder.exists():
        return
    encoders: Mapping[str, nn.Module] = dict(model.encoders)  # type: ignore[arg-type]
    refuse_unfrozen(encoders)
    counts = passes_of(encoders, passes)
    length, device, done = len(data), next(model.parameters()).device, 0
    with atomic_directory(folder) as fresh:
        for modality, encoder in encoders.items():
            alone = ProcessedSplit(data.split, Processor({modality: data.processor[modality]}), data.augmentation)
            tables: dict[str, np.ndarray] = {}
            held = 0  # items that have the modality
            for number in range(counts[modality]):
                for rows, batch in _in_order(alone, number, batch_size=batch_size, seed=seed, num_workers=num_workers):
                    batch = batch.to(device)
                    if modality in batch.inputs:
                        with autocast():
                            features = cast(Encoder, encoder).features(batch.inputs[modality], batch.masks.get(modality))
                        place = fresh / f"features/{modality}.npy"
                        _write(tables, place, rows + number * length, features.half(), counts[modality] * length)
                        held += len(rows)
                    if number == 0:
                        for name, tensor in batch.targets.items():
                            _write(tables, fresh / f"targets/{name}.npy", rows, tensor, length)
                    done += len(rows)
                    if tell is not None:
                        tell(done, length * sum(counts.values()))
            for table in tables.values():
                table.flush()  # type: ignore[attr-defined]
            if held not in (0, length * counts[modality]):
                raise ConfigError(
                    f"training.cache_features: {held} of {length * counts[modality]} items have {modality}; features are stored for all "
                    "items or for none: set training.cache_features=0"
                )


def _write(tables: dict[str, np.ndarray], path: Path, rows: np.ndarray, tensor: Tensor, length: int) -> None:
    """Write rows into a memory-mapped table on disk; the first call of a path creates the table."""
    values = tensor.cpu().numpy()
    if str(path) not in tables:
        path.parent.mkdir(exist_ok=True)
        tables[str(path)] = np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=(length, *values.shape[1:]))
    tables[str(path)][rows] = values


def _in_order(data: ProcessedSplit, number: int, *, batch_size: int, seed: int, num_workers: int) -> Any:
    """Yield the indices and the batch of all items in order, with the augmentation of epoch ``number`` of a plain run."""
    length = len(data)
    bounds = range(0, length, batch_size)
    draws = [[Draw(i, (seed, number, i)) for i in range(start, min(start + batch_size, length))] for start in bounds]
    for chosen, batch in zip(draws, training_loader(data, _Listed(draws), num_workers=num_workers), strict=True):  # type: ignore[arg-type]
        yield np.array([draw.index for draw in chosen]), batch


class _Listed(StepSampler):
    """Sampler of given batches of draws."""

    def __init__(self, draws: Sequence[Sequence[Draw]]) -> None:
        self.draws = draws

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Any:
        return iter(self.draws)
