"""Four-bit weights: the grid holds that of GGUF, the products are those of the rounded matrix, rows are independent."""

import pytest
import torch

from zoo.layers.low_precision import products
from zoo.layers.low_precision.int4 import GROUP, from_four_bits, int4_product, pack_int4, quantise
from zoo.layers.low_precision.products import MANY_ROWS, low_product


def rounded(weight):
    """Return the matrix that four bits stand for."""
    steps, scale, offset = quantise(weight)
    groups = (steps.unflatten(1, (-1, GROUP)).float() - 8) * scale.float()[..., None] + offset.float()[..., None]
    return groups.flatten(1)


def test_weights_on_a_grid_of_sixteen_steps_keep_their_steps():
    steps = torch.randint(0, 16, (6, 4, GROUP))
    steps[..., 0], steps[..., 1] = 0, 15  # as in GGUF's Q4_1, whose scale and offset come from a group's extremes
    weight = (steps * torch.rand(6, 4, 1) - torch.rand(6, 4, 1) * 9).flatten(1)
    assert torch.equal(quantise(weight)[0], steps.flatten(1).int())


def test_the_search_is_better_than_the_range_alone():
    weight = torch.randn(32, 8 * GROUP)
    groups = weight.unflatten(1, (-1, GROUP))
    low, high = groups.aminmax(dim=-1, keepdim=True)
    plain = ((groups - low) / (high - low) * 15).round() / 15 * (high - low) + low
    assert (rounded(weight) - weight).norm() < 0.97 * (plain.flatten(1) - weight).norm()


def test_errors_are_those_of_the_specification(monkeypatch):
    """Of the norm of outputs: 0.56 % of two uniform layers in eight bits; at most 8 % of Gaussian weights in groups of 32 in four."""
    monkeypatch.setattr(products, "has_vnni", lambda: True)  # 127 steps
    x, (first, second) = torch.randn(64, 1024), (torch.nn.Linear(1024, 4096), torch.nn.Linear(4096, 1024))
    expected = second(first(x))
    for layer in (first, second):
        steps, sizes = products.int8_rows(layer.weight.detach())
        layer.weight.data = steps * sizes[:, None]
    assert ((second(first(x)) - expected).norm() / expected.norm()).item() == pytest.approx(0.0056, rel=0.05)
    weight = torch.randn(512, 1024)
    assert 0.05 < ((x @ rounded(weight).T - x @ weight.T).norm() / (x @ weight.T).norm()).item() < 0.08


def test_constant_and_zero_groups_are_exact():
    weight = torch.cat([torch.zeros(2, GROUP), torch.full((2, GROUP), 0.25)], dim=1)
    assert torch.equal(rounded(weight), weight)


@pytest.mark.parametrize(("out_dim", "in_dim"), [(48, 64), (33, 70), (1, 5)])
@pytest.mark.parametrize("rows", [1, 3, 65])
def test_products_are_those_of_the_rounded_matrix(rows, out_dim, in_dim):
    weight, x = torch.randn(out_dim, in_dim), torch.randn(rows, in_dim)
    padded = torch.nn.functional.pad(weight, (0, -in_dim % GROUP))
    expected = x.bfloat16().float() @ rounded(padded)[:, :in_dim].T
    found = int4_product(x, *pack_int4(weight), out_dim).float()
    # The result is in bfloat16 (2 ** -9 of its size); the terms of a sum that cancels are larger than the sum.
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=2**-8 * in_dim**0.5)


def test_a_row_depends_on_no_other_row():
    weight, bias, x = torch.nn.Parameter(torch.randn(48, 64)), torch.randn(48), torch.randn(7, 3, 64)
    with torch.inference_mode():
        together = low_product(x, weight, bias, "gelu", "int4")
        alone = torch.stack([low_product(row[None], weight, bias, "gelu", "int4")[0] for row in x])
    # The order of a sum may depend on the number of rows, before it is rounded to bfloat16.
    torch.testing.assert_close(together, alone, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize(("out_dim", "in_dim"), [(48, 64), (33, 70)])
def test_many_rows_are_multiplied_with_the_same_rounded_matrix(out_dim, in_dim):
    weight, x = torch.nn.Parameter(torch.randn(out_dim, in_dim)), torch.randn(MANY_ROWS, in_dim)
    padded = torch.nn.functional.pad(weight.detach(), (0, -in_dim % GROUP))
    assert torch.equal(from_four_bits(weight.detach(), pack_int4(weight.detach())[1]), rounded(padded)[:, :in_dim])
    with torch.inference_mode():
        many, few = low_product(x, weight, None, None, "int4"), low_product(x[:5], weight, None, None, "int4")
    torch.testing.assert_close(many[:5], few, rtol=2**-8, atol=2**-8 * in_dim**0.5)
