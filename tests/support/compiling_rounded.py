"""Train one step with ``training.compile`` and ``training.quantise`` together, and compare it with the step that is not compiled.

In a process of its own, because torch.compile cannot read the type checks of the tests. Prints the names of the precisions.
"""

import copy

import torch
from torch._dynamo.utils import counters

import zoo
from zoo.layers.low_precision.modes import simulate_precision
from zoo.training.sharding import blocks

INPUTS = {"vit_nano": torch.rand(3, 3, 32, 32), "llama_nano": torch.arange(80).view(2, 40)}


def step(model, x):
    """Return the outputs and the gradients by name."""
    found = model(x)
    out = found.tokens if hasattr(found, "tokens") else model.logits(found)
    out.sin().sum().backward()
    return out.detach(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


if __name__ == "__main__":
    torch.set_num_threads(1)
    blocks.COMPILER = "eager"  # traces only; a real compiler takes minutes
    for precision, name in (("int8", "vit_nano"), ("int4", "llama_nano")):
        torch.manual_seed(0)
        model = zoo.create_model(name, depth=1).train()
        plain = step(copy.deepcopy(model), INPUTS[name])[0]
        whole = simulate_precision(copy.deepcopy(model), precision)
        compiled = simulate_precision(model, precision)
        blocks.compile_blocks(compiled)
        expected, found = step(whole, INPUTS[name]), step(compiled, INPUTS[name])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert (plain - found[0]).abs().max() > 1e-4, f"{precision} does not round in compiled blocks"
        assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"], dict(counters)
        counters.clear()
        print(precision)
