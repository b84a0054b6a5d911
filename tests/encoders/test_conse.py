"""ConSE: the contract, the equation against numpy, and the way from any classifier and text encoder to it."""

import numpy as np
import pytest
import torch
import transformers

import zoo
from zoo.assembly.joined import semantic_encoder
from zoo.errors import ConfigError

NAMES = ("cat", "sports car", "tree")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A ViT classifier that transformers saved, with three names."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    config.id2label = dict(enumerate(NAMES))
    folder = tmp_path_factory.mktemp("classifier")
    model = transformers.ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return zoo.load(folder), model


@pytest.fixture(scope="module")
def text():
    return zoo.load("clip_vit_nano")


def expected_of(model, vectors, pixels, top_k, temperature):
    """Equation 3 of the paper with transformers' own classifier, in numpy."""
    with torch.no_grad():
        logits = model(pixels).logits.double().numpy() / temperature
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best = np.argsort(-shares, axis=1)[:, :top_k]
    rows = [(shares[i, own] / shares[i, own].sum()) @ vectors[own] for i, own in enumerate(best)]
    return np.stack(rows)


@pytest.mark.parametrize(("top_k", "temperature"), [(2, 1.0), (10, 1.7)])
def test_the_vector_is_the_papers_convex_combination_of_class_names(classifier, text, top_k, temperature):
    system, model = classifier
    encoder = semantic_encoder(system, text, top_k=top_k, temperature=temperature)
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    names = text.encode("text", list(NAMES), reads="pooled").pooled.detach().double()
    vectors = (names / names.norm(dim=1, keepdim=True)).numpy()
    expected = expected_of(model, vectors, pixels, top_k, temperature)
    np.testing.assert_allclose(encoder(pixels).pooled.detach().numpy(), expected, atol=1e-5)


def test_several_texts_of_a_class_are_averaged(classifier, text):
    encoder = semantic_encoder(classifier[0], text, texts=[["cat", "pet"], ["car"], ["tree", "plant", "oak"]])
    own = torch.nn.functional.normalize(text.encode("text", ["cat", "pet"], reads="pooled").pooled, dim=-1).mean(0)
    torch.testing.assert_close(encoder.class_vectors[0], own / own.norm(), atol=1e-5, rtol=1e-5)


def test_the_names_travel_with_the_weights(classifier, text, tmp_path):
    encoder, pixels = semantic_encoder(classifier[0], text), torch.rand(2, 3, 32, 32)
    loaded = zoo.load(zoo.save(encoder, tmp_path / "saved"))
    assert torch.equal(loaded(pixels).pooled, encoder(pixels).pooled)
    assert loaded.processor["image"].settings == classifier[0].processor["image"].settings


def test_a_system_that_is_no_classifier_is_refused(text):
    with pytest.raises(ConfigError, match="has the head CLIPHead; allowed is a system with the head 'classifier'"):
        semantic_encoder(text, text)


def test_texts_of_another_number_of_classes_are_refused(classifier, text):
    with pytest.raises(ConfigError, match="got 2 lists of texts for 3 classes"):
        semantic_encoder(classifier[0], text, texts=[["cat"], ["car"]])
    with pytest.raises(ConfigError, match=r"got shape \[3, 5\]; expected is one vector per class: \[3, 64\]"):
        semantic_encoder(classifier[0], text).with_names(torch.ones(3, 5))


def test_a_classifier_of_sound_gives_an_encoder_of_sound(text):
    encoders = {"audio": {"name": "whisper", "num_mels": 8, "dim": 32, "depth": 1, "num_heads": 2, "context_length": 20}}
    system = zoo.create_system(
        {"encoders": encoders, "head": {"name": "classifier", "class_names": list(NAMES), "pool": "attention", "num_heads": 2}}
    )
    encoder = semantic_encoder(system, text)
    assert encoder.modality == "audio" and encoder(torch.rand(2, 8, 40)).pooled.shape == (2, 64)
