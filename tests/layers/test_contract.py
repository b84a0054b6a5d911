"""Every connector keeps every rule of ``zoo.testing.check_connector``."""

import pytest
import torch

from zoo.layers.connector import build_connector
from zoo.testing import ContractError, check_connector

GRIDS = {"pixel_shuffle": 16, "patch_merger": 16}  # connectors that take a grid of tokens, and how many
OPTIONS = {"resampler": {"num_latents": 4}, "kosmos2": {"num_latents": 4}, "attention_pool": {"num_queries": 4}}
NAMES = ("linear", "mlp", "pixel_shuffle", "patch_merger", "resampler", "kosmos2", "attention_pool", "downsampler")


def connector(name):
    return build_connector({"kind": name, **OPTIONS.get(name, {})}, in_dim=64, out_dim=48, num_tokens=GRIDS.get(name))


@pytest.mark.parametrize("name", NAMES)
def test_each_connector_keeps_the_contract(name):
    check_connector(connector(name), in_dim=64, out_dim=48, varied=name not in GRIDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: setattr(made, "num_tokens", lambda n: n + 1), r"num_tokens\(n\) is the number of tokens of forward, but it is \[17,"),
        (
            lambda made: setattr(made, "forward", lambda tokens, mask: tokens),
            "forward returns tokens and their mask, but it returns a Tensor",
        ),
        (lambda made: setattr(made, "forward", lambda tokens, mask: (tokens, mask)), r"out_dim is 48, but tokens are \[3, 16, 64\]"),
        (lambda made: setattr(made, "forward", wrong_mask(made)), r"mask has one bool per token, but mask is bool \[3, 15\]"),
        (lambda made: setattr(made, "forward", leaky(made)), "padding changes nothing, not even NaN there"),
    ],
)
def test_each_mistake_of_a_connector_is_named(change, message):
    made = connector("linear")
    change(made)
    with pytest.raises(ContractError, match=message):
        check_connector(made, in_dim=64, out_dim=48)


def wrong_mask(made):
    forward = made.forward
    return lambda tokens, mask: (forward(tokens, mask)[0], mask[:, 1:])


def leaky(made):
    forward = made.forward
    return lambda tokens, mask: (forward(tokens, mask)[0] + torch.zeros(48) * tokens.sum(), mask)
