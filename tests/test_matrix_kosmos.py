"""Encoders and connectors of Kosmos, by config alone: each pair trains a step or is refused."""

import itertools

import numpy as np
import pytest
import torch

import zoo
from zoo.errors import ConfigError
from zoo.types import PLACEHOLDER_IDS

ENCODERS = {"vit_nano": "image", "vig_nano": "image", "whisper_nano_encoder": "audio"}
CONNECTORS = ("resampler", "kosmos2", "mlp", "downsampler")
SYSTEMS = {"vit_nano": "kosmos_nano", "vig_nano": "kosmos_vig_nano", "whisper_nano_encoder": "kosmos_whisper_nano"}
PAIRS = [*itertools.product(ENCODERS, CONNECTORS), ("vit_nano", "pixel_shuffle")]
REFUSED = {
    ("vit_nano", "pixel_shuffle"): "17 tokens do not form a square grid",  # with the class token
    ("vit_nano", "downsampler"): "an image has no time",
    ("vig_nano", "downsampler"): "an image has no time",
}


def items(modality):
    """Pictures of several sizes, or clips of several lengths."""
    generator = np.random.default_rng(0)
    if modality == "image":
        return [generator.integers(0, 256, (side, 40, 3), dtype=np.uint8) for side in (20, 33, 64)]
    return [generator.normal(size=samples).astype(np.float32) * 0.1 for samples in (3000, 500, 7777)]


def ready(encoder, connector=None):
    overrides = [] if connector is None else [f"system.head.connectors.{ENCODERS[encoder]}={connector}"]
    system = zoo.create_system(SYSTEMS[encoder], overrides).train()
    system.processor.fit(["which is it?", "seven"])
    return system


@pytest.mark.parametrize(("encoder", "connector"), PAIRS)
def test_each_pair_trains_a_step_or_is_refused_with_the_reason(encoder, connector):
    modality = ENCODERS[encoder]
    if (encoder, connector) in REFUSED:
        with pytest.raises(ConfigError, match=f"connectors.{modality}: '{connector}' cannot be used here: .*{REFUSED[encoder, connector]}"):
            ready(encoder, connector)
        return
    system, (first, second, third) = ready(encoder, connector), items(modality)
    batch = system.processor(conversation=[[first, second, "which"], ["which is it?"], ["seven", third]])
    made = [system.counts[modality](system.processor[modality].item(item)) for item in (first, second, third)]
    assert int((batch.inputs["text"] == PLACEHOLDER_IDS[modality]).sum()) == sum(made)
    before = [p.detach().clone() for p in system.parameters()]
    loss = system(batch).loss
    loss.backward()
    assert all(p.grad is not None for p in system.parameters() if p.requires_grad)
    torch.optim.SGD(system.parameters(), lr=0.05).step()
    assert any(not torch.equal(p, old) for p, old in zip(system.parameters(), before, strict=True))
    assert system(batch).loss < loss


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_batch_without_items_gives_every_parameter_a_gradient_of_zero(encoder):
    system = ready(encoder)
    batch = system.processor(conversation=[["which is it?"]])
    assert len(batch.inputs[ENCODERS[encoder]]) == 0
    system(batch).loss.backward()
    for part in (system.encoders, system.head.connectors):
        assert all(p.grad is not None and not p.grad.any() for p in part.parameters() if p.requires_grad)
    assert any(p.grad.any() for p in system.head.language.parameters())
