"""Cached features of frozen encoders equal those of a plain run, and training on them equals plain training."""

import numpy as np
import pytest
import torch

import zoo
from zoo.assembly.compose import compose
from zoo.runs.train import train
from zoo.training.feature_cache import FOLDER, FeatureSplit
from zoo.training.log import read_lines

TOWERS = ["training.freeze=[encoders]", "system=clip_vit_nano"]
SMALL = [
    "data=digit_pairs",
    "data.source.scenes=400",  # one epoch of six steps
    "training.max_steps=6",
    "training.batch_size=64",
    "training.checkpoint_every=3",
    "training.evaluate_every=6",
    "training.log_every=1",
    "training.threads=1",
    "data.num_workers=0",
    "evaluation=zero_shot",
    "evaluation.limit=32",
]


def run(folder, *words):
    train(compose("train", [*TOWERS, *SMALL, f"run_dir={folder}", *words]))
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl") if line["kind"] == "train"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same six steps, the towers in every step and run once before; one epoch has more steps than that."""
    folder = tmp_path_factory.mktemp("frozen")
    return {"plain": run(folder / "plain"), "once": run(folder / "once", "training.cache_features=1"), "folder": folder}


def test_training_on_kept_features_is_training_on_the_towers(runs):
    assert len(runs["plain"]) == 6 and runs["plain"][0] != runs["plain"][-1]
    np.testing.assert_allclose(runs["once"], runs["plain"], rtol=2e-3)  # features are kept in fp16


def test_the_saved_model_is_whole(runs):
    system = zoo.load(runs["folder"] / "once" / "last")
    assert system.embed("text", ["a photo of the digit 3"]).shape == (1, system.head.embed_dim)


def test_each_pass_is_augmented_anew(tmp_path):
    run(tmp_path / "two", "training.cache_features=2")
    split = FeatureSplit(tmp_path / "two" / FOLDER, 1)
    image = split.features["image"]
    first, second = image[: len(image) // 2], image[len(image) // 2 :]
    assert len(first) == len(second) and not np.allclose(first, second, atol=1e-3)


def test_passes_may_differ_by_modality(tmp_path):
    run(tmp_path / "run", "training.cache_features={image: 1, text: 3}")
    split = FeatureSplit(tmp_path / "run" / FOLDER, 1)
    assert len(split.features["text"]) == 3 * len(split.features["image"]) == 3 * len(split.targets["groups"])
    with pytest.raises(zoo.ConfigError, match="give a number of 1 or more for each of: image, text"):
        run(tmp_path / "bad", "training.cache_features={image: 1}")


def test_gradient_caching_works_on_cached_features(tmp_path):
    words = ["training.cache_features=1", "training.accumulate=2", "training.batch_size=32", "training.accumulation=grad_cache"]
    losses = run(tmp_path / "run", *words)
    assert len(losses) == 6 and all(np.isfinite(losses))


def test_a_mix_of_pictures_cannot_go_with_kept_features(tmp_path):
    with pytest.raises(zoo.ConfigError, match="cache_features: data.mix needs the inputs"):
        zoo.check(compose("train", [*TOWERS[1:], "training.freeze=[encoders]", "training.cache_features=1", "data.mix={mixup: 0.8}"]))


def test_a_tower_that_is_trained_is_refused(tmp_path):
    with pytest.raises(zoo.ConfigError, match="cache_features: encoders.text.* is trained.*freeze it"):
        run(tmp_path / "bad", "training.cache_features=1", "training.freeze=[encoders.image]")


def test_only_the_linear_layer_behind_the_pool_may_be_trained(tmp_path):
    words = [
        "system.encoders.image.class_token=true",
        "system.encoders.image.pool=concat",
        "system.encoders.image.pool_layers=[0,-1]",
        "training.cache_features=1",
    ]
    parts = [f"encoders.image.{name}" for name in ("patch", "blocks", "norm", "class_token", "positions")]
    losses = run(tmp_path / "pool", *words, f"training.freeze=[encoders.text,{','.join(parts)}]", "training.learning_rate=0.01")
    assert losses[-1] < losses[0]
    image = zoo.load(tmp_path / "pool" / "last").encoders["image"]
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(image.from_features(image.features(pixels)).pooled, image(pixels).pooled)


@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (["system=llava_nano", "data=digit_questions"], "patches"),
        (["system=classifier_vit_nano", "system.head.pool=attention", "system.head.num_heads=2"], "tokens"),
    ],
)
def test_a_head_that_reads_more_than_pooled_vectors_is_refused(words, reads):
    with pytest.raises(zoo.ConfigError, match=f"training.cache_features: keeps the pooled vectors.*reads their {reads}"):
        zoo.check(compose("train", [*words, "training.freeze=[encoders]", "training.cache_features=1"]))
