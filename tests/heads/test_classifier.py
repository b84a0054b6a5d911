"""Invariants of the classification head."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import zoo
from zoo.interop import vig
from zoo.interop.vit import timm_vit
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly
from zoo.types import Encoded, EncoderSpec

SIZES = {"image_size": 32, "patch_size": 8, "dim": 48, "depth": 2, "num_heads": 3}
INPUTS = {"image": EncoderSpec("image", 24)}


def build_head(**keywords):
    return build_part("head", {"name": "classifier", **keywords}, "system.head", inputs=INPUTS)


def encode(pooled):
    """Return an ``Encoded`` with these pooled vectors and two tokens per item."""
    return {"image": Encoded(torch.stack([pooled, -pooled], 1), pooled, torch.ones(len(pooled), 2, dtype=torch.bool))}


def batch_of(labels, items=4):
    return zoo.Batch({"image": torch.rand(items, 3, 32, 32)}, {}, {} if labels is None else {"labels": labels})


@pytest.mark.parametrize("pool", ["token", "map"])
def test_logits_equal_timm(pool):
    timm_sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 7}
    reference = VisionTransformer(**timm_sizes, global_pool=pool, class_token=pool == "token").eval()
    nn.init.normal_(reference.head.weight)
    state = timm_vit.to_zoo(reference.state_dict(), drop=("head",))
    parts = {"head.linear.weight": reference.head.weight, "head.linear.bias": reference.head.bias}
    for name, tensor in state.items():  # timm's pool is part of its trunk, here it belongs to the head
        parts[f"head.{name}" if name.startswith("attention_pool") else f"encoders.image.{name}"] = tensor
    encoder = {"name": "vit", **SIZES, "class_token": pool == "token", "pool": "cls" if pool == "token" else "none"}
    head = {"name": "classifier", "num_classes": 7, **({"pool": "attention", "num_heads": 3} if pool == "map" else {})}
    system = zoo.create_system({"encoders": {"image": encoder}, "head": head})
    load_strictly(system, parts, origin="timm")
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(system.logits(pixels), reference(pixels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_the_hidden_layer_equals_the_convolutions_of_vision_gnn(training):
    reference = nn.Sequential(nn.Conv2d(24, 16, 1), nn.BatchNorm2d(16), nn.GELU(), nn.Dropout(0.0), nn.Conv2d(16, 5, 1))
    nn.init.normal_(reference[1].weight)
    reference[1].running_var.uniform_(0.5, 2)
    head = build_head(num_classes=5, hidden_dim=16).train(training)
    load_strictly(head, vig.classifier_to_zoo({f"prediction.{k}": v for k, v in reference.state_dict().items()}), origin="vig")
    x = torch.randn(6, 24)
    expected = reference.train(training)(x[:, :, None, None]).flatten(1)
    torch.testing.assert_close(head.project(encode(x)["image"]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(head.hidden_norm.running_var, reference[1].running_var, atol=1e-5, rtol=0)


def test_the_loss_of_hard_labels_equals_timm():
    head, x, labels = build_head(num_classes=5, label_smoothing=0.1), torch.randn(4, 24), torch.tensor([0, 3, 4, 3])
    found = head(encode(x), batch_of(labels))
    torch.testing.assert_close(found.loss, LabelSmoothingCrossEntropy(0.1)(found.outputs["logits"], labels), atol=1e-6, rtol=0)


def test_the_loss_of_soft_labels_equals_timm_and_smoothing_mixes_in_even_ones():
    x, labels = torch.randn(4, 24), torch.rand(4, 5).softmax(1)
    head = build_head(num_classes=5)
    plain = head(encode(x), batch_of(labels))
    torch.testing.assert_close(plain.loss, SoftTargetCrossEntropy()(plain.outputs["logits"], labels), atol=1e-6, rtol=0)
    head.label_smoothing = 0.2
    smoothed = head(encode(x), batch_of(labels))
    expected = SoftTargetCrossEntropy()(plain.outputs["logits"], 0.8 * labels + 0.2 / 5)
    torch.testing.assert_close(smoothed.loss, expected, atol=1e-6, rtol=0)
    assert smoothed.metrics == {}, "top-1 of soft labels has no meaning"


def test_one_hot_labels_give_the_loss_of_hard_ones():
    head, x, labels = build_head(num_classes=5, label_smoothing=0.1), torch.randn(4, 24), torch.tensor([0, 3, 4, 3])
    hard = head(encode(x), batch_of(labels)).loss
    torch.testing.assert_close(head(encode(x), batch_of(F.one_hot(labels, 5).double())).loss, hard)


def test_top1_is_the_share_of_right_guesses():
    head = build_head(num_classes=24)
    nn.init.eye_(head.linear.weight)
    output = head(encode(torch.eye(24)[:4]), batch_of(torch.tensor([0, 1, 2, 9])))
    assert output.metrics["top1"].item() == 0.75


@pytest.mark.card("classifier_vit_nano", "batch-invariant")
def test_a_batch_gives_what_single_items_give(card_figure):
    images = [np.random.default_rng(i).integers(0, 256, (20 + i, 40, 3), dtype=np.uint8) for i in range(5)]
    largest = 0.0
    for keywords in ({}, {"hidden_dim": 16}, {"pool": "attention", "num_heads": 2}):
        system = zoo.create_system({"encoders": {"image": "vit_nano"}, "head": {"name": "classifier", "num_classes": 4, **keywords}}).eval()
        together, chunked = system.classify(images), system.classify(images, batch_size=2)
        alone = torch.cat([system.classify([image]) for image in images])
        largest = max(largest, (together - alone).abs().max().item(), (together - chunked).abs().max().item())
    card_figure(f"max difference {largest:.1e}")
    assert largest < 1e-5


def test_texts_are_classified_too_and_padding_changes_nothing():
    encoder = {
        "name": "text",
        "vocab_size": 300,
        "context_length": 16,
        "dim": 24,
        "depth": 1,
        "num_heads": 2,
        "causal": False,
        "pool": "none",
    }
    head = {"name": "classifier", "num_classes": 3, "pool": "attention", "num_heads": 2}
    system = zoo.create_system({"encoders": {"text": encoder}, "head": head, "processor": {"text": {"vocab_size": 300}}}).eval()
    ids = torch.tensor([[1, 7, 9, 2]])
    torch.testing.assert_close(system.logits(F.pad(ids, (0, 5))), system.logits(ids), atol=1e-5, rtol=0)


def test_probabilities_sum_to_one_and_zeros_give_even_ones():
    config = {"encoders": {"image": "vit_nano"}, "head": {"name": "classifier", "num_classes": 4, "init": "zeros"}}
    found = zoo.create_system(config).classify(torch.rand(3, 3, 32, 32))
    torch.testing.assert_close(found, torch.full((3, 4), 0.25))
    assert not torch.equal(build_head(num_classes=4).linear.weight, torch.zeros(4, 24))


def test_dropout_works_in_training_only():
    head, x = build_head(num_classes=3, dropout=0.5), encode(torch.randn(2, 24))["image"]
    assert not torch.equal(head.project(x), head.project(x))
    head.eval()
    assert torch.equal(head.project(x), head.project(x))


def test_class_names_travel_with_the_weights(tmp_path):
    names = ["ankle boot", "bag", "\N{LATIN SMALL LETTER E WITH ACUTE}toile"]
    system = zoo.create_model("classifier_vit_nano", head={"class_names": names})
    loaded = zoo.load(zoo.save(system, tmp_path / "model"))
    assert loaded.head.class_names == names and loaded.head.num_classes == 3
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.classify(pixels), system.classify(pixels))


REFUSED = {
    "pool: there is no 'encoders'; did you mean 'encoder'": {"pool": "encoders"},
    "init: there is no 'zero'; did you mean 'zeros'": {"init": "zero"},
    "num_classes: 1; a classifier needs 2 or more": {"num_classes": 1},
    "class_names: 2 names for num_classes 3": {"num_classes": 3, "class_names": ["a", "b"]},
    "class_names: name 2 of 2 is empty": {"class_names": ["a", " "]},
    "class_names: 'cats' is one string": {"class_names": "cats"},
    "label_smoothing: 1.0; allowed is 0 to below 1": {"label_smoothing": 1.0},
    "dropout: -0.1; allowed": {"dropout": -0.1},
    "hidden_dim: got 0; allowed are whole numbers from 1": {"hidden_dim": 0},
    "num_heads: pool 'attention' needs it": {"pool": "attention"},
    "num_heads: 5 does not divide dim 24": {"pool": "attention", "num_heads": 5},
    "num_heads: 4 has no effect with pool 'encoder'": {"num_heads": 4},
}


@pytest.mark.parametrize("message", REFUSED)
def test_keywords_that_make_no_classifier_are_refused(message):
    with pytest.raises(zoo.ConfigError, match=f"system.head.{message}"):
        build_head(**REFUSED[message])


def test_an_encoder_that_does_not_pool_is_refused_with_both_ways_out():
    with pytest.raises(zoo.ConfigError, match="system.head.pool: .*set system.encoders.image.pool to one that pools, or pool=attention"):
        zoo.create_model("classifier_vit_nano", encoders={"image": {"pool": "none"}})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"the batch has no targets\['labels'\], which head 'classifier' reads"),
        (torch.tensor([1, 2, 3]), r"labels have shape \[3\]; expected are class indices \[batch\] with shape \[4\]"),
        (torch.rand(4, 3), r"labels have shape \[4, 3\]; expected are probabilities .* with shape \[4, 5\]"),
    ],
)
def test_labels_that_are_missing_or_of_another_shape_are_refused(labels, message):
    with pytest.raises(zoo.DataError, match=message):
        build_head(num_classes=5)(encode(torch.randn(4, 24)), batch_of(labels))


def test_a_batch_without_the_modality_and_a_batch_of_one_under_batchnorm_are_refused():
    head = build_head(num_classes=5, hidden_dim=8)
    with pytest.raises(zoo.DataError, match="the batch holds no image"):
        head({}, batch_of(torch.arange(4)))
    with pytest.raises(zoo.DataError, match="a batch of one item"):
        head(encode(torch.randn(1, 24)), batch_of(torch.tensor([0]), items=1))
    with pytest.raises(zoo.DataError, match="the list of image inputs is empty"):
        zoo.create_model("classifier_vit_nano").classify([])


def test_a_source_fills_names_and_number():
    from zoo.heads.classifier import Classifier

    names = ["cat", "dog"]
    assert Classifier.complete({"num_classes": None}, class_names=names) == {"num_classes": 2, "class_names": names}
    renamed = {"num_classes": 2, "class_names": ["Katze", "Hund"]}
    assert Classifier.complete(renamed, class_names=names) == renamed
    assert Classifier.complete({"num_classes": 9}, class_names=None) == {"num_classes": 9}, "nothing was read yet"


@pytest.mark.parametrize(
    ("keywords", "names", "message"),
    [
        (
            {"num_classes": 10},
            ["cat", "dog"],
            r"num_classes: 10, but .* has 2 classes \(cat, dog\); set system.head.num_classes=2",
        ),
        ({"class_names": ["a", "b", "c"]}, ["cat", "dog"], "class_names: 3 names .* are not the 2 of the source at data.source"),
        ({"class_names": ["dog", "cat"]}, ["cat", "dog"], "class_names: 2 names .* in its order"),
        ({}, [], "the source at data.source has no class names"),
    ],
)
def test_a_source_of_other_classes_is_refused(keywords, names, message):
    from zoo.heads.classifier import Classifier

    with pytest.raises(zoo.ConfigError, match=message):
        Classifier.complete(keywords, class_names=names)
