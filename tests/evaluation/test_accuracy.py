"""Figures and pictures that the evaluations share, held against scikit-learn."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

import zoo
from zoo.evaluation.results.accuracy import draw_confusion, measure


def random_result(classes, items=400):
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(items, classes)).astype(np.float32)
    labels = generator.integers(classes, size=items)
    scores[np.arange(items), labels] += 1
    return measure(torch.from_numpy(scores), torch.from_numpy(labels), [f"class {i}" for i in range(classes)], {"k": 3}), scores, labels


def test_the_figures_are_scikit_learns():
    result, scores, labels = random_result(12)
    assert result.metrics["top1"] == pytest.approx(accuracy_score(labels, scores.argmax(1)))
    assert result.metrics["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    assert result.metrics["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    assert (result.confusion.numpy() == confusion_matrix(labels, scores.argmax(1))).all()
    assert result.num_items == 400 and result.details == {"k": 3}


def test_the_row_in_the_docstring():
    result = measure(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]), ["a", "b", "c"])
    assert result.metrics == {"top1": 0.0, "top5": 1.0, "mean_per_class": 0.0}


def test_classes_without_items_take_no_part_in_the_mean():
    scores = torch.eye(4)[torch.tensor([0, 1, 1, 0])]
    result = measure(scores, torch.tensor([0, 0, 1, 0]), list("abcd"))
    assert result.metrics["mean_per_class"] == pytest.approx((2 / 3 + 1) / 2)


def test_no_guess_is_no_hit_and_of_equal_scores_the_first_class_counts():
    none = -torch.inf
    scores = torch.tensor([[none, 1, none], [1, 1, 0], [1, 1, 0]])
    result = measure(scores, torch.tensor([0, 0, 1]), list("abc"))
    assert result.metrics["top1"] == pytest.approx(1 / 3) and result.metrics["top5"] == pytest.approx(2 / 3)
    assert result.confusion.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(zoo.DataError, match="not numbers"):
        measure(torch.tensor([[0.0, torch.nan]]), torch.tensor([0]), ["a", "b"])


@pytest.mark.parametrize("classes", [3, 30])
def test_the_confusion_is_drawn(tmp_path, classes):
    draw_confusion(random_result(classes)[0], tmp_path / "confusion.png")
    picture = np.array(Image.open(tmp_path / "confusion.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50  # shades of blue
