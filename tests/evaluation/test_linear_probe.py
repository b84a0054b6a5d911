"""The linear probe, held against scikit-learn on raw pixels."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

import zoo
from zoo.data.system_processor import Processor
from zoo.evaluation.linear_probe import COARSE, LinearProbe, class_scores, fit, sweep
from zoo.processors.image import ImageProcessor
from zoo.types import Encoded, Encoder


class Pixels(Encoder):
    """An encoder whose features are the pixels."""

    modality, dim = "image", 192

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.processor = Processor({"image": ImageProcessor(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))})

    def forward(self, pixels, mask=None, *, reads="tokens"):
        pooled = pixels.flatten(1) * self.scale
        return Encoded(pooled[:, None], pooled, torch.ones(len(pixels), 1, dtype=torch.bool))


def raw(source, split):
    samples = [source.split(split).sample(i) for i in range(len(source.split(split)))]
    images = [np.array(Image.fromarray(s.inputs["image"]).convert("RGB").resize((8, 8), Image.Resampling.BICUBIC)) for s in samples]
    features = (np.stack(images).transpose(0, 3, 1, 2).reshape(len(images), -1) / 127.5 - 1).astype(np.float32)
    return features, np.array([sample.label for sample in samples])


def test_accuracy_equals_scikit_learns_on_standardised_features(source):
    (features, labels), (test_features, test_labels) = raw(source, "train"), raw(source, "test")
    mean, std = features.mean(0), features.std(0)
    std[std == 0] = 1  # a pixel that is the same in all training items
    reference = LogisticRegression(C=0.1, max_iter=1000).fit((features - mean) / std, labels)
    result = LinearProbe(C=0.1)(Pixels(), source, "test")
    assert (
        result.metrics["top1"] == pytest.approx(reference.score((test_features - mean) / std, test_labels)) and result.metrics["top1"] > 0.9
    )
    assert result.details["C"] == 0.1 and result.details["converged"] and result.details["train_items"] == 1258


def overlapping(count, seed):
    """Make features of three classes with many noise dimensions, so that the best C is inside the range."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=count)
    features = generator.normal(size=(count, 40)).astype(np.float32)
    features[np.arange(count), labels] += 1.2
    return torch.from_numpy(features), torch.from_numpy(labels)


def test_features_of_unequal_scales_converge_and_their_scales_change_nothing():
    features, labels = overlapping(200, 0)
    scales = torch.logspace(-3, 3, features.shape[1])
    plain, scaled = fit((features, labels), 1.0, 100), fit((features * scales + 7 * scales, labels), 1.0, 100)
    assert plain[-1].n_iter_.max() < 100 and scaled[-1].n_iter_.max() < 100
    with pytest.warns(ConvergenceWarning):  # without standardisation
        LogisticRegression(C=1.0, max_iter=100).fit(features * scales, labels)
    np.testing.assert_allclose(scaled[-1].coef_, plain[-1].coef_, rtol=0, atol=1e-2)


def test_the_sweep_finds_a_c_no_worse_than_any_of_the_coarse_ones():
    train, validation = overlapping(80, 0), overlapping(400, 1)
    C = sweep(train, validation, 300)

    def accuracy(C):
        return fit(train, C, 300).score(*validation)

    assert all(accuracy(C) >= accuracy(10.0**power) for power in (-4, -2, 0, 2))
    assert -4 < np.log10(C) < 2 and np.log10(C) * 8 == pytest.approx(round(np.log10(C) * 8))  # 8 values per decade
    assert accuracy(C) > accuracy(1e2) + 0.03


def test_the_sweep_never_sees_the_split_that_is_reported_on(clip, source, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "zoo.evaluation.linear_probe.sweep", lambda train, validation, n: seen.append((len(train[1]), len(validation[1]))) or 1.0
    )
    LinearProbe(train_limit=100, limit=20)(clip, source, "test")
    LinearProbe(train_limit=100, limit=20)(clip, source, "validation")
    assert seen == [(100, 180), (80, 20)]  # the validation split, then a fifth of the training items


def test_two_classes_and_absent_ones_have_their_scores():
    features = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    scores = class_scores(fit((features, torch.tensor([1, 1, 3, 3])), 1.0, 100), features, 5)
    assert scores.argmax(1).tolist() == [1, 1, 3, 3]
    assert torch.equal(scores.isinf(), torch.tensor([[True, False, True, False, True]]).expand(4, -1))
    torch.testing.assert_close(scores[:, 1], -scores[:, 3])


def test_a_fit_that_did_not_converge_says_so(clip, source):
    details = LinearProbe(C=1e3, max_iterations=3, limit=20)(clip, source, "test").details
    assert details["iterations"] == 3 and not details["converged"]


def test_it_reads_any_modality_and_tells_how_many_items_are_done(clip, source):
    done = []
    result = LinearProbe(C=1.0, modality="text", features="mean", train_limit=100, limit=50)(clip, source, "test", advance=done.append)
    assert result.metrics["top1"] == 1.0 and sum(done) == 150  # captions name their class


def test_training_items_of_one_class_are_refused(clip, source):
    with pytest.raises(zoo.DataError, match="all training items are of one class; raise train_limit"):
        LinearProbe(C=1.0, train_limit=1)(clip, source, "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"C": 0.0}, "^C: 0.0; allowed is above 0"),
        ({"C": float("nan")}, "^C: nan; allowed"),
        ({"max_iterations": 0}, "max_iterations: 0"),
        ({"features": "tokens"}, "features: there is no 'tokens'"),
    ],
)
def test_what_is_out_of_range_is_refused(settings, message):
    with pytest.raises(zoo.ConfigError, match=message):
        LinearProbe(**settings)


def test_without_scikit_learn_the_message_says_how_to_get_it(clip, source, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(zoo.ConfigError, match=r"needs scikit-learn.*zoo install probe"):
        LinearProbe().check(clip, source)


def test_the_coarse_values_are_those_of_the_paper():
    assert [10**power for power in COARSE] == pytest.approx([1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])
