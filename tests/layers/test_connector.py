"""Connectors: their values, their number of tokens, and that padding has no effect."""

import pytest
import torch
from torch import nn

from zoo.errors import ConfigError, DataError
from zoo.layers.connector import build_connector, default_heads
from zoo.layers.connectors.resampler import PerceiverResampler
from zoo.registry import part_names

IN, OUT = 24, 40
FOR_IMAGES = ("linear", "mlp", "pixel_shuffle", "resampler", "kosmos2", "attention_pool")
FOR_AUDIO = ("linear", "mlp", "downsampler", "resampler", "kosmos2", "attention_pool")


def connector(kind, num_tokens=None):
    return build_connector(kind, in_dim=IN, out_dim=OUT, num_tokens=num_tokens).eval()


def padded(lengths, length, fill):
    """Make random tokens with the value ``fill`` at padding."""
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), length, IN).masked_fill(~mask[..., None], fill), mask


@pytest.mark.parametrize("kind", FOR_IMAGES)
@pytest.mark.parametrize("side", [2, 4, 6])
def test_an_image_gives_as_many_tokens_as_the_connector_says(kind, side):
    part = connector(kind, side**2)
    tokens, mask = part(torch.randn(3, side**2, IN), torch.ones(3, side**2, dtype=torch.bool))
    assert tokens.shape == (3, part.num_tokens(side**2), OUT) and mask.all() and mask.shape == tokens.shape[:2]


@pytest.mark.parametrize("kind", [*FOR_AUDIO, {"kind": "downsampler", "factor": 2}, {"kind": "downsampler", "factor": 8}], ids=str)
def test_clips_of_every_length_give_as_many_tokens_as_the_connector_says(kind):
    part, lengths = connector(kind), list(range(1, 20))
    tokens, mask = part(*padded(lengths, 19, 0.0))
    assert mask.sum(1).tolist() == [part.num_tokens(n) for n in lengths]
    assert tokens.shape[:2] == mask.shape
    for n in lengths:
        alone, seen = part(torch.randn(1, n, IN), torch.ones(1, n, dtype=torch.bool))
        assert alone.shape[1] == part.num_tokens(n) and seen.all()


@pytest.mark.parametrize("kind", FOR_AUDIO)
@pytest.mark.parametrize("fill", [7.0, float("nan")])
def test_padding_never_reaches_a_real_token(kind, fill):
    part, lengths = connector(kind), [3, 11, 6, 1]
    tokens, mask = padded(lengths, 13, fill)
    together, seen = part(tokens, mask)
    for row, n in enumerate(lengths):
        alone, _ = part(tokens[row : row + 1, :n], mask[row : row + 1, :n])
        torch.testing.assert_close(together[row][seen[row]], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", part_names("connector"))
def test_no_item_gives_no_tokens_and_gradients_of_zero(kind):
    part = connector(kind, None if kind == "downsampler" else 16)
    tokens, mask = part(torch.zeros(0, 16, IN, requires_grad=True), torch.ones(0, 16, dtype=torch.bool))
    assert tokens.shape == (0, part.num_tokens(16), OUT) and mask.shape == tokens.shape[:2]
    tokens.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("kind", part_names("connector"))
def test_every_parameter_learns(kind):
    part = connector(kind, None if kind == "downsampler" else 16)
    part(torch.randn(2, 16, IN), torch.ones(2, 16, dtype=torch.bool))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("normalise", [True, False])
def test_the_kosmos_2_connector_is_that_of_transformers(normalise):
    from transformers import Kosmos2Config
    from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2ImageToTextProjection

    words = {"embed_dim": OUT, "attention_heads": 5}
    reference = Kosmos2ImageToTextProjection(Kosmos2Config(text_config=words, vision_config={"hidden_size": IN}, latent_query_num=7))
    part = connector({"kind": "kosmos2", "num_latents": 7, "num_heads": 5, "normalise": normalise})
    theirs = {name: torch.randn_like(tensor) for name, tensor in reference.state_dict().items()}
    reference.load_state_dict(theirs)
    ours = {"latents": theirs["latent_query"]}
    for name in ("weight", "bias"):
        query, key, value, out = (theirs[f"x_attn.{p}_proj.{name}"] for p in ("q", "k", "v", "out"))
        ours |= {f"attention.query.{name}": query, f"attention.key_value.{name}": torch.cat([key, value])}
        ours |= {f"attention.out.{name}": out, f"dense.{name}": theirs[f"dense.{name}"]}
    part.load_state_dict(ours)
    x = torch.randn(3, 9, IN)
    expected, _ = reference.eval()(nn.functional.normalize(x, dim=-1) if normalise else x)
    torch.testing.assert_close(part(x, torch.ones(3, 9, dtype=torch.bool))[0], expected, rtol=1e-5, atol=1e-5)


def test_the_mlp_is_that_of_llava_1_5():
    part = connector("mlp", 4)
    reference = nn.Sequential(nn.Linear(IN, OUT), nn.GELU(), nn.Linear(OUT, OUT))
    reference.load_state_dict(dict(zip(reference.state_dict(), part.state_dict().values(), strict=True)))
    x = torch.randn(2, 4, IN)
    torch.testing.assert_close(part(x, torch.ones(2, 4, dtype=torch.bool))[0], reference(x))
    sizes = [sum(p.numel() for p in build_connector("mlp", in_dim=1024, out_dim=d, num_tokens=576).parameters()) for d in (4096, 5120)]
    assert sizes == [20_979_712, 31_467_520]  # the sheet's, of LLaVA-1.5 7B and 13B


def test_the_linear_layer_starts_as_torch_starts_it():
    """LLaVA's projector is a plain ``nn.Linear``: uniform within 1 / sqrt(in_dim)."""
    weight = build_connector("linear", in_dim=1024, out_dim=512, num_tokens=4).get_parameter("linear.weight").data
    assert weight.abs().max() <= 1 / 32 and weight.std() == pytest.approx(1 / 32 / 3**0.5, rel=0.01)


def test_pixel_shuffle_joins_squares_of_places_as_idefics3_does():
    transformers = pytest.importorskip("transformers.models.idefics3.modeling_idefics3")
    config = transformers.Idefics3Config(
        scale_factor=2,
        vision_config={"hidden_size": IN},
        text_config={"hidden_size": OUT, "num_attention_heads": 4, "num_key_value_heads": 4},
    )
    reference = transformers.Idefics3Connector(config)
    part = build_connector({"kind": "pixel_shuffle", "bias": False}, in_dim=IN, out_dim=OUT, num_tokens=36)
    part.linear.weight.data.copy_(reference.modality_projection.proj.weight)
    tokens = torch.randn(2, 36, IN)
    torch.testing.assert_close(part(tokens, torch.ones(2, 36, dtype=torch.bool))[0], reference(tokens), rtol=0, atol=1e-5)


def test_the_resampler_is_flamingos(scramble):
    """Against the paper's figure 5, written with torch's own attention."""
    part = scramble(PerceiverResampler(dim=32, num_latents=5, depth=2, num_heads=4))
    media, mask = torch.randn(2, 7, 32), torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    latents = part.latents.expand(2, -1, -1)
    for layer in part.layers:
        queries = layer.norm_latents(latents)
        context = torch.cat([layer.norm_media(media.masked_fill(~mask[..., None], 0)), queries], 1)
        weight = torch.cat([layer.attention.query.weight, layer.attention.key_value.weight])
        attended, _ = nn.functional.multi_head_attention_forward(
            *(x.transpose(0, 1) for x in (queries, context, context)), 32, 4, weight, None, None, None, False, 0.0,
            layer.attention.out.weight, None, training=False, key_padding_mask=torch.cat([~mask, torch.zeros(2, 5, dtype=torch.bool)], 1),
        )  # fmt: skip
        latents = latents + attended.transpose(0, 1)
        latents = latents + layer.mlp.fc2(nn.functional.gelu(layer.mlp.fc1(layer.norm(latents))))
    torch.testing.assert_close(part(media, mask), part.norm(latents), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "num_tokens", "message"),
    [
        ("lineer", 16, "there is no connector 'lineer'; did you mean 'linear'"),
        ({"num_latents": 8}, 16, "there is no connector None"),
        ({"kind": "resampler", "num_latent": 8}, 16, "num_latent: connector 'resampler' has no such option; did you mean 'num_latents'"),
        ({"kind": "resampler", "num_latents": "many"}, 16, r"num_latents: got 'many' \(str\); allowed is int"),
        ({"kind": "resampler", "num_latents": 0}, 16, "num_latents: 0; allowed is 1 or more"),
        ({"kind": "resampler", "num_heads": 7}, 16, "num_heads: 7 does not divide dim 24"),
        ({"kind": "mlp", "depth": True}, 16, "depth: got True"),
        ({"kind": "downsampler", "factor": 3}, None, r"factor: 3; allowed are powers of two \(2, 4"),
        ("downsampler", 16, "'downsampler' cannot be used here: .* an image has no time; or choose pixel_shuffle or resampler"),
        ("pixel_shuffle", None, "audio has none; or choose downsampler or resampler"),
        ("pixel_shuffle", 49, r"factor 2 does not divide the side of the 7 x 7 grid; allowed are \[1, 7\]; or choose linear, mlp, "),
        ("pixel_shuffle", 197, "197 tokens do not form a square grid; or choose linear"),
        ({"kind": "pixel_shuffle", "factor": 0}, 16, "factor: 0; allowed is 1 or more"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(kind, num_tokens, message):
    with pytest.raises(ConfigError, match=message):
        connector(kind, num_tokens)


def test_a_picture_of_another_size_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="factor 2 does not divide the side of the 5 x 5 grid"):
        connector("pixel_shuffle", 16)(torch.zeros(1, 25, IN), torch.ones(1, 25, dtype=torch.bool))


def test_heads_have_64_channels_or_more_and_share_the_width():
    assert [default_heads(dim) for dim in (1024, 48, 80, 192, 200)] == [16, 1, 1, 3, 2]
