"""The tiled form of the contrastive loss, for large batches, against the plain one."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from zoo import losses
from zoo.losses import info_nce


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's result had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.elements = max(self.elements, output.numel())
        return output


def loss_and_gradients(features, scale, groups):
    given = [t.clone().requires_grad_() for t in (*features, torch.tensor(scale, dtype=features[0].dtype))]
    loss = info_nce(*given, groups)
    (3 * loss).backward()
    return [loss.detach(), *(t.grad for t in given)]


@pytest.fixture
def both(monkeypatch):
    """Loss and gradients by tiles of 16 rows, and by the plain form."""

    def run(count, scale, groups=None, dtype=torch.float32):
        features = [F.normalize(torch.randn(count, 24, dtype=dtype), dim=-1) for _ in range(2)]
        monkeypatch.setattr(losses, "TILE", 16)
        tiled = loss_and_gradients(features, scale, groups)
        monkeypatch.setattr(losses, "TILE", count)
        return tiled, loss_and_gradients(features, scale, groups)

    return run


@pytest.mark.parametrize("count", [33, 48, 101])
@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_tiles_change_neither_loss_nor_gradients(both, count, scale):
    for found, expected in zip(*both(count, scale), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("num_groups", [1, 5, 60])
def test_tiles_share_targets_within_groups(both, num_groups):
    groups = torch.randint(0, num_groups, (101,)) * 7 - 3  # any numbers, not 0 to n
    for found, expected in zip(*both(101, 14.3, groups), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_tiles_are_exact_at_any_temperature(both, scale):
    for found, expected in zip(*both(101, scale, dtype=torch.float64), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-9)


def test_the_small_loss_of_a_trained_model_keeps_its_digits(monkeypatch):
    features = F.normalize(torch.randn(2000, 64), dim=-1)
    wide = features.double()
    monkeypatch.setattr(losses, "TILE", 512)
    found = info_nce(features, features, torch.tensor(30.0))
    torch.testing.assert_close(found.double(), F.cross_entropy(30 * wide @ wide.T, torch.arange(2000)), atol=1e-6, rtol=0)


def test_gradients_of_tiles_pass_the_numerical_check(monkeypatch):
    monkeypatch.setattr(losses, "TILE", 4)
    given = [torch.randn(11, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: info_nce(*x, torch.arange(11) // 2), (*given, scale))


def test_a_large_batch_never_holds_its_logits(monkeypatch):
    monkeypatch.setattr(losses, "TILE", 16)
    features = [torch.randn(256, 8) for _ in range(2)]
    with LargestTensor() as seen:
        loss_and_gradients(features, 1.0, torch.arange(256) // 2)
    assert seen.elements == 2 * 16 * 256  # logits of one tile, and the spare


def test_tiles_are_in_full_precision_under_autocast(monkeypatch):
    features = [F.normalize(torch.randn(101, 24), dim=-1) for _ in range(2)]
    monkeypatch.setattr(losses, "TILE", 16)
    expected = loss_and_gradients(features, 14.3, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_and_gradients(features, 14.3, None)
    assert all(torch.equal(mine, plain) for mine, plain in zip(found, expected, strict=True))
