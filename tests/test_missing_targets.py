"""A batch that lacks a target that the head reads is refused with head, target and who makes it, or takes the obvious default."""

import pytest
import torch

import zoo
from zoo.errors import DataError
from zoo.types import MASKED, Batch, Encoded


def encoded_for(system, rows=4):
    real = torch.ones(rows, 3, dtype=torch.bool)
    return {m: Encoded(torch.randn(rows, 3, e.dim), torch.randn(rows, e.dim), real) for m, e in system.encoders.items()}


@pytest.mark.parametrize("name", ["clip_vit_nano", "siglip_vit_nano"])
def test_each_pair_is_its_own_group_if_a_batch_has_no_groups(name):
    system = zoo.create_system(name, ["system.head.positives=groups"])
    batch = Batch({"image": torch.rand(4, 3, 32, 32), "text": torch.randint(3, 90, (4, 9))})
    without = system(batch).loss
    batch.targets["groups"] = torch.arange(4)
    torch.testing.assert_close(without, system(batch).loss)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "classifier_vit_nano",
            r"no targets\['labels'\], which head 'classifier' reads; choose a data source that gives every item a class",
        ),
        (
            "bert_pretraining_nano",
            rf"no targets\['{MASKED}'\], which head 'bert' .masked tokens. reads; set data.masking=.*, which masks tokens",
        ),
        ("llava_nano", r"targets\['supervised'\] is missing .* the processor 'conversation' makes a boolean mask"),
        ("whisper_nano", r"no targets\['supervised'\]: no transcripts, which head 'whisper' .* the processor 'transcript' makes them"),
        ("tacotron2_nano", r"targets\['mels'\] must be mels .* give the system a processor 'speech'"),
        ("tacotron_nano", r"targets\['mels'\] must be mels .* give the system a processor 'speech'"),
    ],
)
def test_a_missing_target_is_named_with_its_head_and_its_maker(name, message):
    system = zoo.create_model(name)
    batch = Batch({"text": torch.randint(3, 90, (4, 3))}, ids=["a", "b", "c", "d"])
    with pytest.raises(DataError, match=message):
        system.head(encoded_for(system), batch)


@pytest.mark.parametrize("name", ["clip_vit_nano", "classifier_vit_nano", "bert_pretraining_nano", "whisper_nano"])
def test_a_missing_modality_is_named(name):
    system = zoo.create_system(name)
    with pytest.raises(DataError, match=r"the batch holds no (image|text|audio)"):
        batch = Batch({"text": torch.randint(3, 90, (4, 3))}, targets={"supervised": torch.ones(4, 3, dtype=torch.bool)})
        system.head({}, batch)
