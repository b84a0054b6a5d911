"""Losses on sampled and ranked answers against rows that TRL computes (1.16 for GRPO, RLOO and rewards; 0.11.4 for PPO)."""

import pytest
import torch

import zoo
from zoo.losses.policy import (
    adapted_beta,
    advantages_and_returns,
    clipped_policy_loss,
    clipped_value_loss,
    group_advantages,
    kl_estimates,
    mean_of_tokens,
    whitened,
)
from zoo.losses.reward import centring_losses, ranking_losses

REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0])
ROWS = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3])
MOVED = torch.tensor([0.3, -0.1, 0.0, 0.1, -0.4, -0.5, 0.0, 0.05, -0.05])  # new - old
REFERENCE = torch.tensor([0.1, 0.1, 0.1, 0.0, -0.2, 0.3, 0.0, 0.0, 0.1])  # reference - old
PPO = [[-1.0, -2.0, -0.5], [-1.2, -1.5, -0.7], [-0.7, -2.3, -0.5], [0.2, 0.1, 0.4], [0.5, 0.1, 0.3]]  # old, reference, new; V old, new


@pytest.mark.parametrize(
    ("kind", "plain", "corrected"),
    [
        ("grpo", -0.05672148, -0.05841525),
        ("bnpo", -0.32504965, -0.32580516),
        ("dapo", -0.32504965, -0.32580516),
        ("dr_grpo", -0.24378724, -0.24435388),
    ],
)
def test_grpo_is_that_of_trl(kind, plain, corrected):
    advantages = group_advantages(REWARDS, group_size=4)
    assert advantages.tolist() == pytest.approx([0.86587543, -0.86587543, -0.86587543, 0.86587543], abs=1e-7)
    losses, penalty = clipped_policy_loss(MOVED, advantages[ROWS]), kl_estimates(REFERENCE - MOVED)[2]
    for factor, expected in ((1.0, plain), (MOVED.exp(), corrected)):
        found = mean_of_tokens(losses + 0.04 * factor * penalty, ROWS, kind=kind, num_answers=4, max_length=3)
        assert found.item() == pytest.approx(expected, abs=1e-6)


def test_dapo_divides_by_the_tokens_of_all_batches_of_a_step():
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    keywords = {"kind": "dapo", "num_answers": 1, "max_length": 9, "num_tokens": 3.0}
    found = sum(mean_of_tokens(each, torch.zeros(len(each), dtype=torch.int64), **keywords) for each in (first, second))
    assert found.item() == pytest.approx(2.0)


def test_rloo_subtracts_the_mean_of_the_other_answers():
    assert group_advantages(REWARDS, group_size=4, kind="rloo").tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert group_advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), group_size=2, scaled=False).tolist() == [0.5, -0.5, 0.0, 0.0]
    with pytest.raises(zoo.ConfigError, match="there is no 'rlo'; did you mean 'rloo'"):
        group_advantages(REWARDS, group_size=4, kind="rlo")


def test_ppo_is_that_of_trl():
    old, reference, new, values, new_values = torch.tensor(PPO)
    rewards = -0.1 * (old - reference)
    rewards[2] += 1.0
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = advantages_and_returns(rewards[None], values[None], mask)
    assert advantages[0].tolist() == pytest.approx([0.73595, 0.901, 0.58], abs=1e-6)
    assert returns[0].tolist() == pytest.approx([0.93595, 1.001, 0.98], abs=1e-6)
    white = whitened(advantages[0])
    assert white.tolist() == pytest.approx([-0.01889674, 1.00931426, -0.99041752], abs=1e-6)
    policy = clipped_policy_loss(new - old, white).mean()
    value = clipped_value_loss(new_values, values, returns[0]).mean()
    assert [policy.item(), value.item()] == pytest.approx([0.08940235, 0.26024057], abs=1e-6)
    assert (policy + 0.1 * value).item() == pytest.approx(0.11542641, abs=1e-6)
    assert kl_estimates(old - new)[1].mean().item() == pytest.approx(0.03, abs=1e-6)


def test_gae_of_a_padded_answer_is_that_of_the_answer_alone():
    rewards, values, mask = torch.randn(2, 5), torch.randn(2, 5), torch.arange(5) < torch.tensor([[5], [3]])
    together = advantages_and_returns(rewards, values, mask, discount=0.9)
    alone = advantages_and_returns(rewards[1:, :3], values[1:, :3], mask[1:, :3], discount=0.9)
    for whole, part in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[1:, :3], part)
        assert not whole[1, 3:].any()


def test_kl_estimates_and_the_adaptive_weight_are_those_of_hand_computed_rows():
    old, reference = torch.tensor(PPO[0]), torch.tensor(PPO[1])
    k1, k2, k3 = (each.mean().item() for each in kl_estimates(reference - old))
    assert [k1, k2, k3] == pytest.approx([-0.0333333, 0.055, 0.0620609], abs=1e-6)
    assert adapted_beta(0.2, 9.0, target=6.0, horizon=10_000.0, answers=256) == pytest.approx(0.201024)
    assert adapted_beta(0.2, 0.0, target=6.0, horizon=10_000.0, answers=256) == pytest.approx(0.2 * (1 - 0.2 * 0.0256))


def test_reward_losses_are_those_of_trl():
    chosen, rejected = torch.tensor([1.2, 0.3]), torch.tensor([0.7, 0.9])
    plain = ranking_losses(chosen, rejected).mean()
    assert plain.item() == pytest.approx(0.7557825, abs=1e-6)
    assert ranking_losses(chosen, rejected, margin=0.5).mean().item() == pytest.approx(1.0402413, abs=1e-6)
    assert (plain + 0.01 * centring_losses(chosen, rejected).mean()).item() == pytest.approx(0.7810325, abs=1e-6)
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    better, worse = torch.triu_indices(4, 4, 1)
    assert ranking_losses(scores[better], scores[worse]).mean().item() == pytest.approx(0.2070381, abs=1e-6)


def test_gradients_of_policy_losses_are_those_of_finite_differences():
    advantages, old = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    moved = (0.1 * torch.randn(5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_policy_loss(x, advantages), [moved])
    assert torch.autograd.gradcheck(lambda x: clipped_value_loss(old + x, old, advantages), [moved])
