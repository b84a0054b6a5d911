"""OpenAI's and open_clip's CLIP against our system, through the converter."""

import pytest
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from zoo.assembly.create import create_system
from zoo.errors import WeightsError
from zoo.interop.clip import open_clip
from zoo.losses import info_nce
from zoo.storage.tensors import load_strictly
from zoo.types import Batch

EOT, CONTEXT, SIZE = 299, 13, 42
EQUALS = pytest.mark.card("clip_vit_nano", "equals its reference")
GOES_BACK = pytest.mark.card("clip_vit_nano", "goes back")
ACTIVATIONS = pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])


@pytest.fixture
def reference(scramble):
    """Make a small CLIP of open_clip with random weights."""

    def make(activation="quick_gelu"):
        vision = CLIPVisionCfg(layers=3, width=48, head_width=16, patch_size=14, image_size=SIZE)
        text = CLIPTextCfg(context_length=CONTEXT, vocab_size=EOT + 1, width=36, heads=3, layers=2)
        return scramble(CLIP(20, vision, text, quick_gelu=activation == "quick_gelu"))

    return make


def ours(reference, activation="quick_gelu"):
    image = {"name": "vit", "image_size": SIZE, "patch_size": 14, "dim": 48, "depth": 3, "num_heads": 3, "eps": 1e-5}
    image |= {"pre_norm": True, "patch_bias": False, "activation": activation}
    text = {"name": "text", "vocab_size": EOT + 1, "context_length": CONTEXT, "dim": 36, "depth": 2, "num_heads": 3}
    text |= {"eot_token_id": EOT, "activation": activation}
    processor = {"text": {"vocab_size": EOT + 1, "eot_token_id": EOT}}
    system = create_system({"encoders": {"image": image, "text": text}, "head": {"name": "clip", "embed_dim": 20}, "processor": processor})
    load_strictly(system, open_clip.to_zoo(reference.state_dict()), origin="open_clip")
    return system


def batch(n=5):
    token_ids = torch.randint(1, EOT, (n, CONTEXT))
    for row, end in enumerate(torch.randint(2, CONTEXT, (n,)).tolist()):
        token_ids[row, end:] = 0
        token_ids[row, end] = EOT
    return Batch({"image": torch.randn(n, 3, SIZE, SIZE), "text": token_ids})


@EQUALS
@ACTIVATIONS
def test_features_logits_and_loss_equal_open_clip(reference, activation, card_figure):
    model, data = reference(activation), batch()
    with torch.no_grad():
        found = ours(model, activation)(data)
        image, text, scale = model(data.inputs["image"], data.inputs["text"])
        logits, _ = model.get_logits(data.inputs["image"], data.inputs["text"])
    torch.testing.assert_close(found.outputs["image"], image, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.outputs["text"], text, atol=1e-5, rtol=0)
    mine = found.metrics["logit_scale"] * found.outputs["image"] @ found.outputs["text"].T
    torch.testing.assert_close(mine, logits, atol=1e-5 * scale.item(), rtol=0)
    torch.testing.assert_close(found.loss, ClipLoss()(image, text, scale), atol=1e-5, rtol=1e-5)
    card_figure(f"features differ by {max((found.outputs['image'] - image).abs().max(), (found.outputs['text'] - text).abs().max()):.0e}")


@EQUALS
@ACTIVATIONS
def test_gradients_of_every_weight_equal_open_clip(reference, activation):
    model, data = reference(activation), batch()
    system = ours(model, activation)
    system(data).loss.backward()
    ClipLoss()(*model(data.inputs["image"], data.inputs["text"])).backward()
    found = open_clip.from_zoo({name: p.grad for name, p in system.named_parameters()})
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


@EQUALS
def test_image_tokens_equal_open_clip(reference):
    model, pixels = reference(), torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        found = ours(model).encoders["image"](pixels).tokens
        expected = model.visual.forward_intermediates(pixels, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True)
    torch.testing.assert_close(found[:, 1:], expected["image_intermediates"][-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, :1], expected["image_intermediates_prefix"][-1], atol=1e-5, rtol=0)


@GOES_BACK
def test_open_clip_to_zoo_and_back_is_the_same_bit_for_bit(reference, same_state, card_figure):
    model = reference()
    same_state(open_clip.from_zoo(ours(model).state_dict()), model.state_dict())
    card_figure("open_clip: every tensor bit-equal")


@GOES_BACK
def test_our_weights_run_in_open_clip(reference, scramble):
    model, data = reference(), batch()
    system = scramble(ours(model))
    model.load_state_dict(open_clip.from_zoo(system.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_image(data.inputs["image"], normalize=True), system(data).outputs["image"], atol=1e-5, rtol=0
        )


def test_openai_archives_hold_three_scalars_more(reference, same_state):
    state = reference().state_dict()
    extra = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    same_state(open_clip.to_zoo({**state, **extra}), open_clip.to_zoo(state))


def test_weights_that_ours_has_no_place_for_are_refused(reference):
    with pytest.raises(WeightsError, match=r"1 unknown \(visual.attn_pool.query\)"):
        open_clip.to_zoo({**reference().state_dict(), "visual.attn_pool.query": torch.ones(1)})


def test_keys_of_others_are_not_recognised(reference):
    state = reference().state_dict()
    assert open_clip.recognises(state) and not open_clip.recognises(open_clip.to_zoo(state))
    assert not open_clip.recognises(key.replace("class_embedding", "attnpool.c_proj") for key in state)


@EQUALS
@pytest.mark.parametrize("count", [1, 2, 7, 300, 2100])
def test_gradients_of_info_nce_equal_those_of_open_clip(count):
    first, second = (torch.nn.functional.normalize(torch.randn(count, 24), dim=-1) for _ in range(2))
    inputs = [[t.clone().requires_grad_() for t in (first, second, torch.tensor(14.3))] for _ in range(2)]
    losses = [info_nce(*inputs[0]), ClipLoss()(*inputs[1])]
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)
    for loss in losses:
        loss.backward()
    for found, expected in zip(*inputs, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=0)
