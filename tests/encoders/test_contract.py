"""Every small encoder keeps every rule of ``zoo.testing.check_encoder``."""

import pytest
import torch

import zoo
from zoo.testing import check_encoder


@pytest.mark.parametrize("name", zoo.list_models("*nano*", kind="encoder"))
def test_each_encoder_keeps_the_contract(name):
    check_encoder(zoo.create_model(name))


@pytest.mark.parametrize("pool", ["mean", "mean_norm", "attention", "cls_tanh", "none"])
def test_each_pool_keeps_the_contract(pool):
    check_encoder(zoo.create_model("vit_nano", pool=pool, depth=1))


def test_output_is_a_pytree_that_export_takes_apart():
    model, pixels = zoo.create_model("vit_nano"), torch.rand(2, 3, 32, 32)
    found = torch.export.export(model, (pixels,)).module()(pixels)
    assert type(found) is zoo.Encoded and found.mask.dtype == torch.bool
    torch.testing.assert_close(found.tokens, model(pixels).tokens)
    doubled = torch.utils._pytree.tree_map(lambda tensor: tensor * 2, zoo.HeadOutput(torch.ones(()), {"a": torch.ones(())}))
    assert float(doubled.loss) == float(doubled.metrics["a"]) == 2
