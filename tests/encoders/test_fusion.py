"""Fusion: each member sees what its own processor would give it, and scores are the weighted sums of the members' cosines."""

import copy

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.assembly.joined import fused_encoder
from zoo.errors import ConfigError
from zoo.layers.low_precision.modes import set_precision
from zoo.processors.image import ImageProcessor
from zoo.types import Encoded, EncoderSpec

CENTRE = {"crop_fraction": 0.5, "mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}


@pytest.fixture(scope="module")
def members():
    torch.manual_seed(0)
    return zoo.create_model("vit_nano", depth=1), zoo.create_model("vit_nano", depth=1, dim=32, preprocessing=CENTRE)


def vectors(members, image):
    """Unit pooled vectors of the members, each through its own processor."""
    ready = [ImageProcessor(image_size=32, **member.preprocessing)([image])[0] for member in members]
    return [F.normalize(member(x).pooled, dim=-1) for member, x in zip(members, ready, strict=True)]


@pytest.mark.parametrize("weights", [None, [2.0, 0.5]])
def test_cosines_are_the_weighted_sums_of_the_members_cosines(members, weights):
    fusion = fused_encoder(members, shares=weights)
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)).numpy()
    assert fusion.image_size == 64  # the second member's centre is half of its image of 64 pixels
    pooled = fusion(fusion.processor["image"]([image])[0]).pooled
    parts = pooled.split([64, 32], dim=-1)
    for part, expected, weight in zip(parts, vectors(members, image), weights or [1.0, 1.0], strict=True):
        torch.testing.assert_close(part.norm(), torch.tensor(weight), atol=1e-5, rtol=1e-5)
        # 0.999: torch resizes the tensor here, PIL the image there, which rounds to whole grey levels
        assert F.cosine_similarity(part / weight, expected).item() > 0.999


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_a_fusion_resizes_in_every_precision(members, precision):
    fusion, x = copy.deepcopy(fused_encoder(members)), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = fusion(x).pooled
        found = set_precision(fusion, precision)(x.to(next(fusion.parameters()).dtype)).pooled.float()
    assert F.cosine_similarity(found, expected).min() > 0.999


def test_the_gate_of_an_item_reads_the_members_confidence():
    fusion = zoo.create_model("fusion_nano")
    fusion.gate.power.data = torch.tensor([0.0, 1.0])
    sure, unsure = torch.ones(1, 64), torch.ones(1, 64)
    pooled = fusion.gate([torch.cat([sure, unsure]), torch.tensor([[1.0, 0], [0.1, 0]])])
    torch.testing.assert_close(pooled[:, 64:], torch.tensor([[1.0, 0], [0.1, 0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(pooled[:, :64].norm(dim=1), torch.ones(2))


def test_a_saved_fusion_gives_the_same(members, tmp_path):
    fusion, pixels = fused_encoder(members, gate="item", shares=[1.0, 0.3]), torch.rand(2, 3, 64, 64)
    loaded = zoo.load(zoo.save(fusion, tmp_path / "fusion"))
    assert torch.equal(loaded(pixels).pooled, fusion(pixels).pooled)


def test_an_encoder_takes_its_weights_from_a_fusion_that_contains_it(members, tmp_path):
    folder = zoo.save(fused_encoder(members), tmp_path / "fusion")
    taken = zoo.create_model("vit_nano", depth=1, dim=32, weights=folder)
    assert all(torch.equal(tensor, taken.state_dict()[name]) for name, tensor in members[1].state_dict().items())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"encoders": [{"name": "vit"}]}, "got 1; a fusion joins 2 or more"),
        ({"gate": "soft"}, "there is no 'soft'; known: fixed, item"),
        ({"shares": [1.0]}, r"got \[1.0\]; allowed is one number above 0 for each of the 2"),
        ({"encoders": [{"name": "vit", "pool": "none"}, {"name": "vit"}]}, r"encoders\[0\]: 'vit' gives no pooled vector"),
        ({"encoders": [{"name": "vit"}, {"name": "text"}]}, r"encoders\[1\]: 'text' takes text; allowed are image encoders"),
    ],
)
def test_what_does_not_fuse_is_refused(keywords, message):
    with pytest.raises(ConfigError, match=message):
        zoo.create_model("fusion_nano", **keywords)


def test_a_text_projection_keeps_the_input_beside_the_trained_vector():
    head = zoo.create_model("clip_nano", embed_dim=100, inputs=specs(100, 64), projections={"image": "none", "text": "mlp_and_input"})
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    both = head.project("text", Encoded.of_pooled(vectors)) * 2**0.5
    torch.testing.assert_close(both[:, 36:], F.normalize(vectors, dim=-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:, :36], F.normalize(head.projections["text"].inner(vectors), dim=-1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="'mlp_and_input' keeps the encoder's 64 numbers beside those of the mlp; set embed_dim above 64"):
        zoo.create_model("clip_nano", embed_dim=64, inputs=specs(64, 64), projections={"image": "none", "text": "mlp_and_input"})


def specs(image, text):
    return {"image": EncoderSpec("image", image), "text": EncoderSpec("text", text)}
