"""Matrices in oneDNN's blocks: the same products, and never those of weights that have changed."""

import torch

from zoo.layers.linear import FEW_ROWS, Linear, fast_linear, pack, unpack
from zoo.layers.linear import _in_blocks as in_blocks


def packed(out_dim: int = 48, in_dim: int = 33) -> Linear:
    torch.manual_seed(0)
    layer = Linear(in_dim, out_dim)
    pack([layer.weight])
    return layer


def test_packed_matrices_give_the_same_products():
    layer = packed()
    assert in_blocks(layer.weight) is not layer.weight
    for rows in (1, 2, 7, FEW_ROWS, FEW_ROWS + 1):
        with torch.inference_mode():
            x = torch.randn(rows, 33)
            torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias, atol=1e-5, rtol=1e-5)


def test_a_matrix_that_changed_is_not_taken_from_its_blocks():
    layer = packed()
    with torch.no_grad():
        layer.weight.mul_(2.0)
        x = torch.randn(4, 33)
        torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias, atol=1e-5, rtol=1e-5)
        layer.weight.data = torch.randn(48, 33)
        torch.testing.assert_close(fast_linear(x, layer.weight, None), x @ layer.weight.T, atol=1e-5, rtol=1e-5)


def test_unpacked_matrices_are_forgotten():
    layer = packed()
    unpack([layer.weight])
    assert in_blocks(layer.weight) is layer.weight


def test_nothing_is_packed_for_training_or_in_other_types():
    half = Linear(33, 48).to(torch.bfloat16)
    pack([half.weight])
    assert in_blocks(half.weight) is half.weight
