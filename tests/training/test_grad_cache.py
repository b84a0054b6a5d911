"""Steps whose loss is over several batches together, compared with the same items in one batch and one graph."""

import pytest
import torch
from accelerate import Accelerator

import zoo
from zoo.assembly.compose import compose
from zoo.runs.train import train
from zoo.training.grad_cache import forward_backward_together
from zoo.training.log import read_lines
from zoo.training.settings import TrainingSettings
from zoo.types import Batch

NUM_BATCHES, SIZE = 3, 4
NANO = {"encoders": {"image": {"drop_path": 0.5}}}  # draws from the random state


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def batches() -> list[Batch]:
    found = []
    for _ in range(NUM_BATCHES):
        ids = torch.randint(3, 250, (SIZE, 9))
        ids[:, 6] = 2
        masks, groups = {"text": torch.ones(SIZE, 9, dtype=torch.bool)}, torch.randint(0, 5, (SIZE,))
        found.append(Batch({"image": torch.rand(SIZE, 3, 32, 32), "text": ids}, masks, {"groups": groups}))
    return found


def gradients(system):
    found = {name: None if p.grad is None else p.grad.clone() for name, p in system.named_parameters()}
    system.zero_grad()
    return found


def one_graph(system, parts) -> torch.Tensor:
    """The same loss with all towers' graphs in memory, encoded in the same order."""
    encoded = [{name: system.head.features(system.encode_batch(part, [name]))[name] for name in system.encoders} for part in parts]
    features = {name: torch.cat([features[name] for features in encoded]) for name in system.encoders}
    loss = system.head.loss_of(features, {"groups": torch.cat([part.targets["groups"] for part in parts])}).loss
    loss.backward()
    return loss.detach()


def assert_same_gradients(found, expected, relative=2e-6):
    """Compare relative to the parameter's largest gradient, or to a tenth of the largest of all if that is larger."""
    assert {name for name, g in found.items() if g is not None} == {name for name, g in expected.items() if g is not None}
    largest = max(g.abs().max().item() for g in expected.values() if g is not None)
    for name, one in expected.items():
        if one is not None:
            size = max(one.abs().max().item(), 1e-1 * largest)
            assert (found[name] - one).abs().max().item() <= relative * size, name


@pytest.mark.parametrize("positives", ["pairs", "groups"])
@pytest.mark.parametrize("name", ["clip_vit_nano", "siglip_vit_nano"])
def test_batches_together_give_the_gradients_of_one_batch(name, positives, accelerator):
    system, parts = zoo.create_model(name, head={"positives": positives}).train(), batches()
    whole = Batch(*({key: torch.cat([getattr(p, table)[key] for p in parts]) for key in getattr(parts[0], table)} for table in FIELDS))
    expected_loss = system(whole).loss
    expected_loss.backward()
    expected = gradients(system)
    found_loss = forward_backward_together(system, parts, accelerator).loss
    torch.testing.assert_close(found_loss, expected_loss, atol=1e-6, rtol=1e-6)
    assert_same_gradients(gradients(system), expected)


FIELDS = ("inputs", "masks", "targets")


def test_random_draws_are_repeated_and_the_state_goes_on_once(accelerator):
    system, parts = zoo.create_model("clip_vit_nano", **NANO).train(), batches()
    torch.manual_seed(3)
    one_graph(system, parts)
    expected, state = gradients(system), torch.get_rng_state()
    torch.manual_seed(3)
    forward_backward_together(system, parts, accelerator)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_gradients(gradients(system), expected)


def test_batch_norm_moves_once(accelerator):
    states = []
    for step in (one_graph, lambda system, parts: forward_backward_together(system, parts, accelerator)):
        torch.manual_seed(0)
        system = zoo.create_model("clip_vig_nano").train()
        step(system, batches())
        states.append(dict(system.named_buffers()))
    assert any("running_mean" in name for name in states[0])
    for name, expected in states[0].items():
        torch.testing.assert_close(states[1][name], expected, msg=name)


@pytest.mark.parametrize(
    ("frozen", "calls"), [([], {"image": 6, "text": 6}), (["image"], {"image": 3, "text": 6}), (["image", "text"], {"image": 3, "text": 3})]
)
def test_a_frozen_tower_is_encoded_once(frozen, calls, accelerator):
    system, parts = zoo.create_model("clip_vit_nano").train(), batches()
    for name in frozen:
        system.encoders[name].requires_grad_(False)
    one_graph(system, parts)
    expected, counted = gradients(system), dict.fromkeys(calls, 0)
    for name, encoder in system.encoders.items():
        encoder.register_forward_hook(lambda *_, name=name: counted.update({name: counted[name] + 1}))
    forward_backward_together(system, parts, accelerator)
    assert counted == calls
    assert_same_gradients(gradients(system), expected)


def test_a_locked_tower_without_projection_gets_no_gradient(accelerator):
    head = {"projections": {"image": "none", "text": "linear"}, "embed_dim": zoo.create_model("vit_nano").dim}
    system, parts = zoo.create_model("clip_vit_nano", head=head).train(), batches()
    system.encoders["image"].requires_grad_(False)
    one_graph(system, parts)
    expected = gradients(system)
    forward_backward_together(system, parts, accelerator)
    assert_same_gradients(gradients(system), expected)


SMALL = "training.max_steps=4 training.batch_size=8 training.warmup_steps=0 training.evaluate_every=0 training.log_every=1".split()
CACHED = ["training.accumulate=3", "training.accumulation=grad_cache"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_trains_and_its_loss_sees_all_negatives(precision, tmp_path):
    train(compose("train", [*SMALL, *CACHED, f"training.precision={precision}", f"run_dir={tmp_path / 'run'}"]))
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert len(losses) == 4 and 2.5 < losses[0] < 6  # above log(8): 24 items in all


def test_a_head_without_features_is_refused_before_training(tmp_path):
    words = ["system=classifier_vit_nano", *CACHED, f"run_dir={tmp_path / 'run'}"]
    for act in (zoo.check, train):
        with pytest.raises(zoo.ConfigError, match="training.accumulation: 'grad_cache' needs a head .* Classifier is not"):
            act(compose("train", words))


def test_check_accepts_gradient_caching():
    assert zoo.check(compose("train", CACHED)).trainable > 0


def test_an_unknown_accumulation_is_refused():
    with pytest.raises(zoo.ConfigError, match="accumulation: there is no 'grad_cach'; did you mean 'grad_cache'"):
        TrainingSettings(max_steps=1, batch_size=2, learning_rate=1.0, accumulation="grad_cach")
