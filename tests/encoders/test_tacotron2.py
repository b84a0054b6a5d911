"""Invariants of Tacotron 2's text encoder; equality with torchaudio's is tested in tests/convert."""

import pytest
import torch

import zoo
from zoo.encoders.tacotron2 import Tacotron2Encoder
from zoo.errors import ConfigError

IDS = torch.tensor([[3, 9, 30, 4, 7, 2, 0, 0], [5, 6, 7, 8, 9, 10, 11, 12], [14, 0, 0, 0, 0, 0, 0, 0]])
MASK = torch.arange(8) < torch.tensor([[6], [8], [1]])


@pytest.fixture
def encoder(scramble):
    return scramble(zoo.create_model("tacotron2_encoder_nano"))


def test_padding_changes_nothing(encoder):
    found = encoder(IDS, MASK)
    for row, length in enumerate((6, 8, 1)):
        alone = encoder(IDS[row : row + 1, :length])
        torch.testing.assert_close(found.tokens[row, :length], alone.tokens[0], atol=1e-6, rtol=1e-5)
        assert not found.tokens[row, length:].any()
    assert found.pooled is None and torch.equal(found.mask, MASK)


def test_the_padding_symbol_changes_nothing(encoder):
    other = torch.where(MASK, IDS, 7)
    torch.testing.assert_close(encoder(other, MASK).tokens, encoder(IDS, MASK).tokens)


def test_statistics_in_training_are_those_of_real_characters(encoder):
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = 1.0
    encoder.train()
    encoder(IDS, MASK)
    norm = encoder.convolutions[0]
    rows = torch.nn.functional.conv1d(
        (encoder.embedding(IDS) * MASK[..., None]).transpose(1, 2), norm.conv.weight, norm.conv.bias, padding=2
    ).transpose(1, 2)[MASK]
    torch.testing.assert_close(norm.norm.running_mean, rows.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.norm.running_var, rows.var(0), atol=1e-5, rtol=1e-5)


def test_every_parameter_learns(encoder):
    encoder.train()(IDS, MASK).tokens.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_an_odd_width_is_refused():
    with pytest.raises(ConfigError, match="dim: 31"):
        Tacotron2Encoder(dim=31)
