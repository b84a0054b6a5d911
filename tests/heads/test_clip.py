"""Invariants of the contrastive head."""

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


INVARIANT = ("clip_vit_nano", "clap_whisper_nano", "clap_htsat_nano")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.card(n, "batch-invariant")) for n in INVARIANT])
def test_a_batch_gives_what_single_items_give_whatever_the_padding(name, card_figure):
    system = zoo.create_model(name)
    system.processor.fit(CAPTIONS)
    images = [np.random.default_rng(i).integers(0, 256, (20 + i, 40, 3), dtype=np.uint8) for i in range(5)]
    texts = ["cat", "a much longer caption about a dog and a house", "x"]
    clips = [np.random.default_rng(i).normal(size=3000 + 900 * i).astype(np.float32) * 0.1 for i in range(3)]
    shown, largest = {"image": images, "audio": clips, "text": texts}, 0.0
    for modality in system.encoders:
        inputs = shown[modality]
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
        (["cat"], ["a photo"], r"has no \{\}; write \{\} in the place of the label"),
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


@pytest.mark.parametrize("name", ["clip_vit_nano", "siglip_vit_nano"])
def test_class_vectors_are_the_normalised_means_of_prompts_embedded_one_by_one(name):
    system = zoo.create_model(name)
    system.processor.fit(CAPTIONS)
    prompts = [["a photo of a cat", "cat"], ["a dog"], ["a photo of a cat", "a photo", "a red shoe", "a photo"]]
    alone = {text: system.embed("text", [text])[0].double().numpy() for own in prompts for text in own}
    means = np.stack([np.mean([alone[text] for text in own], axis=0) for own in prompts])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(system.prompt_vectors(prompts).numpy(), expected, atol=1e-5)
    filled = system.prompt_vectors([["a cat", "the cat"], ["a dog", "the dog"]])
    torch.testing.assert_close(system.class_vectors(["cat", "dog"], ["a {}", "the {}"]), filled)


def test_texts_come_back_in_their_order_whatever_the_batches(system):
    texts = [*CAPTIONS, "zebra", CAPTIONS[1], "a"]
    found = system.embed("text", texts)
    torch.testing.assert_close(found, system.embed("text", texts, batch_size=2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, torch.cat([system.embed("text", [text]) for text in texts]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, system.embed("text", system.processor(text=texts).inputs["text"]), rtol=1e-5, atol=1e-5)


def test_texts_are_computed_once_each_in_bounded_batches(system):
    rows = []
    system.encoders["text"].register_forward_hook(lambda module, given, out: rows.append(len(given[0])))
    system.prompt_vectors([[f"number {i % 1500}"] for i in range(4000)])
    assert sum(rows) == 1500 and max(rows) == 2**15 // system.encoders["text"].context_length


def test_the_towers_are_told_that_only_pooled_vectors_are_read(system):
    batch = zoo.Batch(
        {"image": torch.rand(2, 3, 32, 32), "text": torch.tensor([[1, 9, 2, 0, 0], [1, 2, 0, 0, 0]])}, {}, {"groups": torch.arange(2)}
    )
    whole = system.head({name: system.encoders[name](x) for name, x in batch.inputs.items()}, batch).loss
    seen = []
    system.encoders["text"].register_forward_hook(lambda module, given, out: seen.append(out.tokens.shape[1]))
    torch.testing.assert_close(system(batch).loss, whole, rtol=1e-5, atol=1e-5)
    assert seen == [1] and system.encode("text", ["a cat and a dog"]).tokens.shape[1] > 1


@pytest.mark.parametrize("prompts, message", [([], "no classes"), ([["a"], []], "class 2 of 2"), (["a cat"], "class 1 of 1 has 'a cat'")])
def test_classes_without_prompts_are_refused(system, prompts, message):
    with pytest.raises(zoo.DataError, match=message):
        system.prompt_vectors(prompts)
