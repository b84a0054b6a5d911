"""DPO and IPO of a small system against their formulas over log-probabilities that are computed one by one."""

import math

import pytest
import torch

import zoo
from zoo.training.objectives.dpo import Dpo
from zoo.training.objectives.ipo import Ipo


def test_dpo_is_its_formula_over_single_answers(talking, log_probability, trained):
    output = trained(Dpo(beta=0.2, label_smoothing=0.1))
    rewards = [log_probability(talking.policy, row) - log_probability(talking.reference, row) for row in range(6)]
    margins = [0.2 * (rewards[row] - rewards[row + 1]) for row in (0, 2, 4)]
    losses = [0.9 * math.log1p(math.exp(-m)) + 0.1 * math.log1p(math.exp(m)) for m in margins]
    assert output.loss.item() == pytest.approx(sum(losses) / 3, abs=1e-4)
    assert output.metrics["reward_accuracy"].item() == pytest.approx(sum(m > 0 for m in margins) / 3)
    assert output.metrics["reward_margin"].item() == pytest.approx(sum(margins) / 0.6, abs=1e-3)


def test_ipo_is_its_formula_over_means_per_token(talking, log_probability, trained):
    output = trained(Ipo(beta=0.5))
    rewards = [log_probability(talking.policy, row, True) - log_probability(talking.reference, row, True) for row in range(6)]
    assert output.loss.item() == pytest.approx(sum((rewards[row] - rewards[row + 1] - 1) ** 2 for row in (0, 2, 4)) / 3, abs=1e-4)


@pytest.mark.parametrize("objective", [Dpo(), Ipo(per_token=False)], ids=["dpo", "ipo"])
def test_a_small_step_downhill_raises_the_chosen_answer_over_the_rejected_one(talking, trained, objective):
    parameters = [p for p in talking.policy.parameters() if p.requires_grad]
    before = trained(objective)
    gradients = torch.autograd.grad(before.loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(1e-3 * gradient)
    after = trained(objective)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.add_(1e-3 * gradient)
    assert after.loss < before.loss and after.metrics["reward_margin"] > before.metrics["reward_margin"]


def test_what_cannot_be_is_refused(talking):
    with pytest.raises(zoo.ConfigError, match="batch_size: 3 on each process; objective 'dpo' needs an even number"):
        Dpo().check(talking.policy, 3)
    with pytest.raises(zoo.ConfigError, match="'ipo' needs a head that predicts tokens .llava.; CLIPHead does not"):
        Ipo().check(zoo.create_system("clip_vit_nano"), 4)
    with pytest.raises(zoo.ConfigError, match="^beta: 0.0; allowed"):
        Dpo(beta=0.0)
    with pytest.raises(zoo.ConfigError, match="^label_smoothing: 0.5; allowed"):
        Dpo(label_smoothing=0.5)
