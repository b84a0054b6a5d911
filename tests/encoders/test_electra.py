"""ELECTRA's encoder: parameter counts, golden logits; equality with its reference: tests/convert/test_transformers_text.py."""

import pytest
import torch
import torch.nn.functional as F
from sizes import num_parameters

from tests.support.sines import sines_by_their_names
from zoo.assembly.summary import summarize
from zoo.encoders.electra import Electra
from zoo.heads.replaced_tokens import ReplacedTokens
from zoo.interop.text_encoders import electra as names
from zoo.types import EncoderSpec


@pytest.mark.parametrize(
    ("name", "expected"), [("electra_small", 13_483_008), ("electra_base", 108_891_648), ("electra_large", 334_092_288)]
)
def test_parameter_counts_are_those_of_the_reference(name, expected):
    assert summarize(name).parameters == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("electra_small", 13_549_057), ("electra_base", 109_483_009), ("electra_large", 335_142_913)]
)
def test_discriminators_have_the_size_of_the_references_with_their_head(name, expected):
    dim = {"electra_small": 256, "electra_base": 768, "electra_large": 1024}[name]
    with torch.device("meta"):
        head = ReplacedTokens(inputs={"text": EncoderSpec("text", dim)})
    assert num_parameters(name) + sum(parameter.numel() for parameter in head.parameters()) == expected


@pytest.mark.parametrize(("name", "whole"), [("electra_small", 4_620_026), ("electra_base", 33_740_602), ("electra_large", 51_295_290)])
def test_generators_have_the_size_of_the_references_with_their_head(name, whole):
    generator = summarize(f"{name}_generator")
    encoder = Electra(
        **{"vocab_size": 30522, "embedding_dim": {"s": 128, "b": 768, "l": 1024}[name[8]], "dim": 64, "depth": 0, "num_heads": 1}
    )
    width, dim = encoder.word_dim, 64 if "small" in name else 256
    assert generator.parameters + dim * width + width + 2 * width + 30522 == whole


def test_the_published_small_generator_has_the_encoder_of_the_small_discriminator():
    dim, width = 256, 128
    assert num_parameters("electra_small") + dim * width + width + 2 * width + 30522 == 13_546_682


@torch.no_grad()
def test_logits_are_those_that_the_reference_gave_for_weights_of_sines():
    model = Electra(vocab_size=13, context_length=16, embedding_dim=6, dim=8, depth=2, num_heads=2, mlp_ratio=1.5).eval()
    head = ReplacedTokens(inputs={"text": EncoderSpec.of(model)})
    assert sines_by_their_names(names, model, head) == 1399
    logits = head.logits(model(torch.tensor([[5, 9, 3, 7, 6, 11]])).tokens)[0]
    # transformers 5.17, ElectraForPreTraining, with the same weights
    expected = torch.tensor([0.26832372, 0.47598681, 0.44757772, 0.27714445, 0.47129699, 0.47953136])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    loss = F.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1, 0, 0, 1, 0]))
    torch.testing.assert_close(loss, torch.tensor(0.75815819), atol=1e-5, rtol=0)
