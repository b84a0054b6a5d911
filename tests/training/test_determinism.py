"""Equal bits of equal steps with any number of threads, for every nano system."""

import pytest
import torch
from nano_batches import random_batch

import zoo
from zoo.commands.cli import main
from zoo.training.determinism import deterministic_algorithms
from zoo.training.fingerprint import hash_gradients
from zoo.types import head_of

ITEMS = 32  # enough for torch to share a sum among threads


@pytest.mark.parametrize("name", zoo.list_models("*nano*", kind="system"))
def test_steps_with_several_threads_give_equal_bits(name):
    system = zoo.create_system(name).train()
    assert head_of(system) is not None
    batch = random_batch(system, ITEMS)
    for threads in (2, 4):  # one thread has a single order of sums
        torch.set_num_threads(threads)
        hashes = set()
        with deterministic_algorithms(None):
            for _ in range(2):
                torch.manual_seed(1)
                system.zero_grad()
                system(batch).loss.backward()
                hashes.add(hash_gradients(system))
        assert len(hashes) == 1


@pytest.mark.parametrize(("system", "threads"), [("clip_vit_nano", 1), ("clip_vit_nano", 4), ("classifier_vig_nano", 4)])
def test_two_whole_runs_with_the_same_threads_give_equal_bits(system, threads, tmp_path):
    words = f"train system={system} data=digits training.max_steps=2 training.batch_size=128 training.warmup_steps=1 training.log_every=1"
    words += f" training.evaluate_every=0 training.threads={threads}"
    for name in "ab":
        assert main([*words.split(), f"run_dir={tmp_path / name}"]) == 0
    for file in ("last/model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_settings_of_torch_are_restored_after_a_run():
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
