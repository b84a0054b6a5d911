"""Batches of pictures of their own sizes with about the same number of patches each: many small pictures, or few large ones.

Each batch has one length, the largest number of patches of a picture, and as many pictures as a budget of patches allows. Lengths are
drawn by the seed, equal for all processes of a step; which pictures a batch has is a pure function of seed and epoch without any state,
so that training can resume within an epoch. A picture may come at any length, so that a model learns to see at all of them.

Source: Dehghani et al. 2023 (NaViT, arXiv 2307.06304), sections 2.2 and 3.4; lengths and rounding as timm ``naflex_dataset.py``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from zoo.data.loader import Draw, Item, ProcessedSplit
from zoo.data.planned import Planned
from zoo.data.system_processor import CONVERSATION, Processor
from zoo.errors import ConfigError
from zoo.processors.image import ImageProcessor
from zoo.types import Batch, Sample

LENGTHS = (128, 256, 576, 784, 1024)  # timm's
LENGTH_STREAM, SHUFFLE_STREAM = 3, 4  # parts of the seeds, to keep them apart from those of permutations and items


class BudgetBatches(Planned[tuple[int, Int[np.ndarray, " pictures"]]]):
    """Dataset of parts of batches for training; it replaces ``ProcessedSplit``.

    One step uses ``per_step`` parts of one length, divided over the processes. All epochs have the same lengths, in another order; the
    pictures that fill no step are left out, others in each epoch.

    Args:
        data: split with a processor of images whose tiler has a budget of patches (``max_patches``).
        tokens: largest number of patches of a part: ``tokens // length`` pictures.
        lengths: numbers of patches, each the budget of a picture in some of the batches.
        multiple_of: numbers of pictures are rounded down to multiples of this, but to no less than 1.
        seed: seed of the run.
        per_step: parts of a step, ``training.batch_size``.

    Raises:
        ConfigError: a length has no room in ``tokens``, the images have no such tiler, the data are mixed, or there are too few pictures.
    """

    def __init__(
        self,
        data: ProcessedSplit,
        *,
        tokens: int,
        lengths: Sequence[int] = LENGTHS,
        multiple_of: int = 8,
        seed: int,
        per_step: int,
    ) -> None:
        images = data.processor.get("image")
        _refuse(data, images)
        if not lengths or min(lengths) < 1 or max(lengths) > tokens or multiple_of < 1:
            raise ConfigError(
                f"tokens: {tokens}, lengths {list(lengths)}, multiple_of {multiple_of}; allowed are lengths of 1 to tokens patches"
            )
        super().__init__(data, seed)
        self.per_step = per_step
        rooms = {length: tokens // length for length in lengths}
        self.counts = {length: max(room // multiple_of * multiple_of, 1) for length, room in rooms.items()}
        self.at_length = {length: _with_length(data, images, length) for length in lengths}
        self.steps = self._draw(list(lengths))
        if not self.steps:
            most = min(self.counts.values()) * per_step
            raise ConfigError(f"tokens: {tokens} makes steps of {most} pictures or more, but there are {len(data)}; lower it")

    def _draw(self, lengths: list[int]) -> list[int]:
        """Return the length of each step of an epoch: at random, while there are pictures for it."""
        generator, left, drawn = np.random.default_rng((self.seed, LENGTH_STREAM)), len(self.data), []
        while fitting := [length for length in lengths if self.counts[length] * self.per_step <= left]:
            drawn.append(fitting[int(generator.integers(len(fitting)))])
            left -= self.counts[drawn[-1]] * self.per_step
        return drawn

    def __len__(self) -> int:
        return len(self.steps) * self.per_step

    def report(self) -> dict[str, Any]:
        """Return figures for the log: steps of an epoch by length, and pictures of each of their parts."""
        steps = Counter(self.steps)
        return {
            "steps_by_length": {str(k): steps[k] for k in self.counts},
            "pictures_by_length": {str(k): n for k, n in self.counts.items()},
        }

    def _planned(self, drawn: Int[np.ndarray, " items"], epoch: int) -> list[tuple[int, Int[np.ndarray, " pictures"]]]:
        """Return the parts of an epoch: the length of each, and the numbers of its pictures."""
        steps = np.random.default_rng((self.seed, epoch, SHUFFLE_STREAM)).permutation(np.array(self.steps))
        parts = [int(length) for length in steps for _ in range(self.per_step)]
        ends = np.cumsum([self.counts[length] for length in parts])
        return [(length, drawn[end - self.counts[length] : end]) for length, end in zip(parts, ends, strict=True)]

    def __getitem__(self, draw: Draw) -> Item:
        """Return the processed pictures of a part."""
        assert draw.seed is not None
        epoch = draw.seed[1]
        length, pictures = self.plan(epoch)[draw.index]
        items = [self.at_length[length][Draw(int(index), (self.seed, epoch, int(index)))] for index in pictures]
        faults = tuple(fault for item in items for fault in item.faults)
        return Item(Sample(f"part {draw.index}", {}), {"items": items}, draw.seed, faults, len(items))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Collate the pictures of all parts."""
        return self.data.collate([each for item in items for each in item.tensors["items"]])


def _refuse(data: ProcessedSplit, images: ImageProcessor | None) -> None:
    tiler = None if images is None else images.tiler
    if CONVERSATION in data.processor.parts or tiler is None or tiler.max_patches is None:
        raise ConfigError(
            "tokens: batches by a budget of patches need a system whose images are cut by one, and no language model; set "
            "system.processor.image.tiler={kind: budget}, or data.token_batches=null"
        )
    if data.mix is not None:
        raise ConfigError("tokens: batches by a budget cannot be combined with data.mix; set one of the two to null")


def _with_length(data: ProcessedSplit, images: ImageProcessor, length: int) -> ProcessedSplit:
    """Return the split with pictures of at most ``length`` patches."""
    settings = dict(images.settings)
    part = ImageProcessor(**{**settings, "tiler": {**settings["tiler"], "max_patches": length}})
    return ProcessedSplit(data.split, Processor({**data.processor.parts, "image": part}), data.augmentation, None, data.masking)
