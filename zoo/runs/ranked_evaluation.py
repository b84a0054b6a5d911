"""Evaluation by all processes of a run: they divide the items, or the first one evaluates while the others wait."""

import logging
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from zoo.errors import ZooError
from zoo.evaluation.measures.shares import divided
from zoo.losses.distributed import PATIENCE, rank, share_object, world_size
from zoo.registry import name_of
from zoo.types import Evaluation

log = logging.getLogger("zoo")


def join_ranks(device: str | None) -> str | None:
    """Join the process group that ``torchrun`` announces, if there is one; returns the device of this process.

    Only results are exchanged, on the CPU, so that the group needs no accelerator.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or device not in (None, "auto", accelerator.type):
        return device
    torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    return f"{accelerator.type}:{torch.accelerator.current_device_index()}"


def evaluate_on_ranks(
    evaluation: Evaluation, model: Any, source: Any, split: str, *, advance: Callable[[int], object] = lambda items: None
) -> tuple[Any, dict[str, float]]:
    """Evaluate a model on a split; every process of the group must call this.

    Returns:
        The result, None on other ranks than the first if that one evaluates alone; and the metrics, on every rank those of the first.

    Raises:
        ZooError: as the evaluation, on every rank.
    """
    if world_size() == 1:
        result = evaluation(model, source, split, advance=advance)
        return result, dict(result.metrics)
    if evaluation.shares_items:
        with divided():
            result = evaluation(model, source, split, advance=advance)
        return result, share_object(dict(result.metrics))
    return _evaluate_on_first(evaluation, model, source, split, advance)


def _evaluate_on_first(
    evaluation: Evaluation, model: Any, source: Any, split: str, advance: Callable[[int], object]
) -> tuple[Any, dict[str, float]]:
    result, outcome = None, None
    if rank() == 0:
        log.warning(
            "evaluation: %s does not divide its items among processes (shares_items is False), so that the first of %d evaluates alone",
            *(name_of("evaluation", type(evaluation)), world_size()),
        )
        try:
            result = evaluation(model, source, split, advance=advance)
            outcome = dict(result.metrics)
        except ZooError as error:
            outcome = error
    outcome = share_object(outcome)
    if isinstance(outcome, ZooError):
        raise outcome
    assert outcome is not None
    return result, outcome
