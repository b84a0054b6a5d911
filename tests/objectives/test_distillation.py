"""Distillation of a small system's distributions and features."""

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.training.objectives.distillation import Distillation


def test_the_parts_are_those_of_torch_over_the_supervised_tokens(talking, trained):
    output = trained(Distillation(logits=0.5, features=2.0, answers=0.25, temperature=2.0))
    batch, found = talking.batch(), []
    with torch.no_grad():
        found = [model.head.predictions(model.encode_batch(batch), batch) for model in (talking.policy, talking.reference)]
    ours, theirs = ((each.logits / 2).log_softmax(-1) for each in found)
    divergence = 4 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    distance = F.mse_loss(found[0].hidden, found[1].hidden)
    answers = F.cross_entropy(found[0].logits, found[0].labels)
    assert output.metrics["divergence"].item() == pytest.approx(divergence.item(), rel=1e-4)
    assert output.metrics["feature_distance"].item() == pytest.approx(distance.item(), rel=1e-4)
    assert output.loss.item() == pytest.approx((0.5 * divergence + 2 * distance + 0.25 * answers).item(), rel=1e-4)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(talking):
    batch, model, objective = talking.batch(), talking.policy, Distillation(features=1.0, distance="cosine")
    with torch.no_grad():
        batch.targets |= objective.frozen_targets(model.head, model.encode_batch(batch), batch)
        assert objective(model.head, model.encode_batch(batch), batch).loss.item() == pytest.approx(0, abs=1e-5)


def test_teachers_of_another_width_or_vocabulary_are_refused(talking):
    wider = zoo.create_system("llava_nano", ["language@system.head.language=gpt2_nano"])
    language = wider.head.language
    language.dim, language.vocab_size = 2 * talking.policy.head.language.dim, 3
    with pytest.raises(zoo.ConfigError, match="objective.features: the teacher's features have"):
        Distillation(features=1.0).check_teacher(talking.policy, wider)
    with pytest.raises(zoo.ConfigError, match="objective.logits: the teacher's vocabulary has 3 tokens"):
        Distillation().check_teacher(talking.policy, wider)


def test_weights_and_words_are_checked():
    with pytest.raises(zoo.ConfigError, match="logits, features: 0.0, 0.0"):
        Distillation(logits=0.0)
    with pytest.raises(zoo.ConfigError, match="temperature: 0"):
        Distillation(temperature=0.0)
    with pytest.raises(zoo.ConfigError, match="distance: there is no 'l2'"):
        Distillation(distance="l2")
