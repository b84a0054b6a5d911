"""Encoder of the first Tacotron: published sizes, receptive field, and no effect of padding. No reference class exists for parity."""

import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.layers.cbhg import CBHG, Highway

IDS = torch.tensor([[3, 9, 30, 4, 7, 2, 0, 0], [5, 6, 7, 8, 9, 10, 11, 12], [14, 0, 0, 0, 0, 0, 0, 0]])
MASK = torch.arange(8) < torch.tensor([[6], [8], [1]])


@pytest.fixture
def encoder(scramble):
    return scramble(zoo.create_model("cbhg_encoder_nano"))


def test_padding_changes_nothing(encoder):
    found = encoder(IDS, MASK)
    for row, length in enumerate((6, 8, 1)):
        alone = encoder(IDS[row : row + 1, :length])
        torch.testing.assert_close(found.tokens[row, :length], alone.tokens[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encoder(torch.where(MASK, IDS, 7), MASK).tokens, found.tokens)


def test_sizes_are_those_of_table_1():
    encoder = zoo.create_model("cbhg_encoder", vocab_size=70, device="meta")
    # with 70 symbols, PyTorch's two biases of each GRU: 3,517,568 (the spec sheet's count of keithito's code)
    assert sum(p.numel() for p in encoder.parameters()) == 3_517_568


@torch.no_grad()
def test_the_bank_is_a_plain_convolution_of_each_width(scramble):
    cbhg = scramble(CBHG(in_dim=6, bank=3, dim=6, projections=(5, 6), highways=0))
    x = torch.randn(2, 7, 6)
    rows, bank = x.transpose(1, 2), []
    for kernel, layer in enumerate(cbhg.bank, 1):
        padded = F.pad(rows, ((kernel - 1) // 2, kernel // 2))
        bank.append(layer.norm(F.conv1d(padded, layer.conv.weight, layer.conv.bias).relu()))
    pooled = torch.cat(bank, 1)
    pooled = torch.cat([torch.maximum(pooled[..., :-1], pooled[..., 1:]), pooled[..., -1:]], -1)
    first, second = cbhg.projections
    found = first.norm(F.conv1d(pooled, first.conv.weight, first.conv.bias, padding=1).relu())
    found = second.norm(F.conv1d(found, second.conv.weight, second.conv.bias, padding=1))
    expected, _ = cbhg.gru.rnn(x + found.transpose(1, 2))
    torch.testing.assert_close(cbhg(x), expected, atol=1e-6, rtol=1e-5)


def test_a_highway_begins_nearly_closed():
    layer, x = Highway(4), torch.randn(3, 4)
    torch.nn.init.zeros_(layer.gate.weight)
    share = torch.sigmoid(torch.tensor(-1.0))
    torch.testing.assert_close(layer(x), layer.change(x).relu() * share + x * (1 - share))


def test_every_parameter_learns(encoder):
    encoder.train()(IDS, MASK).tokens.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
