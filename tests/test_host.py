"""Copies on the CPU of masks and indices that are on another device."""

import torch
from emulated_cuda import emulated_cuda

from zoo.types import Batch, all_real, follow, on_host, send, update

MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_values_of_a_moved_batch_are_read_without_waiting():
    with emulated_cuda() as device:
        batch = Batch({"image": torch.zeros(2, 4)}, {"text": MASK}).to("cuda")
        mask = follow(lambda mask: mask[:, ::2], batch.masks["text"])
        assert on_host(mask).equal(MASK[:, ::2]) and on_host(all_real((2, 3), mask.device)).all() and device.waits == []
        assert mask.cpu().equal(MASK[:, ::2]) and len(device.waits) == 1


def test_unknown_values_are_read_once():
    with emulated_cuda() as device:
        mask = torch.ones(2, 3, dtype=torch.bool, device="cuda")
        assert on_host(mask).all() and on_host(mask).all() and len(device.waits) == 1


def test_a_change_in_place_is_noticed_on_either_side():
    with emulated_cuda():
        mask, copy = send(MASK, "cuda"), MASK.clone()
        mask[0, 2] = True
        assert on_host(mask)[0, 2]
        mask = send(copy, "cuda")
        copy[1, 2] = True
        assert not on_host(mask)[1, 2]


def test_an_update_keeps_the_values_known():
    with emulated_cuda() as device:
        steps = send(torch.tensor(3), "cuda")
        update(steps, lambda steps: steps + 1)
        assert int(on_host(steps)) == 4 and device.waits == [] and int(steps) == 4


def test_on_the_cpu_nothing_is_copied():
    assert send(MASK, "cpu") is MASK and on_host(MASK) is MASK
