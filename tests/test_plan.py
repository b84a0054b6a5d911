"""``zoo check --world-size N``: the plan of a step equals what two processes, and what a real forward pass, need."""

import json
import os
import sys
import weakref

import pytest
import torch
import torch.distributed as dist
from system_batches import batch_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo
from zoo.assembly.compose import compose
from zoo.commands.cli import main
from zoo.layers.meta import meta_device
from zoo.losses.distributed import local_part
from zoo.registry.construct import construct
from zoo.runs.planning.activations import bytes_of, count_pass
from zoo.runs.planning.plan import plan
from zoo.training.accelerator import make_accelerator
from zoo.training.parallel import ParallelModel
from zoo.training.settings import TrainingSettings
from zoo.training.sharding.blocks import blocks_of, checkpoint_activations

BASE = ["training.batch_size=8"]
FSDP = [*BASE, "training.parallel=fsdp"]
CASES = {
    "ddp": [*BASE, "training.ema_decay=0.9"],
    "fsdp": FSDP,
    "frozen tower, average": [*FSDP, "training.freeze=[encoders.text]", "training.ema_decay=0.9", "training.accumulate=2"],
    "replicated": [*FSDP, "training.sharding.parts={encoders.text: replicated}"],
    "hybrid": [*FSDP, "training.sharding.shard_size=1"],
}

BOUNDS = {"classifier_vit_nano": 1.01, "classifier_vig_nano": 1.01, "clip_vit_nano": 1.3, "llava_nano": 1.3, "whisper_nano": 1.3}
BOUNDS["bert_pretraining_nano"] = 1.5  # its head computes logits at masked positions only, here at all of them


def measured(words, folder):
    """Bytes of this process's state after a step, and those of its collectives in that step."""
    config = compose("train", words)
    settings = construct(TrainingSettings, config["training"], "training")
    system = zoo.create_system("clip_vit_nano")
    accelerator = make_accelerator(settings, folder)
    parallel = ParallelModel(system, settings, accelerator)
    batch, sent = batch_of(system, range(4)), {"all_gather": 0, "reduce_scatter": 0}
    real = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

    def all_gather(output_tensor, *arguments, **keywords):
        sent["all_gather"] += output_tensor.nbytes
        return real[0](output_tensor, *arguments, **keywords)

    def reduce_scatter(output, input, *arguments, **keywords):
        sent["reduce_scatter"] += input.nbytes
        return real[1](output, input, *arguments, **keywords)

    dist.all_gather_into_tensor, dist.reduce_scatter_tensor = all_gather, reduce_scatter
    for _ in range(settings.accumulate):
        accelerator.backward(parallel.wrapped(batch).loss)
        parallel.finish_backward()
    dist.all_gather_into_tensor, dist.reduce_scatter_tensor = real
    parallel.optimizer.step()
    gradients = [local_part(p.grad) for p in system.parameters() if p.grad is not None]
    moments = [local_part(value) for state in parallel.optimizer.state.values() for value in state.values()]
    average = parallel.average
    if average is not None:
        average = average.tensors.values() if parallel.sharded is not None else [*average.module.parameters(), *average.module.buffers()]
    memory = {
        "parameters": bytes_of(local_part(p.detach()) for p in system.parameters()),
        "gradients": bytes_of(gradients),
        "optimizer": bytes_of(moments),
        "average": bytes_of(map(local_part, average or ())),
    }
    return {"memory": memory, "communication": sent}


def run_cases(output):
    torch.set_num_threads(1)
    found = {name: measured(words, os.path.dirname(output)) for name, words in CASES.items()}
    if os.environ["RANK"] == "0":
        with open(output, "w") as file:
            json.dump(found, file)
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def two_processes(once, launcher):
    def run_all(folder):
        run = launcher.start([__file__, str(folder / "found.json")], folder / "log", 2)
        assert run.wait() == 0, (folder / "log").read_text()[-3000:]

    return json.loads((once("plan", run_all) / "found.json").read_text())


@pytest.mark.heavy
@pytest.mark.parametrize("case", CASES)
def test_the_plan_of_two_processes_is_what_two_processes_need(case, two_processes):
    """Exactly: weights, gradients, optimizer and average; gathered and scattered bytes of sharded weights."""
    planned, found = plan(compose("train", CASES[case]), 2), two_processes[case]
    assert {name: planned.memory[name] for name in found["memory"]} == found["memory"]
    assert {name: planned.communication.get(name, 0) for name in found["communication"]} == found["communication"]


class Live(TorchDispatchMode):
    """Mode that knows the memory that is alive of all that operations made in it."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, torch.Tensor) and (storage := each.untyped_storage()).data_ptr() not in before:
                self.made.append(weakref.ref(storage))
        return found

    def total(self):
        alive = {storage.data_ptr(): storage.nbytes() for made in self.made if (storage := made()) is not None}
        return sum(alive.values())


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("name", BOUNDS)
def test_activations_are_those_of_a_real_forward_pass(name, checkpointing, tell):
    """The plan is never below what is alive after the forward pass.

    Above it may be, because a plan has no values: texts keep their padding, and every position is masked or has a label. With
    checkpointing it adds the largest block, which runs again in the backward pass.
    """
    if (name, checkpointing) == ("classifier_vig_nano", "full"):
        pytest.skip("it has BatchNorm, with which training refuses checkpointing")
    system = zoo.create_system(name).train()
    batch = batch_of(system)
    chosen = list(blocks_of(system)) if checkpointing == "full" else []
    checkpoint_activations(system, checkpointing)
    with Live() as live:
        loss = system(batch).loss
    kept = live.total()
    with meta_device():
        planned_system = zoo.create_system(name).train()
    meta = batch.to("meta")
    held = [tensor for table in (meta.inputs, meta.masks, meta.targets) for tensor in table.values()]
    found = count_pass(
        planned_system, lambda: planned_system(meta).loss, blocks=blocks_of(planned_system), checkpointed=[], held=held, precision="fp32"
    )
    again = count_pass(
        planned_system,
        lambda: planned_system(meta).loss,
        blocks=blocks_of(planned_system),
        checkpointed=chosen,
        held=held,
        precision="fp32",
    )
    tell(f"activations of {name}, checkpointing {checkpointing}: planned {again.activation_bytes:,}, measured {kept:,} bytes")
    assert loss.requires_grad and found.flops == again.flops > 0
    kept -= loss.nbytes  # which the graph does not keep
    if chosen:
        assert kept <= again.activation_bytes < found.activation_bytes
    else:
        assert kept <= again.activation_bytes <= BOUNDS[name] * kept


def test_bf16_halves_most_activations_and_no_flops():
    words = ["training.batch_size=512", "training.parallel=fsdp"]  # small batches would show the bf16 copies of the weights most
    plain, low = (plan(compose("train", [*words, f"training.precision={precision}"]), 8) for precision in ("fp32", "bf16"))
    assert 0.5 < low.memory["activations"] / plain.memory["activations"] < 0.9 and low.flops == plain.flops


def test_sixty_four_processes_hold_a_64th_and_compute_together_what_one_computes():
    words = ["training.batch_size=128", "training.parallel=fsdp"]
    one, many = plan(compose("train", words), 1), plan(compose("train", words), 64)
    assert (one.parallel, many.parallel, one.items, many.items) == ("none", "fsdp", 128, 2)
    assert many.memory["parameters"] < 1.5 * one.memory["parameters"] / 64 and one.communication == {}
    assert many.tokens == one.tokens and 0.9 * one.flops < many.flops <= one.flops  # one compares each item with 128
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("words", "world_size", "message"),
    [
        (BASE, 3, "training.batch_size: 8 is not divisible by the 3 processes"),
        (BASE, 0, "world_size: 0; allowed is 1 or more"),
        ([*FSDP, "training.sharding.shard_size=3"], 8, "training.sharding.shard_size: 3 does not divide the 8 processes"),
    ],
)
def test_settings_that_do_not_fit_the_processes_are_refused(words, world_size, message):
    with pytest.raises(zoo.ConfigError, match=message):
        plan(compose("train", words), world_size)


def test_the_command_prints_the_plan(capsys):
    assert main(["check", *FSDP, "--world-size", "4"]) == 0
    text = capsys.readouterr().out
    assert "Each of 4 processes, parallel=fsdp" in text and "communication per step, all_gather" in text and "memory, optimizer" in text
    assert main(["check", *FSDP, "--world-size", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["plan"]
    assert found["world_size"] == 4 and found["total_bytes"] == sum(found["memory"].values())


if __name__ == "__main__":
    run_cases(*sys.argv[1:])
