"""The k-NN probe, held against scikit-learn and a few lines of numpy."""

import json

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import zoo
from zoo.evaluation.knn_probe import KnnProbe, nearest, votes
from zoo.runs.evaluate import evaluate


def clouds(count, seed, classes=6):
    """Features of overlapping classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=count)
    centres = np.random.default_rng(99).normal(size=(classes, 8))
    return torch.from_numpy((centres[labels] + 1.5 * generator.normal(size=(count, 8))).astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("k", [1, 7, 20])
def test_uniform_votes_are_scikit_learns(k):
    (keys, key_labels), (queries, _) = clouds(300, 0), clouds(200, 1)
    reference = KNeighborsClassifier(n_neighbors=k, metric="cosine").fit(keys.numpy(), key_labels.numpy())
    similarity, neighbours = nearest(queries, keys, k)
    distances, indices = reference.kneighbors(queries.numpy())
    assert (neighbours.numpy() == indices).all()
    np.testing.assert_allclose(1 - similarity.numpy(), distances, atol=1e-6)
    guesses = votes(torch.ones_like(similarity), key_labels[neighbours], 6).argmax(1)
    assert (guesses.numpy() == reference.predict(queries.numpy())).all()


class Ready:
    """A model and a source in one, whose features are ready."""

    modalities, class_names = ("image",), list("abcdef")


def test_weights_are_those_of_dino(monkeypatch):
    parts = {"train": clouds(300, 0), "test": clouds(200, 1)}
    probe, source = KnnProbe(k=20, temperature=0.07), Ready()
    monkeypatch.setattr(source, "split", lambda name: name, raising=False)
    monkeypatch.setattr(probe, "check", lambda model, source: None)
    monkeypatch.setattr(probe, "reader", lambda model, split, limit, advance: parts[split])
    result = probe(torch.nn.Linear(1, 1), source, "test")
    (keys, key_labels), (queries, labels) = ([part.numpy() for part in parts[name]] for name in ("train", "test"))
    confusion = np.zeros((6, 6), dtype=int)
    for query, label in zip(queries, labels, strict=True):
        cosine = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        heard = np.zeros(6)
        for i in np.argsort(-cosine)[:20]:
            heard[key_labels[i]] += np.exp(cosine[i] / 0.07)
        confusion[label, heard.argmax()] += 1
    assert result.confusion.tolist() == confusion.tolist()
    assert 0.3 < result.metrics["top1"] < 0.95  # neither chance nor a task that any weights solve


def test_a_low_temperature_does_not_overflow(clip, source):
    one = KnnProbe(k=1, limit=60)(clip, source, "test")
    cold = KnnProbe(k=5, temperature=1e-4, limit=60)(clip, source, "test")
    assert cold.metrics["top1"] == one.metrics["top1"]  # the nearest alone is heard


@pytest.mark.parametrize("chunk", [(7, 11), (1, 1), (500, 3)])
def test_chunks_change_nothing(chunk):
    (keys, _), (queries, _) = clouds(60, 0), clouds(40, 1)
    whole, parts = nearest(queries, keys, 9), nearest(queries, keys, 9, chunk=chunk)
    torch.testing.assert_close(parts[0], whole[0])
    assert torch.equal(parts[1], whole[1])


def test_classes_that_nobody_names_are_no_guess():
    scores = votes(torch.ones(1, 3), torch.tensor([[2, 0, 2]]), 4)
    assert scores.tolist() == [[1, -torch.inf, 2, -torch.inf]]


def test_a_bundled_name_is_probed_and_its_figures_lie_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"source": {"name": "digits"}, "test_split": "test"}
    result, output = evaluate({"checkpoint": "clip_vit_nano", "data": data, "evaluation": {"name": "knn_probe", "train_limit": 600}})
    assert str(output).startswith("runs/clip_vit_nano/evaluation/knn_probe_digits_test_") and result.metrics["top1"] > 0.9
    assert json.loads((output / "metrics.json").read_text())["details"] == {"k": 20, "train_items": 600}


def test_it_works_for_a_classifier_and_tells_how_many_items_are_done(classifier, source):
    done = []
    result = KnnProbe(train_limit=200, limit=50)(classifier, source, "validation", advance=done.append)
    assert result.num_items == 50 and sum(done) == 250 and result.metrics["top1"] > 0.3  # random weights see something


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "^k: 0; allowed"),
        ({"weights": "distanc"}, "weights: there is no 'distanc'; did you mean 'distance'"),
        ({"temperature": 0.0}, "temperature: 0.0; allowed"),
        ({"features": "pool"}, "features: there is no 'pool'"),
        ({"train_limit": -1}, "train_limit: -1"),
    ],
)
def test_what_is_out_of_range_is_refused(settings, message):
    with pytest.raises(zoo.ConfigError, match=message):
        KnnProbe(**settings)


def test_too_few_neighbours_and_the_same_split_are_refused(clip, source):
    with pytest.raises(zoo.ConfigError, match="evaluation.k: 20 neighbours, but only 12 training items"):
        KnnProbe(train_limit=12)(clip, source, "test")
    with pytest.raises(zoo.ConfigError, match="'train' is also the split to report on"):
        KnnProbe()(clip, source, "train")
