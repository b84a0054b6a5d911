"""Last answers, their log-probabilities, whole pairs and mismatched ones."""

import pytest
import torch

import zoo
from zoo.training.objectives.preference.log_probabilities import last_run, log_probabilities, mismatched, pairs
from zoo.types import SUPERVISED, Batch


def test_only_the_last_run_is_an_answer():
    rows = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    expected = [[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert last_run(rows).int().tolist() == expected


@torch.no_grad()
def test_log_probabilities_are_sums_and_means_over_an_answers_tokens(talking, log_probability):
    batch = talking.batch()
    for per_token in (False, True):
        found = log_probabilities(talking.policy.head, talking.policy.encode_batch(batch), batch, per_token=per_token)
        assert found.tolist() == pytest.approx([log_probability(talking.policy, row, per_token) for row in range(6)], abs=1e-4)


def test_pairs_are_found_in_any_order(talking):
    chosen, rejected = pairs(talking.batch([3, 0, 4, 2, 5, 1]), "dpo")
    ids = [talking.samples[row].id for row in (3, 0, 4, 2, 5, 1)]
    assert [ids[i] for i in chosen] == ["0:0", "1:0", "2:0"] and [ids[i] for i in rejected] == ["0:1", "1:1", "2:1"]


def test_half_a_pair_and_answers_that_nobody_judged_are_refused(talking):
    with pytest.raises(zoo.DataError, match="the batch 0:0, 1:1 does not|the batch 0:0, 1:1, ... does not hold whole pairs"):
        pairs(talking.batch([0, 3]), "dpo")
    unjudged = talking.batch([0, 1])
    del unjudged.targets["labels"]
    with pytest.raises(zoo.DataError, match="preference labels. reads; choose data=preferences"):
        pairs(unjudged, "dpo")


def test_mismatched_answers_stand_behind_the_next_prompt_of_another_group():
    # prompts 1x and 5y; answers 7 8 and 9, the first two rows of one group
    ids = torch.tensor([[1, 2, 7, 8], [1, 2, 7, 0], [5, 9, 0, 0]])
    supervised = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    batch = Batch({"text": ids}, {"text": mask}, {SUPERVISED: supervised, "groups": torch.tensor([4, 4, 6])})
    found = mismatched(batch, 100)
    assert found.inputs["text"].tolist() == [[1, 2, 9], [1, 2, 9], [5, 7, 8]]
    assert found.targets[SUPERVISED].int().tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 1]] and bool(found.masks["text"].all())
    assert mismatched(batch, 2).inputs["text"].tolist() == [[1, 2], [1, 2], [5, 7]]


@torch.no_grad()
def test_mismatched_answers_keep_the_pictures_with_their_prompts(talking):
    batch = talking.batch([0, 2, 4])
    other = mismatched(batch, 10_000)
    decode, ids = talking.policy.processor["conversation"].decode, other.inputs["text"]
    words = [decode(row[mask].tolist()) for row, mask in zip(ids, other.targets[SUPERVISED], strict=True)]
    assert [text.strip() for text in words] == ["two", "yes", "a red ball"]
    assert ((other.inputs["text"] == -200).sum(1) == (batch.inputs["text"] == -200).sum(1)).all()
    assert torch.isfinite(log_probabilities(talking.policy.head, talking.policy.encode_batch(other), other)).all()
