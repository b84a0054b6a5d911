"""Two gloo processes give the gradients of one process with the same global batch."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.types import Batch

ITEMS = 12


def gradients(system_name: str, output: str) -> None:
    """Run by each process: its share of the batch through data-parallel training, gradients written by rank 0."""
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    system = zoo.create_model(system_name).train()
    share = slice(rank * ITEMS // world, (rank + 1) * ITEMS // world)
    whole = global_batch()
    batch = whole.map(lambda tensor: tensor[share])
    model = torch.nn.parallel.DistributedDataParallel(system)
    model(batch).loss.backward()
    if rank == 0:
        save_file({name: p.grad for name, p in system.named_parameters()}, output)
    torch.distributed.destroy_process_group()


def global_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(ITEMS, 3, 32, 32, generator=generator)
    token_ids = torch.randint(3, 250, (ITEMS, 9), generator=generator)
    token_ids[:, 6] = 2
    groups = torch.randint(0, 5, (ITEMS,), generator=generator)
    return Batch({"image": pixels, "text": token_ids}, {"text": torch.ones(ITEMS, 9, dtype=torch.bool)}, {"groups": groups})


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["clip_vit_nano", "siglip_vit_nano"])
def test_two_processes_give_the_gradients_of_one(name, tmp_path):
    found = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}.safetensors"
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
        done = subprocess.run([*launch, __file__, name, str(output)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(load_file(output))
    largest = max(tensor.abs().max().item() for tensor in found[0].values())
    for key, one in found[0].items():
        # fp32 sums in another order: 1e-6 of the largest gradient.
        torch.testing.assert_close(found[1][key], one, rtol=1e-5, atol=1e-6 * max(largest, 1.0), msg=lambda text, key=key: f"{key}: {text}")


def test_gather_alone_is_the_identity():
    from zoo.distributed import gather, rank, world_size

    x = torch.randn(3, 2, requires_grad=True)
    assert gather(x) is x and rank() == 0 and world_size() == 1


if __name__ == "__main__":
    gradients(*sys.argv[1:])
