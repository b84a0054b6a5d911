"""Two gloo processes give the losses and gradients of one process with the same global batch.

One launch goes through all cases, because starting processes takes longer than the work.
"""

import sys
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

import zoo
from zoo.losses import blocks, directed_info_nce, info_nce, local_info_nce, local_sigmoid_loss, sigmoid_loss
from zoo.losses.distributed import gather, gather_uneven, rank, world_size
from zoo.training.grad_cache import forward_backward_together
from zoo.types import Batch

ITEMS, NUM_BATCHES = 12, 2
STEPS, GATHERS, POSITIVES = ("plain", "cached"), ("local", "global"), ("pairs", "groups")
SYSTEM_CASES = list(product(("clip_vit_nano", "siglip_vit_nano"), STEPS, GATHERS, POSITIVES))
LOSS_CASES = list(product(("info_nce", "sigmoid"), GATHERS, POSITIVES, ("random", "opposite")))
COUNT, SCALE = 60, 100.0
ROWS = {"uneven": (5, 2), "one without": (4, 0), "all without": (0, 0)}  # rows of each of two processes
DIRECTED_CASES = list(product(("directed",), ROWS, POSITIVES))


def share(tensor: torch.Tensor) -> torch.Tensor:
    """This process's rows."""
    return tensor.chunk(world_size())[rank()]


def system_gradients(name: str, step: str, gathers: str, positives: str) -> dict[str, torch.Tensor]:
    """Gradients of this process's share of the batch through data-parallel training."""
    torch.manual_seed(0)
    system = zoo.create_model(name, head={"gather": gathers, "positives": positives}).train()
    batch = global_batch().map(share)
    if step == "plain":
        model = torch.nn.parallel.DistributedDataParallel(system)
        loss = model(batch).loss
        loss.backward()
    else:
        parts = [batch.map(lambda tensor, i=i: tensor.chunk(NUM_BATCHES)[i]) for i in range(NUM_BATCHES)]
        loss = forward_backward_together(system, parts, Accelerator(cpu=True)).loss
    return {"loss": loss.detach(), **{key: p.grad for key, p in system.named_parameters()}}


def loss_gradients(name: str, gathers: str, positives: str, kind: str) -> dict[str, torch.Tensor]:
    """Gradients of features and scalars, by blocks; those of scalars averaged over processes, as data-parallel training does."""
    generator = torch.Generator().manual_seed(2)
    first, second = (F.normalize(torch.randn(COUNT, 16, generator=generator), dim=-1) for _ in range(2))
    if kind == "opposite":  # all cosines below -0.8: exponentials underflow, and sums are made again about their maxima
        first = first[:1].repeat(COUNT, 1)
        second = F.normalize(0.5 * second - first, dim=-1)
    groups = torch.randint(0, 20, (COUNT,), generator=generator) if positives == "groups" else None
    mine = [share(side).clone().requires_grad_() for side in (first, second)]
    scalars = [torch.tensor(value, requires_grad=True) for value in ((SCALE,) if name == "info_nce" else (SCALE, -10.0))]
    groups = None if groups is None else share(groups)
    if gathers == "local":
        loss = {"info_nce": local_info_nce, "sigmoid": local_sigmoid_loss}[name](*mine, *scalars, groups)
    else:
        everything = (*(gather(side) for side in mine), *scalars, None if groups is None else gather(groups))
        loss = {"info_nce": info_nce, "sigmoid": sigmoid_loss}[name](*everything)
    loss.backward()
    found = {f"scalar{i}": gather(scalar.grad[None]).mean() for i, scalar in enumerate(scalars)}
    return {"loss": loss.detach(), **{f"side{i}": gather(side.grad) / world_size() for i, side in enumerate(mine)}, **found}


def directed_gradients(name: str, kind: str, positives: str) -> dict[str, torch.Tensor]:
    """As ``loss_gradients``, with two scales, of processes that hold different numbers of rows."""
    generator, total = torch.Generator().manual_seed(3), sum(ROWS[kind])
    sides = [F.normalize(torch.randn(total, 16, generator=generator), dim=-1) for _ in range(2)]
    groups = torch.randint(0, 3, (total,), generator=generator) if positives == "groups" else None
    start = 0 if rank() == 0 else ROWS[kind][0]
    own = slice(start, total if world_size() == 1 else start + ROWS[kind][rank()])
    mine = [side[own].clone().requires_grad_() for side in sides]
    scalars = [torch.tensor(value, requires_grad=True) for value in (5.0, 9.0)]
    loss = directed_info_nce(*mine, *scalars, None if groups is None else groups[own])
    loss.backward()
    found = {f"scalar{i}": gather(scalar.grad[None]).mean() for i, scalar in enumerate(scalars)}
    return {"loss": loss.detach(), **{f"side{i}": gather_uneven(side.grad)[0] / world_size() for i, side in enumerate(mine)}, **found}


def run_cases(output: str) -> None:
    """Run all cases in one process of several; rank 0 writes the results."""
    torch.distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    found = {case: system_gradients(*case) for case in SYSTEM_CASES}
    found |= {case: directed_gradients(*case) for case in DIRECTED_CASES}
    blocks.TILE, blocks.PLAIN = 16, 0
    found |= {case: loss_gradients(*case) for case in LOSS_CASES}
    if rank() == 0:
        save_file({f"{'/'.join(case)}/{key}": tensor.contiguous() for case, own in found.items() for key, tensor in own.items()}, output)
    torch.distributed.destroy_process_group()


def global_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(ITEMS, 3, 32, 32, generator=generator)
    token_ids = torch.randint(3, 250, (ITEMS, 9), generator=generator)
    token_ids[:, 6] = 2
    groups = torch.randint(0, 5, (ITEMS,), generator=generator)
    return Batch({"image": pixels, "text": token_ids}, {"text": torch.ones(ITEMS, 9, dtype=torch.bool)}, {"groups": groups})


@pytest.fixture(scope="session")
def found(once, launcher):
    """Results of one and of two processes, by case."""

    def run_all(folder):
        runs = [launcher.start([__file__, str(folder / f"{n}.safetensors")], folder / f"{n}.log", n, torchrun=True) for n in (1, 2)]
        for number, run in enumerate(runs, 1):
            assert run.wait() == 0, (folder / f"{number}.log").read_text()[-2000:]

    folder = once("gradients", run_all)
    results = [load_file(folder / f"{processes}.safetensors") for processes in (1, 2)]
    return [lambda case, own=own: of_case(own, "/".join(case) + "/") for own in results]


def of_case(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys() and found
    largest = max(tensor.abs().max().item() for tensor in expected.values() if tensor.numel())
    for key, one in expected.items():
        limit = tolerance * max(largest, 1.0)
        torch.testing.assert_close(found[key], one, rtol=1e-5, atol=limit, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.heavy
@pytest.mark.parametrize("case", SYSTEM_CASES, ids="-".join)
def test_two_processes_give_the_gradients_of_one(case, found):
    """Compare with one process that computes the loss of the whole batch. fp32 sums differ in order: 1e-6 of the largest gradient."""
    name, _, _, positives = case
    assert_close(found[1](case), found[0]((name, "plain", "global", positives)), 1e-6)
    assert_close(found[0](case), found[0]((name, "plain", "global", positives)), 1e-6)


@pytest.mark.heavy
@pytest.mark.parametrize("case", LOSS_CASES, ids="-".join)
def test_two_processes_give_the_loss_of_one(case, found):
    """At a temperature of 1/100, so that a logit is known to 1e-5."""
    name, _, positives, kind = case
    assert_close(found[1](case), found[0]((name, "global", positives, kind)), 1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("case", DIRECTED_CASES, ids="-".join)
def test_processes_may_hold_different_numbers_of_rows(case, found):
    assert_close(found[1](case), found[0](case), 1e-6)


def test_gather_alone_is_the_identity():
    x = torch.randn(3, 2, requires_grad=True)
    assert gather(x) is x and rank() == 0 and world_size() == 1


if __name__ == "__main__":
    run_cases(*sys.argv[1:])
