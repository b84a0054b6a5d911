"""Bad items are skipped and counted, or are an error, for every source and number of workers."""

import json

import numpy as np
import pytest
import torch

import zoo
from zoo.data.loader import ProcessedSplit, StepSampler, evaluation_loader, training_loader
from zoo.data.skips import Skips, Tolerant
from zoo.data.system_processor import Processor
from zoo.errors import DataError, ItemError
from zoo.processors.image import ImageProcessor
from zoo.types import Sample, Source, Split

BAD = {3: "image", 4: "image", 11: "caption"}


class Pictures(Source):
    """Forty grey pictures, of which some cannot be used."""

    class_names = ["grey"]

    def split(self, name):
        return PicturesSplit()


class PicturesSplit(Split):
    def __len__(self):
        return 40

    def sample(self, index, generator=None):
        if index in BAD:
            raise ItemError(f"item {index}: broken", BAD[index])
        return Sample(str(index), {"image": np.full((8, 8, 3), index, np.uint8)})


def data(policy="skip", share=0.5):
    return ProcessedSplit(Tolerant(Pictures(), policy, share).split("train"), Processor({"image": ImageProcessor(image_size=8)}))


def sampler(start=0, stop=10):
    return StepSampler(40, batch_size=8, seed=0, start=start, stop=stop)


def drawn(start=0, stop=10):
    return [[draw.index for draw in draws] for draws in sampler(start, stop)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_item_is_replaced_by_the_next_good_one_and_counted(num_workers):
    split = data()
    found = [list(map(int, batch.ids)) for batch in training_loader(split, sampler(), num_workers=num_workers)]
    assert found == [[{3: 5, 4: 5, 11: 12}.get(index, index) for index in step] for step in drawn()]
    # Two epochs: each bad item is met twice by itself, and item 4 twice more as the next after 3.
    assert split.skips.state()["skipped"] == {"image": 6, "caption": 2} and split.skips.items == 80 + 8
    assert split.skips.examples["caption"][0] == "item 11: broken"


def test_only_what_was_taken_is_counted():
    split = data()
    batches = iter(training_loader(split, sampler()))
    for _ in range(3):
        next(batches)
    expected = {3: 2, 4: 1, 11: 1}
    assert split.skips.total == sum(expected.get(index, 0) for step in drawn(0, 3) for index in step)


def test_a_later_start_gives_the_same_batches_and_saved_counts_go_on():
    whole, head, tail = data(), data(), data()
    batches = list(training_loader(whole, sampler()))
    list(training_loader(head, sampler(0, 6)))
    tail.skips.restore(json.loads(json.dumps(head.skips.state())))
    again = list(training_loader(tail, sampler(6, 10), num_workers=2))
    assert all(torch.equal(one.inputs["image"], other.inputs["image"]) for one, other in zip(batches[6:], again, strict=True))
    assert tail.skips.state() == whole.skips.state()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_is_the_items_own_message_also_from_a_worker(num_workers):
    with pytest.raises(DataError, match=r"^item \d+: broken$"):
        list(training_loader(data("error"), sampler(), num_workers=num_workers))
    with pytest.raises(DataError, match=r"^item 3: broken$"):
        list(evaluation_loader(data("error"), batch_size=7, num_workers=num_workers))


def test_evaluation_leaves_bad_items_out_also_where_they_fill_a_batch():
    split = data()
    found = [name for batch in evaluation_loader(split, batch_size=1) for name in batch.ids]
    assert found == [str(index) for index in range(40) if index not in BAD] and split.skips.total == 3


def test_too_large_a_share_ends_the_run_with_its_reasons():
    with pytest.raises(DataError, match=r"cannot be used \(image \d+.*max_bad_share.*item \d+: broken"):
        list(training_loader(data(share=0.01), sampler()))


def test_a_few_bad_items_at_the_start_are_no_large_share():
    skips = Skips(0.1)
    skips.add([ItemError("a", "image")] * 9, 9)
    with pytest.raises(DataError, match=r"11 of 11 items.*image 11"):
        skips.add([ItemError("b", "image")] * 2, 2)


def test_states_of_several_processes_add_up():
    one, other = Skips(), Skips()
    one.add([ItemError(f"a{i}", "image") for i in range(4)], 60)
    other.add([ItemError("b", "caption"), ItemError("c", "image"), ItemError("d", "image")], 40)
    total = Skips().restore(one.state(), other.state()).state()
    assert total == {
        "items": 100,
        "skipped": {"image": 6, "caption": 1},
        "examples": {"image": ["a0", "a1", "a2", "a3", "c"], "caption": ["b"]},
    }


def test_nothing_but_bad_items_is_an_error():
    split = data(share=1.0)
    split.split.sample = lambda index, generator=None: PicturesSplit().sample(3)
    with pytest.raises(DataError, match=r"40 items in a row cannot be used; the first error: item 3: broken"):
        list(training_loader(split, sampler()))


def test_a_tolerant_source_is_the_source_for_all_else():
    source = Tolerant(Pictures(), "skip")
    assert source.class_names == ["grey"] and len(source.split("train")) == 40
    with pytest.raises(zoo.ConfigError, match="did you mean 'skip'"):
        Tolerant(Pictures(), "skp")
    with pytest.raises(zoo.ConfigError, match="max_bad_share: 1.5"):
        Tolerant(Pictures(), "skip", 1.5)
