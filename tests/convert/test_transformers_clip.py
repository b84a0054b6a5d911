"""transformers' CLIPModel and SiglipModel against our system, and their towers against ``vit``, through the converter."""

import inspect
import json

import pytest
import torch
from open_clip.loss import SigLipLoss
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from zoo.assembly.create import create_model, create_system
from zoo.encoders.vit import ViT
from zoo.errors import ConfigError, WeightsError
from zoo.interop.clip import transformers_clip
from zoo.layers.meta import meta_device
from zoo.losses import sigmoid_loss
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly, read_tensors, write_tensors
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
def test_both_models_and_their_image_towers_are_recognised_and_told_apart(name):
    state = make_reference(name).state_dict()
    assert transformers_clip.recognises(state) and not transformers_clip.is_tower(state)
    assert not transformers_clip.recognises(transformers_clip.to_zoo(state))
    image = [key for key in state if key.startswith("vision_model.")]
    for keys in (image, [key.removeprefix("vision_model.") for key in image]):
        assert transformers_clip.recognises(keys) and transformers_clip.is_tower(keys)
    assert not transformers_clip.recognises(key for key in state if key.startswith("text_model."))


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


# Lone image towers.

TOWER = {"image_size": SIZE, "patch_size": 14, "hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 3}
TOWER |= {"intermediate_size": 100, "attn_implementation": "eager"}  # 100 is no multiple of 60
TOWERS = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**TOWER)),
    "clip gelu": lambda: CLIPVisionModel(CLIPVisionConfig(**TOWER, hidden_act="gelu", layer_norm_eps=1e-3)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**TOWER)),
    "siglip without head": lambda: SiglipVisionModel(SiglipVisionConfig(**TOWER, vision_use_head=False)),
    "siglip 44 / 14": lambda: SiglipVisionModel(SiglipVisionConfig(**{**TOWER, "image_size": 44})),  # 3 x 3 patches, 2 pixels left
}
EVERY_TOWER = pytest.mark.parametrize("name", TOWERS)


@pytest.fixture
def tower(scramble):
    """Make a small random tower of transformers, and load ours from its config and weights only."""

    def make(name):
        reference = scramble(TOWERS[name]())
        model = build_part("encoder", {"name": "vit", **transformers_clip.arguments(reference.config.to_dict())}, "encoder").eval()
        load_strictly(model, transformers_clip.to_zoo(reference.state_dict()), origin="transformers")
        return reference, model

    return make


@EVERY_TOWER
@pytest.mark.parametrize("shape", [(42, 42), (28, 70), (84, 14), (14, 126), (98, 98)])
@torch.no_grad()
def test_a_tower_equals_transformers_at_any_size(tower, close, name, shape):
    reference, model = tower(name)
    pixels = torch.randn(2, 3, *shape)
    found, expected = model(pixels), reference(pixels, interpolate_pos_encoding=True)
    tokens = expected.last_hidden_state
    if "siglip" not in name:  # CLIP normalises the class token alone; we all
        tokens = reference.post_layernorm(tokens)
        close(model.intermediates(pixels, [-1])[0], expected.last_hidden_state)
    torch.testing.assert_close(found.tokens, tokens, atol=1e-5, rtol=1e-5)
    if expected.pooler_output is None:
        assert found.pooled is None
    else:
        torch.testing.assert_close(found.pooled, expected.pooler_output, atol=1e-5, rtol=1e-5)


@EVERY_TOWER
@torch.no_grad()
def test_every_layer_of_a_tower_and_its_attention_equal_transformers(tower, close, name):
    reference, model = tower(name)
    pixels = torch.randn(2, 3, 28, 70)
    expected = reference(pixels, interpolate_pos_encoding=True, output_hidden_states=True, output_attentions=True)
    found = model.intermediates(pixels)
    close(model.intermediates(pixels, [-2])[0], expected.hidden_states[-2])  # LLaVA's
    for ours, theirs in zip(found[:-1], expected.hidden_states[1:-1], strict=True):  # SigLIP's last one is normalised
        close(ours, theirs)
    for ours, theirs in zip(model.attention_maps(pixels), expected.attentions, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pixels_that_fill_no_patch_are_left_out_as_in_transformers(tower):
    reference, model = tower("siglip 44 / 14")
    pixels = torch.randn(2, 3, 44, 44)
    torch.testing.assert_close(model(pixels).pooled, reference(pixels).pooler_output, atol=1e-5, rtol=1e-5)


@EVERY_TOWER
def test_a_tower_goes_back_bit_for_bit_with_and_without_prefix(tower, same_state, name, tmp_path):
    reference, model = tower(name)
    same_state(transformers_clip.from_zoo(model.state_dict()), reference.state_dict())
    old = transformers_clip.from_zoo(model.state_dict(), prefix="vision_model.")
    assert all(key.startswith("vision_model.") for key in old)
    old["vision_model.embeddings.position_ids"] = torch.arange(10)[None]  # files of releases before 4.31
    same_state(transformers_clip.to_zoo(old), model.state_dict())
    reference.save_pretrained(tmp_path)
    same_state(transformers_clip.to_zoo(read_tensors(tmp_path / "model.safetensors")), model.state_dict())
    assert transformers_clip.arguments(json.loads((tmp_path / "config.json").read_text())) == transformers_clip.arguments(
        reference.config.to_dict()
    )


@EVERY_TOWER
@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_transformers_loads_the_tower_that_we_export(tower, scramble, close, name, prefix, tmp_path):
    reference, model = tower(name)
    scramble(model)
    config = transformers_clip.config(transformers_clip.arguments(reference.config.to_dict()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tensors(transformers_clip.from_zoo(model.state_dict(), prefix=prefix), tmp_path / "model.safetensors")
    again, report = type(reference).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = again.eval()(pixels, interpolate_pos_encoding=True).last_hidden_state
        normalise = "siglip" in name
        close(model.intermediates(pixels, [-1], normalise=normalise)[0], expected)


@torch.no_grad()
def test_the_image_tower_of_a_whole_model_is_what_is_left_without_the_rest(pair):
    reference, system = pair("clip quick_gelu")
    rest = ["text_model", "text_projection", "visual_projection", "logit_scale"]
    arguments = transformers_clip.arguments(reference.config.to_dict()["vision_config"])
    model = build_part("encoder", {"name": "vit", **arguments}, "encoder").eval()
    load_strictly(model, transformers_clip.to_zoo(reference.state_dict(), drop=rest), origin="transformers")
    pixels = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(model(pixels).pooled, system.encoders["image"](pixels).pooled)


def test_the_projection_of_a_tower_is_reported_unless_the_caller_drops_it(same_state):
    state = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER)).state_dict()
    with pytest.raises(WeightsError, match=r"1 unknown \(visual_projection.weight\)"):
        transformers_clip.to_zoo(state)
    bare = {name: tensor for name, tensor in state.items() if name != "visual_projection.weight"}
    same_state(transformers_clip.to_zoo(state, drop=["visual_projection"]), transformers_clip.to_zoo(bare))


@pytest.mark.parametrize("config", [CLIPVisionConfig(), SiglipVisionConfig()], ids=lambda config: config.model_type)
def test_what_a_towers_config_leaves_out_has_the_default_of_transformers(config):
    found = transformers_clip.arguments({"model_type": config.model_type})
    assert found == transformers_clip.arguments(config.to_dict())
    not_theirs = {"drop_path", "init", "preprocessing"} | {key for key in inspect.signature(ViT).parameters if key.startswith("pool_")}
    assert set(found) == set(inspect.signature(ViT).parameters) - not_theirs


@EVERY_TOWER
def test_config_of_a_tower_is_the_way_back_from_arguments(name):
    arguments = transformers_clip.arguments(TOWERS[name]().config.to_dict())
    assert transformers_clip.arguments(transformers_clip.config(arguments)) == arguments


def test_the_head_of_siglip_is_known_by_the_weights_where_they_are_at_hand():
    config = {"model_type": "siglip_vision_model"}
    assert transformers_clip.arguments(config)["pool"] == "attention"
    assert transformers_clip.arguments(config, ["post_layernorm.weight"])["pool"] == "none"
    assert transformers_clip.arguments({**config, "vision_use_head": False}, ["vision_model.head.probe"])["pool"] == "attention"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "clip"}, "model_type: got 'clip'; known: .*, clip_vision_model, .*"),
        ({"model_type": "clip_vision_model", "image_size": [224, 336]}, r"image_size: got \[224, 336\]"),
        ({"model_type": "siglip_vision_model", "num_channels": 4}, "num_channels: got 4"),
        ({"model_type": "siglip_vision_model", "hidden_act": "mish"}, "hidden_act: our vit has no 'mish'"),
    ],
)
def test_configs_that_our_vit_cannot_express_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        transformers_clip.arguments(config)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("clip", {"pre_norm": False}, "pre_norm: got False, which transformers' CLIPVisionModel does not have; allowed is True"),
        ("clip", {"pool": "mean"}, "pool: got 'mean', which transformers' CLIPVisionModel does not have; allowed is 'cls'"),
        ("clip", {"patch_bias": True}, "patch_bias: got True"),
        ("siglip", {"pool": "mean"}, "SiglipVisionModel does not have; allowed is 'attention' or 'none'"),
        ("siglip", {"num_registers": 4}, "num_registers: got 4"),
    ],
)
def test_encoders_that_a_tower_cannot_express_are_refused(kind, changes, message):
    arguments = transformers_clip.arguments({"model_type": f"{kind}_vision_model"})
    with pytest.raises(ConfigError, match=message):
        transformers_clip.config({**arguments, **changes})


@pytest.mark.parametrize(
    ("row", "build"),
    [
        ("vit_base_patch32_clip_224", lambda config: CLIPVisionModel(CLIPVisionConfig(**config))),
        ("vit_gigantic_patch14_clip_224", lambda config: CLIPVisionModel(CLIPVisionConfig(**config))),
        ("vit_so400m_patch14_siglip_384", lambda config: SiglipVisionModel(SiglipVisionConfig(**config))),
    ],
)
def test_rows_of_the_table_are_towers_of_transformers(row, build):
    model = create_model(row, device="meta")
    defaults = {name: parameter.default for name, parameter in inspect.signature(ViT).parameters.items()}
    with meta_device():
        reference = build(transformers_clip.config({**defaults, **model.config["encoder"]}))
    theirs = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in transformers_clip.from_zoo(model.state_dict()).items()} == theirs
