"""Every objective keeps every rule of ``zoo.testing.check_objective``."""

import pytest
import torch

from zoo.registry import find_part, part_names
from zoo.testing import ContractError, check_objective
from zoo.types import HeadOutput, Objective, SamplingObjective

# Objectives on sampled answers need a sampled batch: tests/objectives/test_policy.py.
GIVEN = [name for name in part_names("objective") if not issubclass(find_part("objective", name), SamplingObjective)]


@pytest.mark.parametrize("name", GIVEN)
def test_each_objective_keeps_the_contract(name, talking):
    check_objective(find_part("objective", name)(), talking.policy, talking.batch(), frozen=talking.reference)


class Mine(Objective):
    """An objective with the mistake that its constructor is given."""

    def __init__(self, *, mistake=""):
        self.mistake = mistake

    def check(self, system, batch_size):
        pass

    def frozen_targets(self, head, encoded, batch):
        found = head.predictions(encoded, batch).logits
        return {"theirs": torch.ones(1, requires_grad=True) if self.mistake == "attached" else found.detach()}

    def __call__(self, head, encoded, batch):
        theirs = batch.targets["theirs"] if self.mistake == "bare" else batch.need("theirs", "objective 'mine'", "frozen_targets makes it")
        loss = (head.predictions(encoded, batch).logits - theirs).square()
        if self.mistake == "no gradient":
            loss = loss.detach()
        metrics = {"loss": loss.mean()} if self.mistake == "metrics" else {}
        return HeadOutput(loss.mean(), metrics)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("attached", "frozen_targets gives detached tensors by name, but"),
        ("no gradient", "a call gives HeadOutput with a finite scalar loss to train on, but"),
        ("metrics", r"metrics are detached scalars, but \['loss'\] are none"),
        ("bare", "a missing target 'theirs' is a DataError that names it, but without it the call raises KeyError"),
    ],
)
def test_each_mistake_of_an_objective_is_named(mistake, message, talking):
    check_objective(Mine(), talking.policy, talking.batch())
    with pytest.raises(ContractError, match=message):
        check_objective(Mine(mistake=mistake), talking.policy, talking.batch())


@pytest.mark.parametrize(
    ("name", "target"), [("dpo", "reference"), ("ipo", "reference"), ("kto", "mismatched_reference"), ("distillation", "teacher_logits")]
)
def test_a_missing_target_of_the_frozen_model_is_named(name, target, talking):
    batch, head = talking.batch(), talking.policy.head
    with pytest.raises(
        Exception, match=rf"no targets\['{target}'\], which objective '{name}' reads; frozen_targets of the objective makes it"
    ):
        find_part("objective", name)()(head, talking.policy.encode_batch(batch), batch)
