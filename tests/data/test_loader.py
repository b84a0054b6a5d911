"""Batches are a pure function of seed and step."""

import pytest
import torch

import zoo
from zoo.data.augmentation import Augmentation
from zoo.data.loader import ProcessedSplit, StepSampler, evaluation_loader, training_loader
from zoo.registry.construct import build_part
from zoo.sources.digit_pairs import held_out_pairs
from zoo.sources.digits import DIGIT_NAMES, load_digits, split_indices


@pytest.fixture(scope="module")
def data():
    system, source = zoo.create_model("clip_vit_nano"), build_part("source", {"name": "digits"}, "data.source")
    system.processor.fit(source.captions())
    return ProcessedSplit(source.split("train"), system.processor, Augmentation(crop_scale=(0.8, 1.0), flip=0.5))


@pytest.fixture(scope="module")
def few(data):
    """The first 250 items, so that an epoch has twelve batches of 20."""
    split = build_part("source", {"name": "digits"}, "data.source").split("train")
    split.indices = split.indices[:250]
    return ProcessedSplit(split, data.processor, data.augmentation)


def batches(data, start, stop, *, batch_size=100, **keywords):
    sampler = StepSampler(len(data), batch_size=batch_size, seed=3, start=start, stop=stop, **keywords)
    return list(training_loader(data, sampler))


def same(one, other):
    return one.ids == other.ids and all(torch.equal(one.inputs[m], other.inputs[m]) for m in one.inputs)


def test_starting_later_gives_the_same_batches(few):
    whole, tail = batches(few, 0, 14, batch_size=20), batches(few, 11, 14, batch_size=20)
    assert all(same(one, other) for one, other in zip(whole[11:], tail, strict=True))


def test_workers_change_nothing(data):
    sampler = StepSampler(len(data), batch_size=50, seed=3, start=0, stop=3)
    pairs = zip(training_loader(data, sampler), training_loader(data, sampler, num_workers=2), strict=True)
    assert all(same(one, other) for one, other in pairs)


def test_ranks_share_the_global_batch(data):
    whole, halves = batches(data, 0, 2), [batches(data, 0, 2, rank=rank, world_size=2) for rank in (0, 1)]
    for step in (0, 1):
        assert halves[0][step].ids + halves[1][step].ids == whole[step].ids


def test_an_epoch_shows_each_item_at_most_once_and_the_next_in_another_order(few):
    found = [batch.ids for batch in batches(few, 0, 24, batch_size=20)]
    first, second = sum(found[:12], []), sum(found[12:], [])
    assert len(set(first)) == len(first) == 240 and first != second


def test_the_global_random_state_is_left_alone(data):
    before = torch.get_rng_state()
    batches(data, 0, 2)
    list(evaluation_loader(data, batch_size=500))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_sees_every_item_once_unvaried(data):
    ids = [name for batch in evaluation_loader(data, batch_size=500) for name in batch.ids]
    assert ids == [f"digits:{i}" for i in split_indices("train")]


def test_a_limit_takes_so_many_items_spread_over_the_split(data):
    split = split_indices("train")
    ids = [name for batch in evaluation_loader(data, batch_size=40, limit=100) for name in batch.ids]
    assert ids == [f"digits:{split[i * 1258 // 100]}" for i in range(100)]
    assert sum(map(len, evaluation_loader(data, batch_size=500, limit=5000))) == 1258


def test_the_splits_of_the_digits_share_nothing_and_hold_all_of_them():
    parts = [set(split_indices(name).tolist()) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
    images, labels = load_digits()
    assert images.shape == (1797, 8, 8) and images.max() == 255 and (labels[:3] == [0, 1, 2]).all()


def test_20_pairs_are_held_out_and_every_digit_is_seen_on_both_sides():
    pairs = held_out_pairs()
    assert len(set(pairs)) == 20
    assert all(sum(p // 10 == d for p in pairs) == sum(p % 10 == d for p in pairs) == 2 for d in range(10))


def test_held_out_pairs_never_appear_in_training():
    source = build_part("source", {"name": "digit_pairs", "scenes": 400}, "data.source")
    split = source.split("train")
    import numpy as np

    labels = {split.sample(i, np.random.default_rng(i)).label for i in range(400)}
    assert not labels & set(held_out_pairs()) and len(labels) > 70
    told = {caption for caption in source.captions()}
    assert not any(source.class_names[pair] in told for pair in held_out_pairs())


def test_a_scene_of_evaluation_is_always_the_same():
    split = build_part("source", {"name": "digit_pairs"}, "data.source").split("test_heldout")
    one, other = split.sample(3), split.sample(3)
    assert (one.inputs["image"] == other.inputs["image"]).all() and one.label in held_out_pairs()


def test_captions_name_the_digit(data):
    import numpy as np

    for i in range(20):
        sample = data.split.sample(i, np.random.default_rng(i))
        assert DIGIT_NAMES[sample.label] in sample.inputs["text"]
