"""What must hold of the contrastive head."""

import math

import numpy as np
import pytest
import torch

import zoo

CAPTIONS = [f"a photo of a {word}" for word in ("cat", "dog", "red shoe", "house")]


@pytest.fixture
def system():
    system = zoo.create_model("clip_vit_nano")
    system.processor.fit(CAPTIONS)
    return system


@pytest.mark.card("clip_vit_nano", "batch-invariant")
def test_a_batch_gives_what_single_items_give_whatever_the_padding(system, card_figure):
    images = [np.random.default_rng(i).integers(0, 256, (20 + i, 40, 3), dtype=np.uint8) for i in range(5)]
    texts = ["cat", "a much longer caption about a dog and a house", "x"]
    largest = 0.0
    for modality, inputs in (("image", images), ("text", texts)):
        together = system.embed(modality, inputs)
        alone = torch.cat([system.embed(modality, [item]) for item in inputs])
        largest = max(largest, (together - alone).abs().max().item())
    card_figure(f"max difference {largest:.1e}")
    assert largest < 1e-5


def test_embeddings_are_unit_vectors(system):
    vectors = system.embed("text", CAPTIONS)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))


def test_classify_gives_probabilities_and_ready_tensors_pass(system):
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    raw = system.classify([image], ["cat", "dog"])
    ready = system.classify(system.processor(image=[image]).inputs["image"], ["cat", "dog"])
    torch.testing.assert_close(raw.sum(1), torch.ones(1))
    assert torch.equal(raw, ready)


def test_a_siglip_head_gives_independent_probabilities():
    system = zoo.create_model("siglip_vit_nano")
    system.processor.fit(CAPTIONS)
    found = system.classify(torch.rand(2, 3, 32, 32), ["cat", "dog"])
    assert ((found > 0) & (found < 1)).all() and not torch.allclose(found.sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], ["a {}"], "give a list of at least one label"),
        (["cat", " "], ["a {}"], "label 2 of 2 is empty"),
        (["cat", "dog", "cat"], ["a {}"], "'cat' given more than once"),
        (["cat"], ["a photo"], r"has no \{\} where the label goes"),
        ("cat", ["a {}"], "give a list"),
    ],
)
def test_wrong_labels_and_templates_are_refused(system, labels, templates, message):
    with pytest.raises(zoo.DataError, match=message):
        system.classify(torch.rand(1, 3, 32, 32), labels, templates=templates)


def test_the_temperature_is_clamped_after_a_step():
    head = zoo.create_model("clip")
    head.logit_scale.data.fill_(9.0)
    head.after_step()
    assert head.logit_scale.item() == pytest.approx(math.log(100))
    head.logit_scale.data.fill_(-1.0)
    head.after_step()
    assert head.logit_scale.item() == 0.0


def test_a_verb_that_the_head_lacks_names_those_it_has(system):
    with pytest.raises(zoo.ZooError, match="cannot 'generate'; it can: embed, classify"):
        system.generate(["hello"])
    assert not hasattr(system, "transcribe")


def test_a_modality_that_the_system_lacks_is_refused(system):
    with pytest.raises(zoo.ConfigError, match="embeds image and text, not 'audio'"):
        system.embed("audio", [np.zeros(16000)])


def test_a_batch_without_a_modality_is_refused(system):
    with pytest.raises(zoo.DataError, match="the batch holds no text"):
        system(system.processor(image=[np.zeros((32, 32, 3), dtype=np.uint8)]))


def test_equal_meanings_are_no_negatives():
    """With all items in one group every logit is a positive, so the loss is the entropy of even targets."""
    system = zoo.create_model("clip_vit_nano")
    batch = zoo.Batch({"image": torch.rand(4, 3, 32, 32), "text": torch.full((4, 3), 2)}, {}, {"groups": torch.zeros(4, dtype=torch.int64)})
    system.head.logit_scale.data.fill_(0.0)
    assert system(batch).loss.item() >= math.log(4) - 1e-4
