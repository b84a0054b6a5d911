"""Speech synthesis: stop rules, faults of the alignment, and losses of mels and stop token."""

import math

import pytest
import torch

from zoo.errors import ConfigError
from zoo.heads.bases.synthesis import StopWatch, alignment_faults
from zoo.losses.speech import frame_loss, guided_attention_loss, last_steps, stop_loss
from zoo.types import SATURATED, SILENCE, STEP_LIMIT, STOP_TOKEN, diagonality, focus


def path(places, length):
    return torch.nn.functional.one_hot(torch.tensor(places), length).float()


def run(watch, stops=None, places=None, levels=None, length=5):
    """Feed steps to a stop watch; return the number of steps until it reports that all texts have ended."""
    count = len(next(each for each in (stops, places, levels) if each is not None))
    for step in range(count):
        stop = None if stops is None else torch.tensor([stops[step]])
        weights = path([places[step] if places else 0], length)
        level = torch.tensor([[levels[step] if levels else 9.0]])
        if watch.add(stop, weights, level):
            break
    return watch.num_steps().item(), watch.reasons[0]


def test_the_first_reason_counts():
    lengths = torch.tensor([5])
    assert run(StopWatch(lengths), stops=[-1.0, -1.0, 1.0, -1.0]) == (3, STOP_TOKEN)
    assert run(StopWatch(lengths), stops=[-1.0] * 11) == (11, STEP_LIMIT)
    assert run(StopWatch(lengths, rest=3), places=[0, 4, 4, 3, 4, 4, 4, 4]) == (7, SATURATED)
    assert run(StopWatch(lengths, silent=2, quiet=1.0), levels=[0.0, 2.0, 0.0, 0.0, 0.0]) == (4, SILENCE)
    assert run(StopWatch(lengths, rest=2), stops=[-1.0, -1.0, 5.0], places=[4, 4, 4]) == (2, SATURATED)


def test_each_row_of_a_batch_stops_for_itself():
    watch = StopWatch(torch.tensor([3, 3]))
    for step in range(20):
        over = watch.add(torch.tensor([1.0 if step == 2 else -1.0, 1.0 if step == 12 else -1.0]), torch.eye(3)[:2], torch.ones(2, 1))
        if over:
            break
    assert step == 15  # looked at every eight steps
    assert watch.num_steps().tolist() == [3, 13] and watch.reasons == [STOP_TOKEN] * 2


def test_figures_of_alignments():
    even = path([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 10)
    assert diagonality(even) == 1.0 and focus(even) == 1.0
    flat = torch.full((40, 40), 1 / 40)
    assert abs(diagonality(flat) - (2 * 0.25 - 0.25**2)) < 0.02 and focus(flat) == pytest.approx(1 / 40)


@pytest.mark.parametrize(
    ("places", "reason", "fault"),
    [
        (list(range(20)), STOP_TOKEN, None),
        (list(range(20)), STEP_LIMIT, "does not end"),
        ([0, 1, 2, 3, 4, 5, 6, 7], STOP_TOKEN, "ends before the text does (character 8 of 20)"),
        ([0, 1, 2, 3, 13, 14, 15, 16, 17, 18, 19], STOP_TOKEN, "skips text"),
        ([*range(10), *range(4, 20)], STOP_TOKEN, "goes back in the text"),
        ([*[0] * 60, *range(20)], STOP_TOKEN, "attention is off the diagonal"),
        ([3], STOP_TOKEN, "has fewer than two decoder steps"),
    ],
)
def test_faults_are_named(places, reason, fault):
    found = alignment_faults(path(places, 20), reason)
    assert found == [] if fault is None else fault in found


def test_diffuse_attention_is_a_fault():
    assert "attention is diffuse" in alignment_faults(torch.full((10, 10), 0.1), STOP_TOKEN)


def test_the_last_step_is_the_one_before_padding():
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert last_steps(mask).tolist() == [[False, False, True, False], [False, False, False, True]]
    logits = torch.randn(2, 4)
    p = logits.sigmoid().double()
    each = [-math.log(p[0, 2]) * 3, -math.log(p[1, 3]) * 3]
    each += [-math.log(1 - float(p[row, step])) for row, step in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))]
    assert float(stop_loss(logits, mask, weight=3.0)) == pytest.approx(sum(each) / 7, rel=1e-5)


def test_guided_attention_is_the_papers_by_hand():
    alignments, steps, text = torch.rand(1, 3, 5), torch.tensor([[True, True, False]]), torch.tensor([[True] * 4 + [False]])
    total = 0.0
    for t in range(2):
        for n in range(4):
            total += float(alignments[0, t, n]) * (1 - math.exp(-((n / 4 - t / 2) ** 2) / (2 * 0.2**2)))
    assert float(guided_attention_loss(alignments, steps, text)) == pytest.approx(total / 2, rel=1e-5)


def test_frames_of_padding_have_no_loss():
    found, target, mask = torch.zeros(1, 2, 3), torch.tensor([[[1.0, 3.0, 9.0]] * 2]), torch.tensor([[True, True, False]])
    assert float(frame_loss(found, target, mask)) == 5.0 and float(frame_loss(found, target, mask, distance="l1")) == 2.0
    with pytest.raises(ConfigError, match="distance"):
        frame_loss(found, target, mask, distance="cosine")
