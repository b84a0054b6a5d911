"""Switch Transformers: losses of the experts in both stacks, and their readers; tests/convert/test_switch.py compares with transformers."""

import copy
import pickle

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from system_batches import batch_of

import zoo
from zoo.assembly.system import with_encoder_losses
from zoo.training.grad_cache import refuse
from zoo.types import SUPERVISED, TARGET_IDS, Batch, HeadOutput

# Specification decoders_more, section 2, from transformers 5.17.
COUNTS = {"switch_base_8": 619_339_008, "switch_base_64": 3_790_748_928, "switch_base_128": 7_415_217_408}
STACKS = ("encoders.text", "head")
QUIET = [f"system.{stack}.router_jitter=0" for stack in STACKS]


@pytest.fixture
def unchecked():
    """Signatures are not checked: while a model is traced, its sizes are tensors, and no ints."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_equal_the_published_models(name):
    assert zoo.summarize(name).parameters == COUNTS[name]


def made(*changes, seed=0):
    torch.manual_seed(seed)
    return zoo.create_system("switch_nano", [*QUIET, *changes])


def set_everywhere(**keywords):
    return [f"system.{stack}.{key}={value}" for stack in STACKS for key, value in keywords.items()]


def cross_entropy(output):
    return F.cross_entropy(output.outputs["logits"], output.outputs["labels"])


def test_the_loss_has_both_losses_of_both_stacks():
    system = made(*set_everywhere(balance_weight=0.3, router_z_weight=0.02)).train()
    output = system(batch_of(system))
    metrics = output.metrics
    names = [prefix + name for prefix in ("", "text_") for name in ("balance_loss", "router_z_loss", "busiest_expert")]
    assert set(names) <= set(metrics)
    further = sum(0.3 * metrics[f"{p}balance_loss"] + 0.02 * metrics[f"{p}router_z_loss"] for p in ("", "text_"))
    torch.testing.assert_close(output.loss, cross_entropy(output) + further)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.any() for name, p in system.named_parameters() if ".router." in name)
    assert all(p.grad is not None for p in system.parameters())


def test_the_weights_are_the_papers_unless_given():
    system = made()
    for part in (system.encoders["text"], system.head):
        assert (part.balance_weight, part.router_z_weight) == (0.01, 0.001)


@torch.no_grad()
def test_evaluation_adds_nothing():
    system = made().eval()
    output = system(batch_of(system))
    torch.testing.assert_close(output.loss, cross_entropy(output))
    assert not [name for name in output.metrics if "expert" in name or "balance" in name]


def longer(batch, columns):
    """Return the batch with more padding on the right of texts and targets."""
    padded = {key: F.pad(batch.targets[key], (0, columns)) for key in (TARGET_IDS, SUPERVISED)}
    inputs, masks = F.pad(batch.inputs["text"], (0, columns)), F.pad(batch.masks["text"], (0, columns))
    return Batch({"text": inputs}, {"text": masks}, padded)


@torch.no_grad()
def test_padding_takes_no_place_of_an_expert_and_counts_in_no_loss():
    system = made(*set_everywhere(expert_capacity=0.8, balance_weight=1.0)).train()
    batch = batch_of(system)
    expected, found = system(batch), system(longer(batch, 5))
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)
    for name in ("balance_loss", "text_balance_loss", "router_z_loss", "text_router_z_loss"):
        torch.testing.assert_close(found.metrics[name], expected.metrics[name], atol=1e-5, rtol=1e-5)
    roomy = made(*set_everywhere(expert_capacity=8.0, balance_weight=1.0)).train()
    roomy.processor.fit(["a"])
    assert abs(float(roomy(batch).loss - expected.loss)) > 1e-4  # the limit drops tokens here, so that places matter


def test_an_empty_batch_leaves_no_losses_of_a_text_that_does_not_exist():
    encoder = made().train().encoders["text"]
    system = made().train()
    found = system.encode_ready("text", torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4, dtype=torch.bool))
    assert found.tokens.shape == (0, 4, 64) and system.encoders["text"].auxiliary_losses() == ({}, {})
    encoder(torch.zeros(1, 4, dtype=torch.int64))
    assert encoder.auxiliary_losses()[0].keys() == {"balance", "router_z"} and encoder.auxiliary_losses() == ({}, {})


def test_another_head_reads_the_losses_of_an_encoder_with_experts_too():
    torch.manual_seed(0)
    system = zoo.create_system("clip_vit_nano", ["encoder@system.encoders.text=switch_encoder_nano", QUIET[0]]).train()
    output = system(batch_of(system))
    with torch.no_grad():
        alone = system.head(system.encode_batch(batch_of(system)), batch_of(system)).loss
    further = 0.01 * output.metrics["text_balance_loss"] + 0.001 * output.metrics["text_router_z_loss"]
    torch.testing.assert_close(output.loss.detach(), alone + further)
    assert float(further) > 0.01
    with pytest.raises(zoo.ConfigError, match="'grad_cache' knows the loss of the head only, but the text encoder adds losses"):
        refuse(system)


def test_a_loss_that_is_none_stays_none():
    encoder = made().train().encoders["text"]
    encoder(torch.zeros(1, 4, dtype=torch.int64))
    assert with_encoder_losses(HeadOutput(None), {"text": encoder}).loss is None


def busiest(balance_weight):
    """Train on random texts, with routers that send nearly everything to one expert, and return the busiest shares, first and last."""
    system = made(*set_everywhere(balance_weight=balance_weight, expert_capacity="null", router_z_weight=0))
    with torch.no_grad():
        for name, weight in system.named_parameters():
            if name.endswith("router.weight"):
                weight.copy_(0.9 * weight[:1].repeat(len(weight), 1))  # one direction for all: the first expert of it wins
                weight[0] /= 0.9
    ids, target = torch.randint(3, 500, (8, 20)), torch.randint(3, 500, (8, 21))
    batch = Batch({"text": ids}, {"text": ids > 0}, {TARGET_IDS: target, SUPERVISED: target > 0})
    optimizer, shares = torch.optim.Adam(system.train().parameters(), lr=3e-3), []
    for _ in range(60):
        output = system(batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        shares.append((float(output.metrics["busiest_expert"]), float(output.metrics["text_busiest_expert"])))
    return shares[0], tuple(sum(values) / 10 for values in zip(*shares[-10:], strict=True))


def test_the_loss_spreads_tokens_over_the_experts_of_both_stacks():
    """Of four experts, the busiest one has a quarter of the tokens at best; shares are means over the last ten steps."""
    (before, balanced), (_, without) = busiest(0.1), busiest(0.0)
    assert min(before) > 0.6 and max(balanced) < 0.29 and min(without) > 0.33, (before, balanced, without)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_it_is_copied_pickled_and_traced(unchecked):
    """A trace keeps the choice of the experts: other texts go to other experts than those that it was made with."""
    encoder = made().eval().encoders["text"]
    ids, mask = torch.randint(0, 500, (2, 9)), torch.arange(9) < torch.tensor([[9], [6]])
    expected = encoder(ids, mask)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(other(ids, mask).tokens, expected.tokens)
    traced = torch.jit.trace(encoder, (torch.full_like(ids, 7), mask), check_trace=False)
    torch.testing.assert_close(traced(ids, mask)[0], expected.tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["head.expert_step=0"], "expert_step: got 0; allowed is a whole number above 0"),
        (["head.depth=1"], "expert_step: 2 gives experts to no layer of depth 1; set expert_step=1"),
        (["encoders.text.depth=1"], "expert_step: 2 gives experts to no layer of depth 1"),
        (["head.bias=true"], "num_experts: experts have no biases; set bias=false"),
        (["encoders.text.gated=true", "head.activation=swiglu"], "activation: gated experts have no 'relu'"),
        (["head.num_experts=0"], "experts_per_token: got 1; allowed is 1 to 0"),
        (["encoders.text.router_jitter=1.5"], "router_jitter: got 1.5"),
        (["encoders.text.expert_dropout=1"], "expert_dropout: got 1"),
    ],
)
def test_wrong_configs_are_refused(changes, message):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.create_system("switch_nano", [f"system.{change}" for change in changes])
