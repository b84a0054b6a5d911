"""Every kind of encoder with every kind of connector before a language model, by config alone.

Each pair trains a step or is refused before any weight is made. The number of placeholders of a conversation equals the number of features.
"""

import itertools

import numpy as np
import pytest
import torch

import zoo
from zoo.assembly.compose import compose
from zoo.errors import ConfigError
from zoo.types import PLACEHOLDER_IDS

ENCODERS = {"vit_nano": "image", "vig_nano": "image", "timm/test_vit": "image", "whisper_nano_encoder": "audio"}
CONNECTORS = ("linear", "mlp", "pixel_shuffle", "downsampler", "resampler")
SYSTEMS = {"image": "llava_nano", "audio": "llava_whisper_nano"}
REFUSED = {("image", "downsampler"): "an image has no time", ("audio", "pixel_shuffle"): "audio has none"}
PAIRS = [*itertools.product(ENCODERS, CONNECTORS), ("vit_nano", "attention_pool"), ("whisper_nano_encoder", "attention_pool")]
NORMED = {"timm/test_resnet": "image"}  # BatchNorm, which refuses to train on nothing


def overrides(encoder, connector):
    modality = ENCODERS[encoder]
    return [f"encoder@system.encoders.{modality}={encoder}", f"system.head.connectors.{modality}={connector}"]


def items(modality):
    """Pictures of several sizes, or clips of several lengths."""
    generator = np.random.default_rng(0)
    if modality == "image":
        return [generator.integers(0, 256, (side, 40, 3), dtype=np.uint8) for side in (20, 33, 64)]
    return [generator.normal(size=samples).astype(np.float32) * 0.1 for samples in (3000, 500, 7777)]


def conversations(modality):
    """Make three conversations with two, no and one items."""
    first, second, third = ({"type": modality, modality: item} for item in items(modality))
    asked = [[first, second, "which is it?"], ["which is it?"], ["and", third, "?"]]
    return [[{"role": "user", "content": parts}, {"role": "assistant", "content": "seven"}] for parts in asked]


@pytest.mark.parametrize(("encoder", "connector"), PAIRS)
def test_each_pair_trains_a_step_or_is_refused_with_the_reason(encoder, connector, capsys):
    modality = ENCODERS[encoder]
    chosen = [
        f"system={SYSTEMS[modality]}",
        *(["data=digits"] if modality == "image" else ["data=speech", "data.source.path=recordings"]),
        *overrides(encoder, connector),
    ]
    if (modality, connector) in REFUSED:
        with pytest.raises(
            ConfigError, match=f"system.head.connectors.{modality}: '{connector}' cannot be used here: .*{REFUSED[modality, connector]}"
        ):
            zoo.check(compose("train", chosen))
        return
    edges = {(edge.source, edge.target): edge.carries for edge in zoo.check(compose("train", chosen)).edges}
    system = zoo.create_system(SYSTEMS[modality], overrides(encoder, connector)).train()
    system.processor.fit(["which is it?", "seven"])
    batch = system.processor(conversation=conversations(modality))
    encoded = system.encode_batch(batch)[modality]
    _, mask = system.head.connectors[modality](encoded.tokens, encoded.mask)
    assert mask.sum(1).tolist() == [system.counts[modality](system.processor[modality].item(item)) for item in items(modality)]
    assert int((batch.inputs["text"] == PLACEHOLDER_IDS[modality]).sum()) == int(mask.sum())
    if modality == "image":
        assert (
            f"{mask.shape[1]} of {encoded.tokens.shape[1]} for each item"
            in edges[f"system.head.connectors.{modality}", "system.head.language"]
        )
    loss = system(batch).loss
    loss.backward()
    assert all(p.grad is not None for p in system.parameters() if p.requires_grad)
    with capsys.disabled():  # the list is for people to read
        print(f"\n{encoder:22} x {connector:16} {int(mask.sum())} tokens of {len(mask)} items, loss {loss.item():.3f}", end="")


@pytest.mark.parametrize("encoder", [*ENCODERS, *NORMED])
def test_a_batch_without_items_gives_every_parameter_a_gradient_of_zero(encoder):
    modality = (ENCODERS | NORMED)[encoder]
    system = zoo.create_system(SYSTEMS[modality], [f"encoder@system.encoders.{modality}={encoder}"]).train()
    system.processor.fit(["which is it?", "seven"])
    before = {name: buffer.clone() for name, buffer in system.named_buffers()}
    batch = system.processor(conversation=conversations(modality)[1:2])
    assert len(batch.inputs[modality]) == 0
    system(batch).loss.backward()
    for part in (system.encoders, system.head.connectors):
        assert all(p.grad is not None and not p.grad.any() for p in part.parameters() if p.requires_grad)
    assert any(p.grad.any() for p in system.head.language.parameters())
    assert all(torch.equal(before[name], buffer) for name, buffer in system.named_buffers()), "statistics learnt of nothing"


def test_a_grid_that_squares_do_not_fill_is_refused_with_legal_choices():
    chosen = ["encoder@system.encoders.image=timm/resnet18", "system.head.connectors.image=pixel_shuffle"]
    with pytest.raises(
        ConfigError, match=r"system.head.connectors.image: .*factor 2 does not divide the side of the 7 x 7 grid; allowed are \[1, 7\]"
    ):
        zoo.check(compose("train", ["system=llava_nano", "data=digits", *chosen]))


def test_an_image_that_leaves_no_room_for_words_is_refused():
    chosen = ["system=llava_nano", "data=digits", "system.encoders.image.image_size=128"]
    with pytest.raises(
        ConfigError,
        match="connectors.image: 'mlp' makes 256 tokens of each image, .* context_length is 256; choose a connector with fewer tokens",
    ):
        zoo.check(compose("train", chosen))
