"""Batches of pictures by a budget of patches: a pure function of seed and epoch, of one length on all ranks of a step."""

from collections import Counter

import numpy as np
import pytest
import torch

from zoo.data.budget_batches import BudgetBatches
from zoo.data.loader import Cursor, ProcessedSplit, StepSampler, training_loader
from zoo.data.mixup import Mix
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError
from zoo.processors.image import ImageProcessor
from zoo.types import Sample, Split

LENGTHS, TOKENS = (4, 9, 16), 32


class Pictures(Split):
    """Pictures of many sizes, each of the grey level of its number."""

    def __len__(self):
        return 100

    def sample(self, index, generator=None):
        height, width = 8 + index % 7 * 5, 8 + index % 5 * 9
        return Sample(str(index), {"image": np.full((height, width), index, dtype=np.uint8)}, label=index % 10)


def batches_of(tiler={"kind": "budget", "patch_size": 4}, *, per_step=2, seed=0, mix=None, **keywords):  # noqa: B006
    data = ProcessedSplit(Pictures(), Processor({"image": ImageProcessor(image_size=16, tiler=tiler)}), mix=mix)
    return BudgetBatches(data, **{"tokens": TOKENS, "lengths": LENGTHS, "multiple_of": 2, "seed": seed, "per_step": per_step, **keywords})


def loaded(data, *, rank=0, world_size=1, steps=30, cursor=None):
    keywords = {"batch_size": data.per_step, "seed": 0, "start": 0, "stop": steps, "cursor": cursor, "order": data.order}
    sampler = StepSampler(len(data), rank=rank, world_size=world_size, **keywords)
    return [(batch.ids, batch) for batch in training_loader(data, sampler)]


def test_each_step_has_one_length_and_as_many_pictures_as_the_budget_allows():
    data = batches_of()
    assert data.counts == {4: 8, 9: 2, 16: 2}
    lengths = [length for length, _ in data.plan(0)]
    assert lengths[0::2] == lengths[1::2] and set(lengths) == set(LENGTHS)
    seen = [int(index) for _, pictures in data.plan(0) for index in pictures]
    assert len(seen) == len(set(seen)) > 100 - min(data.counts.values()) * data.per_step
    for (length, pictures), (_, batch) in zip(data.plan(0)[:6], loaded(batches_of(per_step=1), steps=6), strict=False):
        assert len(pictures) == data.counts[length]
        counts = batch.grids["image"].prod(1)
        assert len(batch.inputs["image"]) == int(counts.sum()) <= TOKENS and int(counts.max()) <= max(LENGTHS)


def test_all_epochs_have_the_same_lengths_in_another_order():
    data = batches_of()
    first, second = ([length for length, _ in data.plan(epoch)] for epoch in (0, 1))
    assert Counter(first) == Counter(second) and first != second
    assert data.report()["steps_by_length"] == {str(length): count // 2 for length, count in sorted(Counter(first).items())}
    assert [length for length, _ in batches_of(seed=1).plan(0)] != first


def test_ranks_share_a_step_and_a_run_that_begins_in_the_middle_is_the_whole_one():
    whole = loaded(batches_of())
    parts = [loaded(batches_of(), rank=rank, world_size=2) for rank in (0, 1)]
    for (ids, _), (first, one), (second, other) in zip(whole, *parts, strict=True):
        assert ids == first + second and len(first) == len(second) and len(one) == len(other)
    cursor = Cursor().after(13, batch_size=2, length=len(batches_of()))
    for (ids, batch), (again, other) in zip(whole[13:], loaded(batches_of(), steps=17, cursor=cursor), strict=True):
        assert ids == again and torch.equal(batch.inputs["image"], other.inputs["image"])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tokens": 8}, "allowed are lengths of 1 to tokens patches"),
        ({"lengths": ()}, "allowed are lengths of 1 to tokens patches"),
        ({"tokens": 800, "lengths": (4,), "multiple_of": 1}, "makes steps of 400 pictures or more, but there are 100"),
        ({"tiler": None}, "need a system whose images are cut by one"),
        ({"tiler": {"kind": "fit", "patch_size": 4}}, "need a system whose images are cut by one"),
        ({"mix": Mix(num_classes=10, mixup=0.8)}, "cannot be combined with data.mix"),
    ],
)
def test_what_does_not_fit_is_refused(keywords, message):
    with pytest.raises(ConfigError, match=message):
        batches_of(**keywords)
