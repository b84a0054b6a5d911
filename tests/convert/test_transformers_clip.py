"""transformers' CLIPModel and SiglipModel against our system, through the converter."""

import pytest
import torch
from open_clip.loss import SigLipLoss
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from zoo.build import create_system
from zoo.checkpoint import load_strictly, read_tensors
from zoo.convert import transformers_clip
from zoo.errors import WeightsError
from zoo.losses import sigmoid_loss
from zoo.types import Batch

VOCABULARY, CONTEXT, SIZE = 300, 13, 42
EOT = VOCABULARY - 1
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "hidden_size": 36, "num_attention_heads": 3, "num_hidden_layers": 2}
TEXT |= {"intermediate_size": 144, "bos_token_id": 1, "eos_token_id": EOT, "pad_token_id": 0}
VISION = {
    "image_size": SIZE,
    "patch_size": 14,
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "intermediate_size": 192,
}
MODELS = ["clip quick_gelu", "clip gelu", "siglip gelu_tanh"]
SYSTEMS = {"clip": "clip_vit_nano", "siglip": "siglip_vit_nano"}
OUR_IMAGE = {"name": "vit", "image_size": SIZE, "patch_size": 14, "dim": 48, "depth": 3, "num_heads": 3, "antialias": False}
OUR_TEXT = {"name": "text", "vocab_size": VOCABULARY, "context_length": CONTEXT, "dim": 36, "depth": 2, "num_heads": 3}
OUR_FLAVOURS = {
    "clip": ({"eps": 1e-5, "pre_norm": True, "patch_bias": False}, {"eot_token_id": EOT}, {"embed_dim": 20}),
    "siglip": (
        {"class_token": False, "pool": "attention"},
        {"causal": False, "pool": "last", "eps": 1e-6},
        {"embed_dim": 48, "loss": "sigmoid", "projections": {"image": "none", "text": "linear_bias"}},
    ),
}


def cards(capability):
    """Every model; each decides the card of its system."""
    marked = [pytest.param(name, marks=pytest.mark.card(SYSTEMS[name.split()[0]], capability)) for name in MODELS]
    return pytest.mark.parametrize("name", marked)


def make_reference(name):
    family, activation = name.split()
    word = {"hidden_act": "gelu_pytorch_tanh" if activation == "gelu_tanh" else activation}
    if family == "clip":
        return CLIPModel(CLIPConfig(text_config={**TEXT, **word}, vision_config={**VISION, **word}, projection_dim=20))
    return SiglipModel(SiglipConfig(text_config={**TEXT, **word, "projection_size": 48}, vision_config={**VISION, **word}))


def make_ours(name):
    family, activation = name.split()
    image, text, head = OUR_FLAVOURS[family]
    encoders = {"image": {**OUR_IMAGE, **image, "activation": activation}, "text": {**OUR_TEXT, **text, "activation": activation}}
    processor = {"text": {"vocab_size": VOCABULARY, "eot_token_id": EOT}}
    return create_system({"encoders": encoders, "head": {"name": "clip", **head}, "processor": processor})


@pytest.fixture
def pair(scramble):
    """A small model of transformers with random weights, and ours with the same."""

    def make(name):
        reference, system = scramble(make_reference(name)), make_ours(name)
        if "siglip" in name:
            reference.logit_scale.data.fill_(1.3)
            reference.logit_bias.data.fill_(-2.1)
        load_strictly(system, transformers_clip.to_zoo(reference.state_dict()), origin="transformers")
        return reference, system

    return make


def batch(n=5):
    token_ids = torch.randint(1, EOT, (n, CONTEXT))
    for row, end in enumerate(torch.randint(2, CONTEXT, (n,)).tolist()):
        token_ids[row, end:] = EOT  # transformers pads with the end symbol
    return Batch({"image": torch.randn(n, 3, SIZE, SIZE), "text": token_ids})


@cards("equals its reference")
def test_features_logits_and_loss_equal_transformers(pair, name, card_figure):
    (reference, system), data = pair(name), batch()
    with torch.no_grad():
        found = system(data)
        expected = reference(input_ids=data.inputs["text"], pixel_values=data.inputs["image"], return_loss=True)
    logits = found.metrics["logit_scale"] * found.outputs["image"] @ found.outputs["text"].T
    logits = logits if system.head.logit_bias is None else logits + system.head.logit_bias
    torch.testing.assert_close(found.outputs["image"], expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.outputs["text"], expected.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-4, rtol=0)  # 14 times the difference of the cosines
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)
    card_figure(f"{name}: features differ by {(found.outputs['image'] - expected.image_embeds).abs().max():.0e}")


@cards("equals its reference")
def test_tokens_of_both_towers_equal_transformers(pair, name):
    (reference, system), data = pair(name), batch()
    with torch.no_grad():
        text = reference.text_model(input_ids=data.inputs["text"]).last_hidden_state
        image = reference.vision_model.post_layernorm(
            reference.vision_model(data.inputs["image"], output_hidden_states=True).hidden_states[-1]
        )
        found = {m: encoder(data.inputs[m]).tokens for m, encoder in system.encoders.items()}
    torch.testing.assert_close(found["text"], text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["image"], image, atol=1e-5, rtol=1e-5)


@cards("equals its reference")
def test_positions_are_resized_as_in_transformers(pair, name):
    reference, system = pair(name)
    pixels = torch.randn(2, 3, 28, 70)
    with torch.no_grad():
        expected = reference.vision_model(pixels, interpolate_pos_encoding=True).pooler_output
        torch.testing.assert_close(system.encoders["image"](pixels).pooled, expected, atol=1e-5, rtol=1e-5)


@cards("goes back")
def test_transformers_to_zoo_and_back_is_the_same_bit_for_bit(pair, same_state, name, card_figure):
    reference, system = pair(name)
    same_state(transformers_clip.from_zoo(system.state_dict()), reference.state_dict())
    card_figure(f"{name}: every tensor bit-equal to transformers")


@cards("goes back")
def test_our_weights_run_in_transformers(pair, scramble, name):
    (reference, system), data = pair(name), batch()
    reference.load_state_dict(transformers_clip.from_zoo(scramble(system).state_dict()))
    with torch.no_grad():
        expected = reference(input_ids=data.inputs["text"], pixel_values=data.inputs["image"])
        torch.testing.assert_close(system(data).outputs["text"], expected.text_embeds, atol=1e-5, rtol=0)


@cards("equals its reference")
def test_a_saved_file_converts_as_the_model_in_memory(pair, same_state, name, tmp_path):
    reference, system = pair(name)
    reference.save_pretrained(tmp_path)
    same_state(transformers_clip.to_zoo(read_tensors(tmp_path / "model.safetensors")), system.state_dict())


def test_position_ids_of_old_files_are_left_out(same_state):
    state = make_reference("clip gelu").state_dict()
    buffers = {f"{tower}_model.embeddings.position_ids": torch.arange(3) for tower in ("text", "vision")}
    same_state(transformers_clip.to_zoo({**state, **buffers}), transformers_clip.to_zoo(state))


def test_a_missing_part_of_qkv_is_named():
    state = make_reference("siglip gelu_tanh").state_dict()
    del state["text_model.encoder.layers.1.self_attn.v_proj.bias"]
    with pytest.raises(WeightsError, match=r"1 missing \(text_model.encoder.layers.1.self_attn.v_proj.bias\)"):
        transformers_clip.to_zoo(state)


@pytest.mark.parametrize("name", MODELS)
def test_both_models_are_recognised_and_their_towers_are_not(name):
    state = make_reference(name).state_dict()
    assert transformers_clip.recognises(state) and not transformers_clip.recognises(transformers_clip.to_zoo(state))
    assert not transformers_clip.recognises(key for key in state if key.startswith("vision_model."))


@pytest.mark.card("siglip_vit_nano", "equals its reference")
@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_gradients_of_the_sigmoid_loss_equal_those_of_open_clip(count):
    first, second = (torch.nn.functional.normalize(torch.randn(count, 24), dim=-1) for _ in range(2))
    given = (first, second, torch.tensor(10.0), torch.tensor(-10.0))
    inputs = [[t.clone().requires_grad_() for t in given] for _ in range(2)]
    losses = [sigmoid_loss(*inputs[0]), SigLipLoss()(*inputs[1])]
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)
    for loss in losses:
        loss.backward()
    for found, expected in zip(*inputs, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-6)
