"""Compile encoders and a system whole, without type checks, which torch.compile cannot read: ``python compiling.py NAME ...``."""

import sys

import torch
from torch.utils import _pytree as pytree

import zoo
from zoo.assembly.token_counts import nominal_input
from zoo.types import Batch, Encoded, HeadOutput


def example(encoder, batch=2):
    """Random inputs of the nominal size; texts end in padding."""
    x, _ = nominal_input(encoder.modality, encoder)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, *x.shape[1:])
    made = torch.rand(shape, generator=generator) if x.is_floating_point() else torch.randint(3, 30, shape, generator=generator)
    if encoder.modality != "text":
        return (made,)
    return made, torch.arange(shape[1]) < torch.tensor([shape[1]] + [shape[1] - 3] * (batch - 1))[:, None]


def equal(ours, theirs):
    """Raise unless all tensors are equal within 1e-5 of the largest value."""
    for a, b in zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True):
        if b is None:
            assert a is None
            continue
        largest = float(b.detach().abs().max()) if b.is_floating_point() else 0.0
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, largest), rtol=1e-5)


def compiled(model, *inputs):
    """Return the output of the whole model as one graph."""
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend="eager")(*inputs)


def labelled():
    """Return a classifier and a batch for it."""
    labels = {"labels": torch.tensor([1, 2, 0])}
    return zoo.create_system("classifier_vit_nano"), Batch({"image": torch.rand(3, 3, 32, 32)}, targets=labels, ids=["a", "b", "c"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        encoder = zoo.create_model(name)
        found = compiled(encoder, *example(encoder))
        assert isinstance(found, Encoded), name
        equal(found, encoder(*example(encoder)))
        print(name)
    system, batch = labelled()
    found = compiled(system, batch)
    assert isinstance(found, HeadOutput)
    equal(found, system(batch))
