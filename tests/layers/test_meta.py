"""What is found of models without weights."""

import pytest
import torch

import zoo
from zoo.assembly.token_counts import nominal_input
from zoo.layers.meta import ShortRecurrences, unused_parameters
from zoo.registry import rows

ENCODERS = [name for name in rows("encoder") if "nano" in name]


@pytest.mark.parametrize("name", [*ENCODERS, "timm/test_vit", "timm/test_efficientnet"])
def test_unused_parameters_are_those_that_a_backward_pass_leaves_without_gradient(name):
    """Of the tokens alone, on which the layers of the pooled vector have no influence."""
    model = zoo.create_model(name, device="meta")
    model.requires_grad_(True)  # constructors freeze what they found unused
    with ShortRecurrences():
        tokens = model(*nominal_input(model.modality, model, 2)).tokens
        found = unused_parameters(model, tokens)
        tokens.sum().backward()
    assert found == tuple(name for name, parameter in model.named_parameters() if parameter.grad is None)
    assert len(found) < len(list(model.parameters()))


def test_frozen_parameters_are_not_among_the_unused_ones():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    assert unused_parameters(model, model[0](torch.ones(1, 2))) == ("1.weight", "1.bias")
    model[1].bias.requires_grad_(False)
    assert unused_parameters(model, model[0](torch.ones(1, 2))) == ("1.weight",)
    assert unused_parameters(model, torch.ones(1)) == ("0.weight", "0.bias", "1.weight")
