"""Curves of a run: what is drawn, and the moving average."""

import json
import math

import pytest
from PIL import Image

from zoo.training.curves import _panels, draw_curves, smoothed


def test_the_average_of_a_constant_is_the_constant_and_a_window_of_one_changes_nothing():
    assert smoothed([3.0] * 5, 10.0) == pytest.approx([3.0] * 5)
    assert smoothed([1.0, 5.0, 2.0], 1.0) == [1.0, 5.0, 2.0]


def test_the_average_weighs_what_is_past_by_the_window():
    assert smoothed([1.0, 0.0, 0.0], 2.0) == pytest.approx([1.0, 0.25 / 0.75, 0.125 / 0.875])


def test_loss_and_learning_rate_come_first_then_throughput_then_evaluation(tmp_path):
    metrics, timing = tmp_path / "metrics.jsonl", tmp_path / "timing.jsonl"
    lines = [{"step": n, "kind": "train", "accuracy": 0.1 * n, "learning_rate": 0.01, "loss": 3.0 - n} for n in range(3)]
    lines.append({"step": 2, "kind": "evaluation", "top1": 0.5})
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    timing.write_text(json.dumps({"step": 2, "items_per_second": 100.0, "tokens_per_second": 900.0, "memory_bytes": 1}) + "\n")
    order = [("train", "loss"), ("train", "learning_rate"), ("train", "accuracy"), ("speed", "tokens_per_second"), ("evaluation", "top1")]
    assert list(_panels(metrics, timing)) == order
    draw_curves(metrics, tmp_path / "curves.png", timing)
    assert (tmp_path / "curves.png").stat().st_size > 5000


@pytest.mark.parametrize("number", [1, 2, 7])
def test_any_number_of_panels_and_any_value_is_drawn(number, tmp_path):
    """One step, values that are not finite, and large and tiny ones; the picture grows by whole panels."""
    values = [math.nan, math.inf, 0, 12345678, 1e-7, -3.5, 2]
    line = {"step": 1, "kind": "train", **{f"value_{n}": values[n] for n in range(number)}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (462 * min(number, 3), 319 * math.ceil(number / 3))


def test_a_run_without_lines_has_no_picture(tmp_path):
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
