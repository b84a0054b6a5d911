"""Losses of preferences and of distillation against rows computed by hand, and their gradients against finite differences."""

import pytest
import torch

import zoo
from zoo.losses.distillation import feature_distillation, logit_distillation
from zoo.losses.preference import dpo_loss, ipo_loss, kto_loss, kto_reference_point

# Rewards are policy - reference: chosen -4 - -6 = 2 and -3 - -3 = 0, rejected -7 - -5 = -2 and -2 - -5 = 3.
CHOSEN = torch.tensor([-4.0, -3.0]) - torch.tensor([-6.0, -3.0])
REJECTED = torch.tensor([-7.0, -2.0]) - torch.tensor([-5.0, -5.0])


def test_dpo_is_that_of_hand_computed_rows():
    # beta 0.5: margins 0.5 * 4 = 2 and 0.5 * -3 = -1.5; log(1 + e^-2) = 0.126928, log(1 + e^1.5) = 1.701413
    assert dpo_loss(CHOSEN, REJECTED, beta=0.5).tolist() == pytest.approx([0.126928, 1.701413], abs=1e-6)
    # a tenth the other way round: 0.9 * 0.126928 + 0.1 * 2.126928 and 0.9 * 1.701413 + 0.1 * 0.201413
    smoothed = dpo_loss(CHOSEN, REJECTED, beta=0.5, label_smoothing=0.1)
    assert smoothed.tolist() == pytest.approx([0.326928, 1.551413], abs=1e-6)


def test_dpo_of_an_untrained_policy_is_log_2():
    assert dpo_loss(torch.zeros(3), torch.zeros(3), beta=0.3, label_smoothing=0.2).tolist() == pytest.approx([0.693147] * 3, abs=1e-6)


def test_ipo_is_that_of_hand_computed_rows():
    # beta 0.1 draws the margin to 5: (4 - 5)^2 and (-3 - 5)^2
    assert ipo_loss(CHOSEN, REJECTED, beta=0.1).tolist() == pytest.approx([1.0, 64.0])


def test_kto_is_that_of_hand_computed_rows():
    # z = 1, beta 0.5: desirable 1 - sigmoid(0.5 (2 - 1)) = 0.377541; undesirable 2 (1 - sigmoid(0.5 (1 - -2))) = 2 * 0.182426
    rewards, desirable = torch.tensor([2.0, -2.0]), torch.tensor([True, False])
    found = kto_loss(rewards, desirable, torch.tensor(1.0), beta=0.5, undesirable_weight=2.0)
    assert found.tolist() == pytest.approx([0.377541, 0.364851], abs=1e-6)


def test_ktos_reference_point_is_a_mean_that_is_not_negative():
    assert kto_reference_point(torch.tensor([3.0, -1.0])).item() == 1.0
    assert kto_reference_point(torch.tensor([-3.0, 1.0])).item() == 0.0


def test_logit_distillation_is_that_of_a_hand_computed_row():
    # T = 2. Teacher [2 ln 3, 0] -> softmax [0.75, 0.25]; student [0, 0] -> [0.5, 0.5].
    # KL = 0.75 ln 1.5 + 0.25 ln 0.5 = 0.304099 - 0.173287 = 0.130812, times 4
    teacher = torch.tensor([[2.1972246, 0.0]])
    assert logit_distillation(torch.zeros(1, 2), teacher, temperature=2.0).item() == pytest.approx(0.523248, abs=1e-6)
    assert logit_distillation(teacher, teacher, temperature=2.0).item() == pytest.approx(0.0, abs=1e-7)


def test_feature_distillation_is_that_of_hand_computed_rows():
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert feature_distillation(student, teacher).tolist() == [1.0, 2.5]  # (1 + 1) / 2, (1 + 4) / 2
    assert feature_distillation(student, teacher, distance="cosine").tolist() == pytest.approx([1 - 24 / 25, 1.0])
    with pytest.raises(zoo.ConfigError, match="there is no 'cosin'; did you mean 'cosine'"):
        feature_distillation(student, teacher, distance="cosin")


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: dpo_loss(a, b, beta=0.7, label_smoothing=0.1),
        lambda a, b: ipo_loss(a, b, beta=0.3),
        lambda a, b: kto_loss(a - b, torch.tensor([True, False, True]), torch.tensor(0.4, dtype=torch.float64), desirable_weight=1.5),
    ],
    ids=["dpo", "ipo", "kto"],
)
def test_gradients_of_preferences_are_those_of_finite_differences(loss):
    rows = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(loss, rows)


def test_no_gradient_goes_through_ktos_reference_point():
    mismatched = torch.randn(4).abs().requires_grad_()
    rewards = torch.randn(4, requires_grad=True)
    kto_loss(rewards, torch.tensor([True, False, True, False]), kto_reference_point(mismatched)).sum().backward()
    assert mismatched.grad is None and rewards.grad is not None


def test_gradients_of_distillation_are_those_of_finite_differences():
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    step, direction = 1e-3, torch.randn(3, 4)
    for loss in (lambda x: logit_distillation(x, teacher, temperature=3.0), lambda x: feature_distillation(x, teacher, distance="cosine")):
        (gradient,) = torch.autograd.grad(loss(student).sum(), student)
        with torch.no_grad():
            change = (loss(student + step * direction) - loss(student - step * direction)).sum() / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(change.item(), abs=1e-3)  # fp32: both are of order 1
