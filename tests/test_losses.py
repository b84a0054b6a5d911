"""The forms of the contrastive losses against the plain ones, which other tests hold against open_clip."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from zoo import losses
from zoo.losses import blocks, info_nce, plain_info_nce, plain_sigmoid_loss, sigmoid_loss, softmax, tiled_info_nce, tiled_sigmoid_loss

FORMS = {"info_nce": (tiled_info_nce, plain_info_nce), "sigmoid": (tiled_sigmoid_loss, plain_sigmoid_loss)}


class LargestTensor(TorchDispatchMode):
    """Dispatch mode that records the largest number of elements of any operation's result."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.elements = max(self.elements, output.numel())
        return output


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "TILE", 16)
    monkeypatch.setattr(blocks, "PLAIN", 0)


@pytest.fixture(params=["kept", "recomputed"])
def form(request, monkeypatch):
    """Parametrise over the two forms of the loss: exponentials kept for backward, or recomputed."""
    monkeypatch.setattr(softmax, "KEPT_BYTES", 2**20 if request.param == "kept" else 0)


def unit_vectors(count, dim=24, dtype=torch.float32):
    return [F.normalize(torch.randn(count, dim, dtype=dtype), dim=-1) for _ in range(2)]


def loss_and_gradients(loss, features, scale, groups=None):
    scalars = (scale,) if loss in (tiled_info_nce, plain_info_nce, info_nce) else (scale, -7.0)
    given = [t.clone().requires_grad_() for t in (*features, *(torch.tensor(value, dtype=features[0].dtype) for value in scalars))]
    found = loss(*given, groups)
    (3 * found).backward()
    return [found.detach(), *(t.grad for t in given)]


def assert_equal(name, features, scale, groups=None, atol=1e-6, rtol=1e-6):
    for found, expected in zip(*(loss_and_gradients(loss, features, scale, groups) for loss in FORMS[name]), strict=True):
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("count", [33, 48, 101])
@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_tiles_change_neither_loss_nor_gradients(name, count, scale, form):
    assert_equal(name, unit_vectors(count), scale, rtol=2e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("num_groups", [1, 5, 60])
def test_tiles_share_targets_within_groups(name, num_groups, form):
    groups = torch.randint(0, num_groups, (101,)) * 7 - 3  # any numbers, not 0 to n
    assert_equal(name, unit_vectors(101), 14.3, groups, rtol=2e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_tiles_are_exact_at_any_temperature(name, scale, form):
    assert_equal(name, unit_vectors(101, dtype=torch.float64), scale, atol=1e-11, rtol=1e-9)


def opposite(first, second):
    """Every pair's cosine is -1: the exponentials of all logits together underflow at high scales."""
    return first[:1].expand_as(first), -first[:1].expand_as(first)


def one_lost_row(first, second):
    """Make a similarity matrix of equal pairs with one row whose cosines are all -1."""
    same = first[:1].repeat(len(first), 1)
    same[3] *= -1
    return same, first[:1].expand_as(first)


def trained(first, second):
    """Each pair alike, other pairs at random."""
    return first, first.clone()


def collapsed(first, second):
    """Make vectors that are all equal."""
    return first[:1].expand_as(first), first[:1].expand_as(first)


@pytest.mark.parametrize("make", [opposite, one_lost_row, trained, collapsed])
@pytest.mark.parametrize("scale", [1.0, 60.0, 80.0, 100.0, 300.0])
def test_info_nce_has_no_bad_cases(make, scale, form):
    """In fp32 against the plain form in fp64; a logit is known to scale * 1e-7, and so are its loss and its softmax."""
    features = [side.contiguous() for side in make(*unit_vectors(101))]
    found = loss_and_gradients(tiled_info_nce, features, scale)
    expected = loss_and_gradients(plain_info_nce, [side.double() for side in features], scale)
    for mine, exact, size in zip(found, expected, (scale, scale, scale, 2.0), strict=True):
        torch.testing.assert_close(mine.double(), exact, atol=2e-6 * size, rtol=1e-6)


def test_vectors_that_are_no_unit_vectors_are_right_too(form):
    features = [10 * side for side in unit_vectors(101, dtype=torch.float64)]
    assert_equal("info_nce", features, 50.0, atol=1e-9, rtol=1e-9)
    assert_equal("info_nce", [side.float() for side in features], 5.0, atol=1e-4, rtol=1e-5)  # logits up to 500


def test_what_is_not_a_number_shows_in_the_loss(form):
    features = unit_vectors(40)
    features[0][7, 2] = torch.nan
    assert tiled_info_nce(*features, torch.tensor(10.0)).isnan() and tiled_sigmoid_loss(*features, *torch.tensor([10.0, -10.0])).isnan()


def test_the_small_loss_of_a_trained_model_keeps_its_digits(monkeypatch):
    features = F.normalize(torch.randn(2000, 64), dim=-1)
    wide = features.double()
    monkeypatch.setattr(blocks, "TILE", 512)
    found = info_nce(features, features, torch.tensor(30.0))
    torch.testing.assert_close(found.double(), F.cross_entropy(30 * wide @ wide.T, torch.arange(2000)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("in_groups", [False, True])
def test_a_loss_far_below_rounding_keeps_its_digits(in_groups, form):
    """Use pairs with cosine 0.8 at scale 60: the softmax of a pair differs from 1 by 1e-10, which fp32 cannot represent."""
    first = F.normalize(torch.randn(101, 64), dim=-1)
    second = F.normalize(first + 0.75 * F.normalize(torch.randn(101, 64), dim=-1), dim=-1)
    groups = torch.arange(101) + 7 if in_groups else None  # each a group of its own
    found = loss_and_gradients(tiled_info_nce, [first, second], 60.0, groups)
    logits = 60 * first.double() @ second.double().T
    powers = logits.exp().fill_diagonal_(0)
    pair = logits.diagonal().exp()
    rows, columns = powers / (powers.sum(1) + pair)[:, None], powers / (powers.sum(0) + pair)
    weights = 3 * (rows + columns - torch.diag(rows.sum(1) + columns.sum(0))) / 202
    loss = ((powers.sum(1) / pair).log1p() + (powers.sum(0) / pair).log1p()).sum() / 202
    expected = [loss, 60 * weights @ second.double(), 60 * weights.T @ first.double(), (weights * logits / 60).sum()]
    assert 0 < loss < 1e-8
    for mine, exact in zip(found, expected, strict=True):
        assert (mine.double() - exact).norm() < 2e-5 * exact.norm()  # logits of 48 are known to 1e-5


@pytest.mark.parametrize("name", FORMS)
def test_gradients_of_tiles_pass_the_numerical_check(name, monkeypatch, form):
    monkeypatch.setattr(blocks, "TILE", 4)
    given = [torch.randn(11, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    scalars = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in ((2.0,) if name == "info_nce" else (2.0, -1.0))]
    assert torch.autograd.gradcheck(lambda *x: FORMS[name][0](*x, torch.arange(11) // 2), (*given, *scalars))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("learnt", range(3))
def test_each_input_may_be_the_only_one_that_learns(name, learnt, form):
    """A locked tower (LiT) costs no product for its gradient."""
    values = [*unit_vectors(40), torch.tensor(5.0), torch.tensor(-3.0)][: 3 if name == "info_nce" else 4]
    gradients = []
    for loss in FORMS[name]:
        given = [value.clone().requires_grad_(i == learnt) for i, value in enumerate(values)]
        loss(*given).backward()
        gradients.append([value.grad for value in given])
    assert all(gradient is None for i, gradient in enumerate(gradients[0]) if i != learnt)
    torch.testing.assert_close(gradients[0][learnt], gradients[1][learnt], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_backward_may_be_asked_twice(name, form):
    features = [side.requires_grad_() for side in unit_vectors(40)]
    loss = FORMS[name][0](*features, torch.tensor(5.0), *([] if name == "info_nce" else [torch.tensor(-3.0)]))
    first, second = (torch.autograd.grad(loss, features, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", FORMS)
def test_a_large_batch_never_holds_its_logits(name, monkeypatch):
    monkeypatch.setattr(softmax, "KEPT_BYTES", 0)
    features = [torch.randn(256, 8) for _ in range(2)]
    with LargestTensor() as seen:
        loss_and_gradients(FORMS[name][0], features, 1.0, torch.arange(256) // 2)
    assert seen.elements == 256 * 8  # features and their gradients: more than the logits of a block, 16 * 16


@pytest.mark.parametrize("largest_plain", [0, 200])
def test_autocast_does_not_reach_into_a_loss(largest_plain, monkeypatch):
    monkeypatch.setattr(blocks, "PLAIN", largest_plain)
    features = unit_vectors(101)
    for loss, scalars in ((info_nce, [14.3]), (sigmoid_loss, [14.3, -5.0])):
        expected = loss(*features, *torch.tensor(scalars))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(*features, *torch.tensor(scalars)), expected)


def test_a_batch_of_one_and_losses_of_any_size_agree(monkeypatch):
    for count in (1, 2, 17):
        features = unit_vectors(count)
        values = []
        for largest_plain in (0, 100):
            monkeypatch.setattr(blocks, "PLAIN", largest_plain)
            values.append([losses.info_nce(*features, torch.tensor(9.0)), losses.sigmoid_loss(*features, *torch.tensor([9.0, -4.0]))])
        torch.testing.assert_close(*values, atol=1e-6, rtol=1e-6)
