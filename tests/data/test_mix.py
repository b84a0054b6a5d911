"""Mixup and CutMix, held against batches that are mixed by hand."""

import pickle
import sys

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

import zoo
from zoo.data.augmentation import Augmentation
from zoo.data.loader import ProcessedSplit, StepSampler, evaluation_loader, training_loader
from zoo.data.mixup import Mix, refuse_mix
from zoo.registry.construct import build_part
from zoo.types import Batch

CLASSES = 5


def batch_of(count, size=16):
    labels = torch.arange(count) * 2 % CLASSES  # neighbours differ
    return Batch({"image": torch.randn(count, 3, size, size)}, targets={"labels": labels, "groups": labels + 7}, ids=["a"] * count)


def mixed(batch, seed=0, **settings):
    return Mix(num_classes=CLASSES, **settings)(batch, np.random.default_rng(seed))


def share_of(batch, result):
    """Return the share of its own image that each item kept, according to its labels."""
    return result.targets["labels"].gather(1, batch.targets["labels"][:, None])[:, 0]


@pytest.mark.parametrize("count", [2, 5, 8])
def test_mixup_blends_each_item_with_the_one_before(count):
    batch = batch_of(count)
    result = mixed(batch, mixup=0.8)
    share = float(share_of(batch, result)[0])
    pixels, one_hot = batch.inputs["image"], torch.eye(CLASSES)[batch.targets["labels"]]
    before = torch.arange(count) - 1  # the first with the last
    assert 0 < share < 1
    torch.testing.assert_close(result.inputs["image"], share * pixels + (1 - share) * pixels[before])
    torch.testing.assert_close(result.targets["labels"], share * one_hot + (1 - share) * one_hot[before])


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_pastes_one_rectangle_whose_area_is_the_labels_share(seed):
    batch = batch_of(4)
    result = mixed(batch, seed, cutmix=1.0)
    pasted = (result.inputs["image"] != batch.inputs["image"]).all(1)  # [B, height, width]
    assert (pasted == pasted[0]).all()
    rows, columns = pasted[0].any(1).nonzero().flatten(), pasted[0].any(0).nonzero().flatten()
    assert pasted[0].sum() == len(rows) * len(columns) and pasted[0][rows][:, columns].all()
    expected = torch.where(pasted[:, None], batch.inputs["image"].roll(1, 0), batch.inputs["image"])
    assert torch.equal(result.inputs["image"], expected)
    torch.testing.assert_close(share_of(batch, result), torch.full((4,), 1 - len(rows) * len(columns) / 256))


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_shares_follow_the_beta_distribution(alpha):
    batch = batch_of(2, size=1)
    shares = [float(share_of(batch, mixed(batch, seed, mixup=alpha))[0]) for seed in range(300)]
    assert kstest(shares, beta(alpha, alpha).cdf).pvalue > 0.01


def test_both_take_turns_and_some_batches_stay():
    batch = batch_of(4)
    kinds = []
    for seed in range(200):
        result = mixed(batch, seed, mixup=1.0, cutmix=1.0, switch_probability=0.25, probability=0.8)
        kept = (result.inputs["image"] == batch.inputs["image"]).flatten(1).float().mean()
        whole = torch.equal(result.targets["labels"], torch.eye(CLASSES)[batch.targets["labels"]])
        kinds.append("none" if whole and kept == 1 else "cutmix" if kept > 0 else "mixup")
    # of 200 batches 40, 40 and 120 are expected; a box that falls outside counts as none
    assert 30 < kinds.count("none") < 65 and 25 < kinds.count("cutmix") < 55 and 100 < kinds.count("mixup") < 140


def test_labels_are_probabilities_whether_mixed_or_not():
    batch = batch_of(4)
    result = mixed(batch, mixup=1.0, probability=0.0)
    assert torch.equal(result.inputs["image"], batch.inputs["image"])
    assert torch.equal(result.targets["labels"], torch.eye(CLASSES)[batch.targets["labels"]])
    labels = mixed(batch, mixup=1.0).targets["labels"]
    assert labels.dtype == torch.float32 and torch.allclose(labels.sum(1), torch.ones(4))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_one_item_mixes_with_itself(kind):
    batch = batch_of(1)
    result = mixed(batch, **{kind: 1.0})
    torch.testing.assert_close(result.inputs["image"], batch.inputs["image"])
    torch.testing.assert_close(result.targets["labels"], torch.eye(CLASSES)[:1])


def test_the_batch_that_came_in_stays_as_it_was():
    batch = batch_of(4)
    pixels, labels = batch.inputs["image"].clone(), batch.targets["labels"].clone()
    result = mixed(batch, cutmix=1.0, mixup=1.0)
    assert torch.equal(batch.inputs["image"], pixels) and torch.equal(batch.targets["labels"], labels)
    assert result.ids == batch.ids and torch.equal(result.targets["groups"], batch.targets["groups"])


@pytest.fixture(scope="module")
def data():
    source = build_part("source", {"name": "digits"}, "data.source")
    system = zoo.create_system({"encoders": {"image": "vit_nano"}, "head": {"name": "classifier", "num_classes": 10}})
    augmentation = Augmentation(crop_scale=(0.5, 1.0), rand_augment={"num_ops": 1, "magnitude": 5}, erase=0.5)
    return ProcessedSplit(source.split("train"), system.processor, augmentation, Mix(num_classes=10, mixup=0.8, cutmix=1.0))


def batches(data, start, stop, *, num_workers=0, seed=3):
    sampler = StepSampler(len(data), batch_size=100, seed=seed, start=start, stop=stop)
    return list(training_loader(data, sampler, num_workers=num_workers))


def same(one, other):
    return torch.equal(one.inputs["image"], other.inputs["image"]) and torch.equal(one.targets["labels"], other.targets["labels"])


def test_starting_later_and_workers_give_the_same_mixed_batches(data):
    whole = batches(data, 10, 14)  # 12 steps are an epoch
    assert all(same(one, other) for one, other in zip(whole[2:], batches(data, 12, 14), strict=True))
    assert all(same(one, other) for one, other in zip(whole, batches(data, 10, 14, num_workers=2), strict=True))
    assert not same(whole[0], batches(data, 10, 11, seed=4)[0])
    shares = {float(batch.targets["labels"].amax(1).min()) for batch in whole}
    assert len(shares) == 4


def test_mixing_leaves_the_global_random_state_alone(data):
    before = torch.get_rng_state()
    batches(data, 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_never_mixes(data):
    batch = next(iter(evaluation_loader(data, batch_size=50)))
    plain = next(iter(evaluation_loader(ProcessedSplit(data.split, data.processor), batch_size=50)))
    assert batch.targets["labels"].dtype == torch.int64 and same(batch, plain)


def test_workers_can_hold_it():
    copy, batch = pickle.loads(pickle.dumps(Mix(num_classes=CLASSES, mixup=0.8))), batch_of(4)
    assert same(copy(batch, np.random.default_rng(1)), mixed(batch, 1, mixup=0.8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup": -1.0}, "mixup: -1.0; allowed is 0"),
        ({"cutmix": float("nan")}, "cutmix: nan; allowed"),
        ({"mixup": 1.0, "probability": 1.5}, "probability: 1.5; allowed"),
        ({"mixup": 1.0, "cutmix": 1.0, "switch_probability": -1.0}, "switch_probability: -1.0; allowed"),
        ({}, "nothing would be mixed.*data.mix=null"),
    ],
)
def test_what_is_out_of_range_is_refused(settings, message):
    with pytest.raises(zoo.ConfigError, match=message):
        Mix(num_classes=CLASSES, **settings)


def test_without_torchvision_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(zoo.ConfigError, match=r"needs torchvision.*zoo install vision"):
        Mix(num_classes=CLASSES, cutmix=1.0)


def test_items_without_labels_are_named():
    batch = batch_of(3)
    del batch.targets["labels"]
    with pytest.raises(zoo.DataError, match="data.mix: not every item of the batch a, a, a, ... has a label"):
        mixed(batch, mixup=1.0)


def test_a_source_without_classes_and_a_system_that_reads_text_are_refused():
    with pytest.raises(zoo.ConfigError, match="data.mix: the source at data.source has no classes"):
        refuse_mix([], ["image"])
    with pytest.raises(zoo.ConfigError, match="data.mix: .* reads image, text"):
        refuse_mix(["a", "b"], ["image", "text"])
