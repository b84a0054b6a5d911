"""Published Vision GNN weights against our ``vig``: the naive form of scripts/benchmarks/naive_vig.py, and values from the published code.

Everything in float64: one tie among neighbours moves float32 outputs by whole units.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.errors import WeightsError
from zoo.interop import vig
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly

spec = importlib.util.spec_from_file_location("naive_vig", Path(__file__).parents[2] / "scripts" / "benchmarks" / "naive_vig.py")
naive_vig = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive_vig)

PRIME = 2**31 - 1
# Computed with the published code, only its imports patched, on weights and input made by ``fill`` below, in eval mode.
GOLDEN = {  # first five logits, best class, neighbours of node 0 in block 0, then of node 100
    "vig_tiny": (
        [8.046780494300332, -7.7891576654205155, -8.1699203626553, -2.8274661110152044, 2.4509474399201054],
        665,
        [0, 1, 5, 70, 56, 182, 9, 146, 14],
        [100, 146, 44, 103, 116, 176, 57, 19, 89],
    ),
    "pvig_tiny": (
        [-20.32750609754252, -9.460718163208696, -0.3593673172911598, -6.77774226624349, -19.4384532074197],
        71,
        [0, 3, 10, 1, 5, 17, 11, 115, 19],
        [20, 6, 94, 16, 10, 96, 75, 12, 7],
    ),
}
SMALL = {  # naive arguments, ours: odd widths, two stages, other sizes than 224
    "isotropic": (
        {"dims": (40,), "depths": (5,), "k": (5, 9), "reductions": (1,), "relative": False, "stem_steps": 3, "image_size": 72},
        {"dims": [40], "depths": [5], "num_neighbors": [5, 9], "patch_size": 8, "image_size": 72},
    ),
    "pyramid": (
        {"dims": (12, 20, 36), "depths": (2, 1, 2), "k": (4, 4), "reductions": (4, 2, 1), "stem_steps": 2, "image_size": 96},
        {
            "dims": [12, 20, 36],
            "depths": [2, 1, 2],
            "num_neighbors": [4, 4],
            "reductions": [4, 2, 1],
            "relative": True,
            "patch_size": 4,
            "image_size": 96,
        },
    ),
}


@functools.cache
def powers(count):
    """48271 to the power of 1, 2, ..., modulo a prime, by doubling."""
    found = np.array([48271], dtype=np.uint64)
    while len(found) < count:
        found = np.concatenate([found, found * found[-1] % PRIME])
    return found[:count]


def uniform(shape, seed):
    """Return reproducible numbers in [-1, 1]: the n-th is 2 (48271^(n+1) seed mod p) / p - 1."""
    numbers = powers(int(np.prod(shape))) * np.uint64(seed) % PRIME
    return torch.from_numpy(2.0 * numbers.astype(np.float64) / PRIME - 1).view(shape)


def fill(model):
    """Fill in the weights that the golden values were computed with; BatchNorm's counters and fixed tables stay unchanged."""
    tensors = {k: v for k, v in model.state_dict().items() if not k.endswith(("num_batches_tracked", "relative_pos"))}
    for t, (name, tensor) in enumerate(tensors.items()):
        u = uniform(tuple(tensor.shape), t + 1)
        if name.endswith("running_var"):
            value = 1 + 0.1 * u
        elif name.endswith("running_mean"):
            value = 0.05 * u
        elif name == "pos_embed" or name.endswith("bias"):
            value = 0.1 * u
        else:
            value = u * (3 / (tensor[0].numel())) ** 0.5 if tensor.ndim > 1 else 1 + 0.1 * u
        tensor.copy_(value)
    return model


def small(kind, scramble):
    """A naive model with random weights and statistics, and our encoder with the same, in float64."""
    theirs, ours = SMALL[kind]
    reference = scramble(naive_vig.NaiveViG(**theirs, num_classes=7), std=0.05).double()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    model = build_part("encoder", {"name": "vig", **ours}, "encoder").double().eval()
    load_strictly(model, vig.to_zoo(reference.state_dict(), drop=vig.CLASSIFIER), origin="vig")
    return reference.eval(), model


@torch.no_grad()
def features(reference, pixels):
    x = reference.stem(pixels)
    position = reference.pos_embed
    if x.shape[2:] != position.shape[2:]:  # the published code has one size only; this is how timm resizes
        position = torch.nn.functional.interpolate(position.float(), size=x.shape[2:], mode="bicubic", antialias=True).double()
    return reference.backbone(x + position).flatten(2).transpose(1, 2)


def marked(capability):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.card(f"classifier_{name}", capability)) for name in GOLDEN]
    )


@pytest.mark.heavy
@marked("goes back")
def test_published_weights_of_full_size_come_back_bit_for_bit(name, same_state, card_figure):
    published = naive_vig.published(name).state_dict()
    system = zoo.create_model(f"classifier_{name}")
    load_strictly(system.encoders.image, vig.to_zoo(published, drop=vig.CLASSIFIER), origin="published")
    load_strictly(system.head, vig.classifier_to_zoo(published), origin="published")
    same_state(vig.from_zoo(system.encoders.image.state_dict()) | vig.classifier_from_zoo(system.head.state_dict()), published)
    card_figure("bit-equal")


@pytest.mark.heavy
@marked("equals its reference")
@torch.no_grad()
def test_outputs_equal_those_of_the_published_code(name, card_figure):
    logits, best, first, hundredth = GOLDEN[name]
    published = fill(naive_vig.published(name).double().eval()).state_dict()
    system = zoo.create_model(f"classifier_{name}", dtype=torch.float64)
    load_strictly(system.encoders.image, vig.to_zoo(published, drop=vig.CLASSIFIER), origin="published")
    load_strictly(system.head, vig.classifier_to_zoo(published), origin="published")
    pixels = uniform((1, 3, 224, 224), 12345)
    found = system.logits(pixels)[0]
    difference = (found[:5] - torch.tensor(logits, dtype=torch.float64)).abs().max().item()
    card_figure(f"logits of the published code in float64 within {difference:.0e}")
    assert difference < 1e-9
    assert found.argmax() == best
    neighbours = system.encoders.image.graphs(pixels, [0])[0].neighbours[0]
    assert neighbours[0].tolist() == first and neighbours[100].tolist() == hundredth


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("shape", [None, (64, 128), (128, 96)])
def test_tokens_equal_the_naive_form_at_any_size(kind, shape, scramble):
    reference, model = small(kind, scramble)
    pixels = torch.randn(2, 3, *(shape or (model.image_size, model.image_size)), dtype=torch.float64)
    with torch.no_grad():
        found = model(pixels)
    expected = features(reference, pixels)
    assert (found.tokens - expected).abs().max() < 1e-9
    assert (found.pooled - expected.mean(1)).abs().max() < 1e-9


@pytest.mark.parametrize("kind", SMALL)
def test_a_training_step_equals_the_naive_form(kind, scramble):
    reference, model = small(kind, scramble)
    pixels = torch.randn(3, 3, model.image_size, model.image_size, dtype=torch.float64)
    reference.train().backbone(reference.stem(pixels) + reference.pos_embed).square().mean().backward()
    model.train()(pixels).tokens.square().mean().backward()
    expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    found = vig.from_zoo({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found.keys() == expected.keys()
    worst = max((found[name] - expected[name]).abs().max().item() for name in expected)
    assert worst < 1e-9
    statistics = {k: v for k, v in vig.from_zoo(model.state_dict()).items() if "running" in k}
    assert max((v - reference.state_dict()[k]).abs().max().item() for k, v in statistics.items()) < 1e-9


@pytest.mark.parametrize("kind", SMALL)
def test_published_names_come_back_bit_for_bit(kind, scramble, same_state):
    reference, model = small(kind, scramble)
    state = reference.state_dict()
    found = vig.from_zoo(model.state_dict()) | vig.classifier_from_zoo(vig.classifier_to_zoo(state))
    same_state(found, state)


def test_a_classifier_is_reported_unless_the_caller_drops_it(scramble):
    reference, _ = small("isotropic", scramble)
    with pytest.raises(WeightsError, match="9 unknown .prediction"):
        vig.to_zoo(reference.state_dict())


def test_keys_of_others_are_not_recognised(scramble):
    reference, model = small("pyramid", scramble)
    assert vig.recognises(reference.state_dict()) and not vig.recognises(model.state_dict())
