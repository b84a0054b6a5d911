"""The head of every small system keeps every rule of ``zoo.testing.check_head``."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo.testing import ContractError, check_head
from zoo.types import IGNORED, MASKED, TEACHER, HeadOutput, Sample, Wiring

SYSTEMS = {  # of heads that stand in no small system of their own
    "distill_nano": {"encoders": {"image": "vit_nano"}, "head": "distill_nano"},
    "classifier_hidden_nano": {"encoders": {"image": "vit_nano"}, "head": "classifier_hidden_nano"},
}
WORDS = ["a sentence number 0123456789", "and more", "what is it?"] * 3


def raw(number):
    generator = np.random.default_rng(number)
    pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return {"image": pixels, "audio": generator.normal(size=4000 + 800 * number).astype(np.float32) * 0.1}


def conversation(system, number):
    shown = [{"type": modality, modality: raw(number)[modality]} for modality in system.encoders]
    return [{"role": "user", "content": [*shown, "what is it?"]}, {"role": "assistant", "content": f"number {number}"}]


def batch_of(system):
    """Three items with every target that the head reads."""
    system.processor.fit(WORDS)
    if system.head.language is not None:
        return system.processor(conversation=[conversation(system, number) for number in range(3)])
    texts = ["a sentence number" + " and more" * number for number in range(3)]
    samples = [Sample(str(n), {**raw(n), "text": texts[n], "target": texts[n][:11]}, group=n, label=n % 2) for n in range(3)]
    batch = system.processor.collate(samples, [system.processor.items(sample) for sample in samples])
    if system.head.needs_masking:
        batch.targets[MASKED] = torch.full_like(batch.inputs["text"], IGNORED)
        batch.targets[MASKED][:, 1:3] = batch.inputs["text"][:, 1:3]
    if system.head.needs_teacher:
        batch.targets[TEACHER] = torch.randn(3, system.head.teacher_dim)
    return batch


@functools.cache
def made(name):
    system = zoo.create_system(SYSTEMS.get(name, name)).eval()
    batch = batch_of(system)
    return system, system.encode_batch(batch), batch


def checked(name, change=lambda head: None):
    system, encoded, batch = made(name)
    head = copy.deepcopy(system.head)
    change(head)
    check_head(head, encoded, batch, wiring=Wiring(dict(system.encoders), system.processor, system.counts))


@pytest.mark.parametrize("name", [*zoo.list_models("*nano*", kind="system"), *SYSTEMS])
def test_each_head_keeps_the_contract(name):
    checked(name)


def with_loss(loss):
    output = HeadOutput(None)
    output.loss = loss  # behind the back of the type checker of the tests
    return output


def changed_output(change):
    def put(head):
        forward = head.forward
        head.forward = lambda encoded, batch: change(forward(encoded, batch))

    return put


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: setattr(head, "verbs", ("paint",)), r"each of verbs is a method, but there is no \['paint'\]"),
        (lambda head: setattr(head, "reads", ("pool",)), r"reads names outputs of encoders, but it is \('pool',\)"),
        (lambda head: setattr(head, "evaluation", "zero_shots"), "evaluation is a registered name, but it is 'zero_shots'"),
        (changed_output(lambda output: output.loss), "forward returns HeadOutput, but it returns a Tensor"),
        (changed_output(lambda output: with_loss(output.loss[None])), r"loss is a scalar or None, but it is \[1\]"),
        (changed_output(lambda out: HeadOutput(out.loss, {"a": torch.ones(2)})), r"metrics are detached scalars, but \['a'\] are none"),
        (changed_output(lambda out: HeadOutput(out.loss + torch.rand(()))), "the loss in evaluation mode is the same again, but they"),
        (lambda head: head.register_parameter("idle", nn.Parameter(torch.ones(1))), "every parameter gets a gradient, but idle of 1"),
    ],
)
def test_each_mistake_of_a_head_is_named(change, message):
    with pytest.raises(ContractError, match=f"head 'clip': {message}"):
        checked("clip_vit_nano", change)


def test_a_bare_key_error_for_a_missing_target_is_named():
    def put(head):
        forward = head.forward
        head.forward = lambda encoded, batch: (batch.targets["labels"], forward(encoded, batch))[1]

    with pytest.raises(
        ContractError, match=r"a missing batch.targets\['labels'\] is a DataError that names it, but without it .* KeyError"
    ):
        checked("clip_vit_nano", put)
