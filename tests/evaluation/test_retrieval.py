"""Retrieval: recall and ranks, held against naive sorting, torchmetrics and the average over all orders of equal scores."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.retrieval import retrieval_hit_rate

import zoo
from zoo.evaluation.retrieval import Retrieval, ranks, recall_curve
from zoo.registry.construct import build_part
from zoo.runs.evaluate import evaluate

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def problem(images, captions, dim=4):
    """Vectors of images and of ``captions`` texts for each, and which belongs to which."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(images, dim, generator=generator)
    owners = torch.arange(images * captions) % images
    answers = queries[owners] + 2 * torch.randn(len(owners), dim, generator=generator)
    return queries, answers, torch.stack([owners, torch.arange(len(owners))])


def naive_recall(scores, partner, k):
    """A hit is a partner among the first k of a full sort."""
    order = np.argsort(-scores, axis=1)
    return np.take_along_axis(partner, order, axis=1)[:, :k].any(1).mean()


@pytest.mark.parametrize("captions", [1, 5])
def test_recall_is_that_of_a_full_sort_and_of_torchmetrics_both_ways(captions):
    images, texts, links = problem(30, captions)
    partner = torch.zeros(len(images), len(texts), dtype=torch.bool)
    partner[links[0], links[1]] = True
    for queries, answers, pairs, mask in ((images, texts, links, partner), (texts, images, links.flip(0), partner.T)):
        curve = recall_curve(*ranks(queries, answers, pairs, chunk=7), 10)
        scores = queries @ answers.T
        for k in (1, 5, 10):
            hits = [retrieval_hit_rate(row, target, top_k=k) for row, target in zip(scores, mask, strict=True)]
            assert float(curve[k - 1]) == pytest.approx(naive_recall(scores.numpy(), mask.numpy(), k))
            assert float(curve[k - 1]) == pytest.approx(float(torch.stack(hits).mean()))


def test_of_equal_scores_recall_is_the_mean_over_all_their_orders():
    scores, partner = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1]), np.array([False, True, False, False, True, True])
    orders = [order for order in itertools.permutations(range(6)) if (np.diff(scores[list(order)]) <= 0).all()]
    assert len(orders) == 24
    expected = [np.mean([partner[list(order)][:k].any() for order in orders]) for k in range(1, 7)]
    vectors = torch.from_numpy(scores).float()[:, None]
    better, equal, own = ranks(torch.ones(1, 1), vectors, torch.tensor([[0, 0, 0], [1, 4, 5]]))
    assert (better, equal, own) == (1, 2, 2)
    assert recall_curve(better, equal, own, 6).tolist() == pytest.approx(expected)
    first = [1 + np.argmax(partner[list(order)]) for order in orders]
    assert float(better + (equal + own + 1) / (own + 1)) == pytest.approx(np.mean(first))


def test_the_row_in_the_docstring_of_the_curve():
    ones = torch.ones(1)
    assert recall_curve(ones, 2 * ones, ones, 4).tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_chunks_change_nothing(chunk):
    images, texts, links = problem(23, 3)
    whole = torch.stack(ranks(images, texts, links))
    assert torch.equal(torch.stack(ranks(images, texts, links[:, torch.randperm(69)], chunk=chunk)), whole)


def test_a_model_that_gives_one_vector_for_everything_is_at_chance(clip, source, monkeypatch):
    monkeypatch.setattr(clip.head, "project", lambda modality, encoded: torch.ones(len(encoded.tokens), 2))
    result = Retrieval(limit=50)(clip, source, "test")
    for way in ("image_to_text", "text_to_image"):
        assert [result.metrics[f"{way}_recall@{k}"] for k in (1, 5, 10)] == pytest.approx([0.02, 0.1, 0.2])
        assert result.details[f"{way}_median_rank"] == 25.5


def test_texts_of_equal_meaning_can_be_one(clip, source):
    result = Retrieval(positives="groups", batch_size=100)(clip, source, "test")
    assert result.details["num_text"] == 10 and result.details["num_image"] == result.num_items == 359
    images = clip.embed("image", [source.split("test").sample(i).inputs["image"] for i in range(359)])
    texts = clip.embed("text", [source.templates[0].replace("{}", word) for word in WORDS])
    labels = torch.tensor([source.split("test").sample(i).label for i in range(359)])
    assert result.metrics["image_to_text_recall@1"] == pytest.approx(float(((images @ texts.T).argmax(1) == labels).float().mean()))
    assert result.metrics["text_to_image_recall@1"] == float((labels[(texts @ images.T).argmax(1)] == torch.arange(10)).float().mean())


def captioned_folder(folder):
    """Four pictures with three captions each, rows of one picture apart from each other."""
    for name in range(4):
        noise = np.random.default_rng(name).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    rows = [{"path": f"{name}.png", "caption": f"{WORDS[3 * name + i]} things"} for i in range(3) for name in range(3)]
    lines = [json.dumps({**row, "split": "test"}) for row in [*rows, {"path": "3.png", "caption": "nine things"}]]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return build_part("source", {"name": "folder", "path": str(folder), "table": "captions.jsonl"}, "data.source")


def test_a_picture_of_several_rows_is_one_picture_with_several_captions(clip, tmp_path, monkeypatch):
    source, seen = captioned_folder(tmp_path), []
    embed = clip.head.embed

    def counted(system, modality, inputs, **words):
        seen.append((modality, len(inputs)))
        return embed(system, modality, inputs, **words)

    monkeypatch.setattr(clip.head, "embed", counted)
    result = Retrieval(batch_size=4)(clip, source, "test")
    assert (result.num_items, result.details["num_image"], result.details["num_text"]) == (10, 4, 10)
    assert sum(count for modality, count in seen if modality == "image") == 4, "each picture is encoded once"
    texts = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    scores = clip.embed("image", [str(tmp_path / f"{i}.png") for i in range(4)]) @ clip.embed("text", [row["caption"] for row in texts]).T
    partner = np.array([[row["path"] == f"{i}.png" for row in texts] for i in range(4)])
    for k in (1, 5):
        assert result.metrics[f"image_to_text_recall@{k}"] == pytest.approx(naive_recall(scores.numpy(), partner, k))
        assert result.metrics[f"text_to_image_recall@{k}"] == pytest.approx(naive_recall(scores.numpy().T, partner.T, k))


def test_a_limit_is_spread_over_the_split_and_told(clip, source):
    done = []
    result = Retrieval(limit=30, batch_size=20)(clip, source, "test", advance=done.append)
    assert result.num_items == 30 and done == [20, 10]


def test_the_job_writes_figures_and_a_picture(tmp_path):
    words = {"name": "retrieval", "positives": "groups", "limit": 60}
    config = {"checkpoint": "clip_vit_nano", "data": {"source": {"name": "digits"}, "test_split": "test"}, "evaluation": words}
    result, output = evaluate({**config, "output": str(tmp_path / "found")})
    written = json.loads((output / "metrics.json").read_text())
    assert written["mean_recall"] == result.metrics["mean_recall"] and written["details"]["text_to_image_median_rank"] == 1
    assert len(written["recall_at_1_to_k"]["image_to_text"]) == 10, "there are ten texts to choose from"
    assert np.array(Image.open(output / "recall.png")).shape[2] >= 3
    assert sorted(p.name for p in output.iterdir()) == ["environment.json", "metrics.json", "recall.png"]


def test_what_cannot_be_evaluated_so_is_refused(clip, classifier, source, unlabelled, unreadable):
    with pytest.raises(zoo.ConfigError, match="'retrieval' needs a head with the verbs embed; Classifier has"):
        Retrieval()(classifier, source, "test")
    with pytest.raises(zoo.ConfigError, match="the system has no 'audio' encoder; known: image, text"):
        Retrieval(modalities=["audio", "text"]).check(clip, source)
    unlabelled.modalities = ("image",)
    with pytest.raises(zoo.ConfigError, match="the source has no 'text'; known: image"):
        Retrieval().check(clip, unlabelled)
    with pytest.raises(zoo.DataError, match="item b.png: cannot be read"):
        Retrieval()(clip, unreadable, "test")
    with pytest.raises(zoo.DataError, match="has 1 distinct image; retrieval needs at least two"):
        Retrieval(limit=1)(clip, source, "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positives": "pair"}, "positives: there is no 'pair'; did you mean 'pairs'"),
        ({"modalities": ["text", "text"]}, "modalities: .* give two different ones"),
        ({"chunk": 0}, "chunk: 0; allowed is 1 or more"),
    ],
)
def test_what_is_out_of_range_is_refused(settings, message):
    with pytest.raises(zoo.ConfigError, match=message):
        Retrieval(**settings)


def test_vectors_that_are_not_finite_name_the_item(clip, source, monkeypatch):
    monkeypatch.setattr(clip.head, "project", lambda modality, encoded: torch.full((len(encoded.tokens), 2), torch.nan))
    with pytest.raises(zoo.DataError, match=f"item {source.split('test').sample(0).id}: its vector is not finite"):
        Retrieval()(clip, source, "test")
