"""Mixture of experts: losses by hand, the dense layer as a special case, limits on tokens, and gradients of the router."""

import pytest
import torch

import zoo
from zoo.assembly.summary import summarize
from zoo.language.causal_lm import CausalLM
from zoo.layers.experts import Experts, SparseSettings, balance_loss, expert_shares, router_z_loss
from zoo.layers.mlp import MLP, SwiGLU

SMALL = {"vocab_size": 60, "context_length": 32, "dim": 16, "depth": 2, "num_heads": 2, "hidden_dim": 24, "num_experts": 4}


def make(**words):
    torch.manual_seed(0)
    experts = Experts(**{"dim": 8, "hidden_dim": 12, "num_experts": 4, "experts_per_token": 2, "activation": "swiglu", **words})
    experts.initialise(0.5, 0.5)
    return experts


@pytest.mark.parametrize(("name", "expected"), [("mixtral_8x7b", 46_702_792_704), ("mixtral_8x22b", 140_630_071_296)])
def test_parameter_counts_are_those_of_the_reference(name, expected):
    assert summarize(name).parameters == expected


def test_the_balance_loss_is_the_sum_of_share_times_probability():
    """Shares [.5, .25, .25, 0] and mean probabilities [.4, .3, .2, .1] give 1.3 (specification ``decoders_more``)."""
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).repeat(4, 1)
    chosen = torch.tensor([[0], [0], [1], [2]])
    assert expert_shares(probabilities, chosen).tolist() == [0.5, 0.25, 0.25, 0.0]
    assert balance_loss(probabilities, chosen).item() == pytest.approx(1.3)
    even = balance_loss(torch.full((4, 4), 0.25), torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]]))
    assert even.item() == pytest.approx(2)  # two experts per token


def test_the_z_loss_is_the_mean_square_of_the_log_partition():
    assert router_z_loss(torch.tensor([[1.0, 0.0], [2.0, 2.0]])).item() == pytest.approx(4.488849, abs=1e-6)


@pytest.mark.parametrize(("activation", "dense"), [("swiglu", SwiGLU), ("relu", MLP), ("gelu", MLP)])
@torch.no_grad()
def test_one_expert_is_the_dense_layer(activation, dense):
    experts, x = make(num_experts=1, experts_per_token=1, activation=activation), torch.randn(3, 5, 8)
    dense = dense(dim=8, hidden_dim=12, bias=False, activation=activation)
    dense.fc1.weight.copy_(experts.fc1[0])
    dense.fc2.weight.copy_(experts.fc2[0])
    torch.testing.assert_close(experts(x), dense(x), atol=1e-6, rtol=0)


def test_the_expert_of_switch_is_weighted_by_its_probability_which_trains_the_router():
    experts, x = make(experts_per_token=1, renormalise=False), torch.randn(6, 8)
    probabilities = experts.router(x).softmax(-1)
    best, chosen = probabilities.max(-1)
    for token, expert in enumerate(chosen.tolist()):
        gate, value = (x[token] @ experts.fc1[expert].T).chunk(2)
        expected = best[token] * ((torch.nn.functional.silu(gate) * value) @ experts.fc2[expert].T)
        torch.testing.assert_close(experts(x)[token], expected, atol=1e-6, rtol=0)
    experts(x).sum().backward()
    assert experts.router.weight.grad.abs().max() > 1e-4
    plain = make(experts_per_token=1, renormalise=False, activation="relu")
    best, chosen = plain.router(x).softmax(-1).max(-1)
    for token, expert in enumerate(chosen.tolist()):
        expected = best[token] * (x[token] @ plain.fc1[expert].T).relu() @ plain.fc2[expert].T
        torch.testing.assert_close(plain(x)[token], expected, atol=1e-6, rtol=0)
    scaled = make(experts_per_token=1)
    scaled(x).sum().backward()
    assert scaled.router.weight.grad.abs().max() < 1e-6  # why Mixtral's scaling is wrong for one expert


@torch.no_grad()
def test_an_indifferent_router_gives_the_mean_of_its_choices():
    experts, x = make(), torch.randn(5, 8)
    experts.router.weight.zero_()
    _, chosen = experts.router(x).softmax(-1).topk(2)
    alone = []
    for expert in range(4):
        gate, value = (x @ experts.fc1[expert].T).chunk(2, -1)
        alone.append((torch.nn.functional.silu(gate) * value) @ experts.fc2[expert].T)
    expected = torch.stack(alone, 1).gather(1, chosen[..., None].expand(-1, -1, 8)).mean(1)
    torch.testing.assert_close(experts(x), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_full_expert_skips_later_tokens_in_training_only():
    experts, x = make(experts_per_token=1, num_experts=2, capacity=0.5).train(), torch.randn(8, 8)
    experts.router.weight[0], experts.router.weight[1] = 1.0, -1.0  # expert 0 for positive sums
    x = x.abs()
    out = experts(x)
    assert (out.abs().sum(-1) > 0).tolist() == [True, True] + [False] * 6  # ceil(8 / 2 * 0.5) tokens
    real = torch.tensor([False] * 3 + [True] * 5)
    assert (experts(x, real).abs().sum(-1) > 0).tolist() == [False] * 3 + [True] * 2 + [False] * 3  # padding takes no place
    assert (experts.eval()(x).abs().sum(-1) > 0).all()


def by_hand(experts, x, real, room):
    """Return the outputs token by token: first choices take the places before second ones, padding takes none."""
    best, chosen = experts.router(x).softmax(-1).topk(experts.experts_per_token, dim=-1)
    best = best / best.sum(-1, keepdim=True) if experts.renormalise else best
    taken, rows = [0] * experts.num_experts, [torch.zeros_like(x[0]) for _ in x]
    for place in range(experts.experts_per_token):
        for token in real.nonzero()[:, 0].tolist():
            expert = int(chosen[token, place])
            if taken[expert] < room:
                taken[expert] += 1
                hidden = (x[token] @ experts.fc1[expert].T).relu()
                rows[token] = rows[token] + best[token, place] * (hidden @ experts.fc2[expert].T)
    return torch.stack(rows), sum(taken)


@pytest.mark.parametrize(("per_token", "capacity", "room"), [(1, 1.0, 4), (1, 0.3, 1), (2, 0.5, 4), (2, 8.0, 52), (3, 0.7, 7)])
def test_limited_experts_equal_the_rows_by_hand_with_their_gradients(per_token, capacity, room):
    """13 of 16 tokens are real and choose among 4 experts, so that an even share is 13 * per_token / 4, and the room is rounded up."""
    experts = make(experts_per_token=per_token, capacity=capacity, activation="relu", renormalise=per_token > 1).train()
    x, real = torch.randn(16, 8, requires_grad=True), torch.arange(16) % 5 != 2
    wanted, taken = by_hand(experts, x, real, room)
    assert taken == 13 * per_token if room == 52 else taken < 13 * per_token  # all have room, or some tokens are dropped
    inputs = [x, experts.router.weight, experts.fc1, experts.fc2]
    expected = torch.autograd.grad(wanted.square().sum(), inputs)
    found = experts(x.view(2, 8, 8), real.view(2, 8)).flatten(0, 1)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    for mine, other in zip(torch.autograd.grad(found.square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_a_limit_without_real_tokens_still_reaches_every_parameter():
    experts = make(experts_per_token=1, capacity=1.25, activation="relu", renormalise=False).train()
    out = experts(torch.randn(2, 3, 8), torch.zeros(2, 3, dtype=torch.bool))
    out.sum().backward()
    assert not out.any() and all(p.grad is not None and not p.grad.any() for p in experts.parameters())


@torch.no_grad()
def test_jitter_disturbs_the_router_alone_and_in_training_only():
    words, x = {"experts_per_token": 1, "renormalise": False, "activation": "relu"}, torch.randn(50, 8)
    experts = make(**words, jitter=0.1).train()
    logits = experts.router(x)
    experts(x)
    off, largest = (experts.routing.logits - logits).abs(), x.abs() @ experts.router.weight.abs().T
    assert 0.02 * largest.mean() < off.mean() and (off <= 0.1 * largest + 1e-6).all()
    alone = make(**words, num_experts=1, jitter=0.1).train()  # its probability is 1 whatever the noise
    torch.testing.assert_close(alone(x), make(**words, num_experts=1)(x), atol=1e-6, rtol=0)
    assert torch.equal(experts.eval()(x), make(**words)(x))


@pytest.mark.parametrize("capacity", [None, 1.0])
@torch.no_grad()
def test_dropout_is_on_the_hidden_layer_of_experts_in_training_only(capacity):
    """With the identity as both matrices, the output is the input without dropped channels, and larger by 1 / (1 - rate)."""
    words = {"num_experts": 1, "experts_per_token": 1, "activation": "relu", "hidden_dim": 8, "capacity": capacity}
    experts, x = make(**words, dropout=0.4).train(), torch.rand(400, 8) + 1
    experts.fc1[0], experts.fc2[0] = torch.eye(8), torch.eye(8)
    found = experts(x)
    kept = found != 0
    torch.testing.assert_close(found[kept], x[kept] / 0.6)
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.05)  # 3200 draws: a deviation of 0.009
    torch.testing.assert_close(experts.eval()(x), x)


def test_every_second_layer_is_sparse():
    found = {step: [layer for layer in range(6) if SparseSettings(4, step).is_sparse(layer)] for step in (1, 2, 3)}
    assert found == {1: [0, 1, 2, 3, 4, 5], 2: [1, 3, 5], 3: [1, 4]}
    assert SparseSettings.of(None, depth=2) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dropout": 1.0}, "expert_dropout: got 1.0; allowed is 0 to below 1"),
        ({"jitter": -0.1}, "router_jitter: got -0.1; allowed is 0 to below 1"),
        ({"capacity": 0.0}, "expert_capacity: got 0.0"),
        ({"activation": "mish"}, "experts have no 'mish'"),
    ],
)
def test_rates_out_of_range_are_refused(words, message):
    with pytest.raises(zoo.ConfigError, match=message):
        make(**words)


def test_the_router_learns_through_weights_and_probabilities():
    experts, x = make().train(), torch.randn(6, 8)
    experts(x).square().sum().backward()
    through_weights = experts.router.weight.grad.clone()
    experts.router.weight.grad = None
    experts(x)
    balance_loss(experts.routing.probabilities, experts.routing.chosen).backward()
    assert through_weights.any() and experts.router.weight.grad.any()
    assert experts.fc1.grad is not None and experts.fc2.grad is not None


def test_losses_count_real_tokens_and_are_forgotten_when_read():
    torch.manual_seed(0)
    model = CausalLM(**SMALL, balance_weight=1.0, router_z_weight=0.5).train()
    ids, mask = torch.randint(0, 60, (2, 9)), torch.arange(9) < torch.tensor([[9], [4]])
    model(ids, mask)
    losses, metrics = model.auxiliary_losses()
    assert losses.keys() == {"balance", "router_z"} and model.auxiliary_losses() == ({}, {})
    torch.testing.assert_close(losses["router_z"], 0.5 * metrics["router_z_loss"])
    model(ids[:, 4:].flip(0), mask.new_tensor([[False] * 5, [True] * 5]))
    only = model.auxiliary_losses()[1]
    model(ids[:1, 4:])
    for name, value in model.auxiliary_losses()[1].items():
        torch.testing.assert_close(value, only[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("model", ["mixtral_nano", "rwkv7_nano"])
def test_training_in_mixed_precision_stays_near_full_precision(model):
    """Gradients exist, and the logits differ by what bfloat16 rounds away."""
    language, ids = zoo.create_model(model).train(), torch.randint(0, 500, (2, 12))
    full = language.logits(language(ids)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = language.logits(language(ids))
    half.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in language.parameters())
    torch.testing.assert_close(half.detach().float(), full, atol=0.02 * float(full.abs().max()), rtol=0)  # 8 bits of mantissa, two layers


def test_evaluation_keeps_no_losses():
    model = CausalLM(**SMALL, balance_weight=1.0).eval()
    model(torch.randint(0, 60, (2, 9)))
    assert model.auxiliary_losses() == ({}, {})


def test_balancing_spreads_tokens_over_the_experts():
    """A router that sends everything to one expert learns to use all of them."""
    model = CausalLM(**SMALL, balance_weight=1.0, experts_per_token=1)
    with torch.no_grad():
        for block in model.blocks:
            block.norm2.weight.fill_(1.0)
            block.mlp.router.weight[1:] = block.mlp.router.weight[:1] * 0.9
    ids, optimizer, busiest = torch.randint(0, 60, (8, 16)), torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model.logits(model(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten())
        further, metrics = model.auxiliary_losses()
        busiest.append(float(metrics["busiest_expert"]))
        optimizer.zero_grad()
        (loss + further["balance"]).backward()
        optimizer.step()
    assert busiest[0] > 0.5 and busiest[-1] < 0.35, busiest[::10]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experts_per_token": 5}, "experts_per_token: got 5; allowed is 1 to 4"),
        ({"activation": "mish"}, "experts have no 'mish'"),
        ({"expert_capacity": 0.0}, "expert_capacity: got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, words):
    with pytest.raises(zoo.ConfigError, match=words):
        CausalLM(**{**SMALL, **change})
