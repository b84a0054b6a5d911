"""Intermediates of every kind of encoder, against timm's and transformers' own and against the encoder's last tokens."""

import pytest
import timm
import torch
import transformers

import zoo
from zoo.errors import ConfigError


@pytest.mark.parametrize(("name", "size"), [("test_vit", 32), ("test_resnet", 64), ("test_convnext", 64)])
def test_timms_are_timms_own(name, size):
    encoder, pixels = zoo.create_model(f"timm/{name}", image_size=size), torch.rand(2, 3, size, size)
    expected = encoder.model.forward_intermediates(pixels, intermediates_only=True, output_fmt="NCHW")
    for found, theirs in zip(encoder.intermediates(pixels, output="map"), expected, strict=True):
        torch.testing.assert_close(found, theirs)
    last, first = encoder.intermediates(pixels, [-1, 0])
    torch.testing.assert_close(first, expected[0].flatten(2).transpose(1, 2))
    assert last.shape[2] == expected[-1].shape[1] and timm.__version__


def test_a_vits_maps_are_timms():
    encoder = zoo.create_model("timm/test_vit", image_size=32)
    ours = zoo.create_model("vit_nano", depth=2)
    pixels = torch.rand(2, 3, 32, 48)
    found = ours.intermediates(pixels, [0], output="map")[0]
    assert found.shape == (2, 64, 4, 6)  # rows and columns of an image that is wider than high
    torch.testing.assert_close(found[:, :, 1, 2], ours.intermediates(pixels, [0])[0][:, 1 + 1 * 6 + 2])
    assert encoder.intermediates(torch.rand(1, 3, 32, 32), [0], normalise=True)[0].shape == (1, 4, encoder.dim)


def test_those_of_transformers_are_its_hidden_states(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=28, patch_size=14
    )
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    encoder = zoo.create_model(f"transformers/{tmp_path}", weights=tmp_path)
    pixels = torch.rand(2, 3, 28, 28)
    states = model(pixels, output_hidden_states=True).hidden_states[1:]
    for found, theirs in zip(encoder.intermediates(pixels), states, strict=True):
        torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-5)
    assert encoder.intermediates(pixels, [1], output="map")[0].shape == (2, 32, 2, 2)
    with pytest.raises(ConfigError, match="hidden states of transformers are not normalised"):
        encoder.intermediates(pixels, normalise=True)


@pytest.mark.parametrize("name", [name for name in zoo.list_models("*nano*", kind="encoder", modality="text") if "tacotron" not in name])
def test_the_last_of_a_text_encoder_are_its_tokens(name):
    encoder, token_ids = zoo.create_model(name), torch.randint(5, 50, (2, 7))
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    try:
        found = encoder.intermediates(token_ids, [-1, 0], mask=mask, normalise=True)
    except ConfigError as error:
        assert "has no sequence of blocks" in str(error)
        return
    torch.testing.assert_close(found[0][mask], encoder(token_ids, mask).tokens[mask], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[1], found[0])
    with pytest.raises(ConfigError, match="output: 'map' is of images"):
        encoder.intermediates(token_ids, output="map")


def test_the_last_of_whisper_are_its_tokens_with_and_without_padding():
    encoder, mels = zoo.create_model("whisper_nano_encoder"), torch.randn(2, 80, 30)
    encoder = zoo.create_model("whisper_nano_encoder")
    mels = torch.randn(2, encoder.num_mels, 30)
    for mask in (None, torch.arange(30) < torch.tensor([[30], [17]])):
        encoded = encoder(mels, mask)
        (last,) = encoder.intermediates(mels, [-1], mask=mask, normalise=True)
        torch.testing.assert_close(last[encoded.mask], encoded.tokens[encoded.mask], atol=1e-5, rtol=1e-5)


def test_a_vigs_maps_have_the_grid_of_each_stage():
    encoder, pixels = zoo.create_model("vig_nano"), torch.rand(1, 3, 32, 64)
    found = encoder.intermediates(pixels, output="map")
    tokens = encoder.intermediates(pixels)
    assert all(each.shape[3] == 2 * each.shape[2] for each in found)
    torch.testing.assert_close(found[-1].flatten(2).transpose(1, 2), tokens[-1])


def test_blocks_after_the_last_chosen_one_do_not_run():
    encoder, ran = zoo.create_model("vit_nano", depth=3), []
    encoder.blocks[2].register_forward_hook(lambda *given: ran.append(1))
    encoder.intermediates(torch.rand(1, 3, 32, 32), [1])
    assert not ran and not encoder.blocks[1]._forward_hooks
