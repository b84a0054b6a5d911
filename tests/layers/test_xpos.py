"""xPos against the spec sheet's goldens (computed with torchscale's formula), and against its own definition."""

import math

import numpy as np
import pytest
import torch

from zoo.errors import ConfigError
from zoo.layers.xpos import XPos

QUERIES = [  # head width 8, four positions, all ones; the first four channels of each row
    [1.0049056, 1.0049056, 1.0030016, 1.0030016],
    [-0.3019064, 1.3851583, 0.8965132, 1.0964794],
    [-1.3254442, 0.4931506, 0.7813973, 1.1787360],
    [-1.1283482, -0.8467980, 0.6588283, 1.2489836],
]
KEYS = [[0.9951184, 0.9951184, 0.9970074, 0.9970074], [-0.3004326, 1.3783965, 0.8938304, 1.0931982]]


def turned(xpos, positions, q, k):
    """One head of queries and one of keys [length, head_dim] at these positions."""
    queries, keys = xpos.turn(positions)(torch.stack([q, k], dim=1), 1)
    return queries[:, 0], keys[:, 0]


def test_zetas_are_the_sheets():
    zetas = XPos(head_dim=64, context_length=2048).zetas()
    torch.testing.assert_close(zetas[:4], torch.tensor([0.2857143, 0.3080357, 0.3303572, 0.3526786]), atol=1e-6, rtol=0)
    assert math.isclose(zetas[-1], 0.9776787, abs_tol=1e-6)


def test_queries_and_keys_are_the_sheets():
    q, k = turned(XPos(head_dim=8, context_length=4), torch.arange(4), torch.ones(4, 8), torch.ones(4, 8))
    torch.testing.assert_close(q[:, :4], torch.tensor(QUERIES), atol=1e-6, rtol=0)
    torch.testing.assert_close(k[:2, :4], torch.tensor(KEYS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("centre", [0, 3, 9])
def test_what_positions_are_counted_from_cancels_out(centre):
    q, k = torch.randn(10, 12), torch.randn(10, 12)
    found = [turned(XPos(head_dim=12, context_length=10, scale=4, centre=c), torch.arange(10), q, k) for c in (5, centre)]
    expected, scores = (queries @ keys.T for queries, keys in found)
    torch.testing.assert_close(scores, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_scores_are_those_of_the_definition():
    """In float64 with numpy: complex pairs, turned by the distance and faded by zeta to its power."""
    q, k = torch.randn(7, 10), torch.randn(7, 10)
    queries, keys = turned(XPos(head_dim=10, context_length=7, scale=3), torch.arange(7), q, k)
    pairs = np.arange(0, 10, 2)
    zeta, angle = (pairs + 4.0) / 14.0, 10_000.0 ** (-pairs / 10)
    a, b = (x.double().numpy()[:, 0::2] + 1j * x.double().numpy()[:, 1::2] for x in (q, k))
    distance = (np.arange(7)[:, None] - np.arange(7))[..., None]  # [queries, keys, 1]
    expected = (a[:, None] * b[None].conj() * np.exp(1j * distance * angle) * zeta ** (distance / 3)).real.sum(-1)
    np.testing.assert_allclose((queries @ keys.T).numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_the_range_that_is_allowed_is_held_at_its_ends():
    """131,072 tokens with the paper's scale, and 128 scales of context: neighbours at both ends score alike."""
    for context, scale in ((131_072, 1024), (2048, 16)):
        xpos, q, k = XPos(head_dim=16, context_length=context, scale=scale), torch.randn(1, 16), torch.randn(1, 16)
        ends = [torch.tensor([p]) for p in (1, context // 2, context - 1)]
        scores = [(turned(xpos, p, q, k)[0] * turned(xpos, p - 1, q, k)[1]).sum() for p in ends]
        for score in scores:  # float32 holds angles of 131,072 radians to 0.004
            torch.testing.assert_close(score, scores[1], atol=2e-2 if context > 2048 else 2e-4, rtol=0)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"head_dim": 7, "context_length": 8}, "head_dim: 7 is odd"),
        ({"head_dim": 8, "context_length": 2048, "scale": 15}, "xpos_scale: 15 with context_length 2048 .* allowed is 16 or more"),
        ({"head_dim": 8, "context_length": 2, "scale": 0}, "allowed is 1 or more"),
    ],
)
def test_mistakes_are_told(keywords, message):
    with pytest.raises(ConfigError, match=message):
        XPos(**keywords)
