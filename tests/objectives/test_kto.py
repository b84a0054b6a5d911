"""KTO of a small system against its formula over log-probabilities that are computed one by one."""

import math

import pytest
import torch

import zoo
from zoo.training.objectives.kto import Kto
from zoo.training.objectives.preference.log_probabilities import MISMATCHED, log_probabilities, mismatched


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_kto_is_its_formula_over_single_answers(talking, log_probability, trained):
    rows = [0, 3, 4]  # desirable, not, desirable
    output = trained(Kto(beta=0.3, undesirable_weight=2.0), rows)
    with torch.no_grad():
        other = mismatched(talking.batch(rows), 10_000)
        moved = [log_probabilities(m.head, m.encode_batch(other), other) for m in (talking.policy, talking.reference)]
    point = max(float((moved[0] - moved[1]).mean()), 0.0)
    rewards = [log_probability(talking.policy, row) - log_probability(talking.reference, row) for row in rows]
    losses = [
        1 - sigmoid(0.3 * (rewards[0] - point)),
        2 * (1 - sigmoid(0.3 * (point - rewards[1]))),
        1 - sigmoid(0.3 * (rewards[2] - point)),
    ]
    assert output.loss.item() == pytest.approx(sum(losses) / 3, abs=1e-4)
    assert output.metrics["reference_point"].item() == pytest.approx(point, abs=1e-4)
    assert output.metrics["undesirable_reward"].item() == pytest.approx(rewards[1], abs=1e-3)


def test_the_reference_point_needs_no_gradient_and_the_answers_get_one(talking, trained):
    output = trained(Kto(), [0, 3])
    assert not output.metrics["reference_point"].requires_grad and output.loss.requires_grad
    assert MISMATCHED not in talking.batch([0, 3]).targets


def test_what_cannot_be_is_refused(talking):
    with pytest.raises(zoo.ConfigError, match="batch_size: 1 on each process; objective 'kto' needs at least 2"):
        Kto().check(talking.policy, 1)
    with pytest.raises(zoo.ConfigError, match="^undesirable_weight: 0.0; allowed is above 0"):
        Kto(undesirable_weight=0.0)
