"""Plan of a training run on many processes: memory of each, and work and communication of a step, before any machine is paid for.

One process takes the place of the first of ``world_size``, in a process group whose collectives do nothing (``torch.testing``'s "fake"
backend). The system has shapes but no weights. Its weights are divided by the code that divides them in training.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from zoo.assembly.system import System
from zoo.errors import ConfigError
from zoo.heads.clip import CLIPHead
from zoo.losses.softmax import KEPT_BYTES
from zoo.registry.construct import construct
from zoo.runs.check import meta_step
from zoo.runs.planning.activations import bytes_of, count_pass
from zoo.training.settings import TrainingSettings
from zoo.training.sharding.blocks import blocks_of
from zoo.training.sharding.settings import Sharding, is_sharded

WIDTHS = {"fp32": 4, "bf16": 2}  # bytes
STEP_BYTES = 4  # AdamW counts its steps in one number per tensor


@dataclass(frozen=True)
class Plan:
    """Costs of one training step. Bytes are those of the first process, which has the most.

    Attributes:
        parallel: "none", "ddp" or "fsdp".
        items: items of one batch of one process.
        tokens: tokens of a step, all processes together, by modality; of a language model's input as "text".
        memory: bytes by kind: "parameters", "buffers", "gradients", "optimizer", "average" (``ema_decay``), "inputs", "activations",
            and "communication" (gathered weights of ``fsdp``, reduction buffers of ``ddp``).
        flops: of a step, all processes together, forward and backward (2 per multiply-add).
        communication: bytes of the tensors that a process exchanges in a step: outputs of "all_gather", inputs of "reduce_scatter" and
            tensors of "all_reduce", all of weights and gradients; and "contrastive_loss", vectors of all items and their gradients.
    """

    world_size: int
    parallel: str
    items: int
    tokens: dict[str, int]
    memory: dict[str, int]
    flops: int
    communication: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """Upper bound of the memory of a process, without temporary tensors and the allocator's fragments."""
        return sum(self.memory.values())


def plan(config: Mapping[str, Any], world_size: int) -> Plan:
    """Plan the training of a composed config on ``world_size`` processes.

    Raises:
        ConfigError: parts that do not fit, or settings that do not fit the number of processes.
    """
    settings = construct(TrainingSettings, config["training"], "training")
    if world_size < 1:
        raise ConfigError(f"world_size: {world_size}; allowed is 1 or more")
    if settings.batch_size % world_size:
        raise ConfigError(f"training.batch_size: {settings.batch_size} is not divisible by the {world_size} processes; give a multiple")
    if config.get("objective") or settings.accumulation == "grad_cache" and settings.accumulate > 1:
        raise ConfigError("world_size: the plan counts the head's own loss and independent batches; take objective and grad_cache away")
    return _plan(config, settings, world_size)


def _plan(config: Mapping[str, Any], settings: TrainingSettings, world_size: int) -> Plan:
    items = settings.batch_size // world_size
    step = meta_step(config, replace(settings, batch_size=items), items)
    system, batch = step.system, step.batch
    sharded = is_sharded(settings, world_size)
    blocks = {"": system, **blocks_of(system)}
    every = {"none": 0, "full": 1}.get(str(settings.checkpoint_activations), settings.checkpoint_activations)
    checkpointed = list(blocks)[1 :: int(every)] if every else []
    inputs = [tensor for table in (batch.inputs, batch.masks, batch.targets) for tensor in table.values()]
    passed = count_pass(system, step.loss, blocks=blocks, checkpointed=checkpointed, held=inputs, precision=settings.precision)
    tokens = {name: world_size * settings.accumulate * count for name, count in step.tokens().items()}
    system.zero_grad(set_to_none=True)
    compared = _contrastive(system, items, settings.batch_size) if world_size > 1 else _Costs({"activations": 0}, {})
    memory = {"inputs": bytes_of(inputs), "activations": passed.activation_bytes + compared.memory["activations"]}
    if sharded:
        with _fake_group(world_size):
            costs = _sharded(system, settings, passed.ran & passed.gives_gradient)
    else:
        costs = _whole(system, settings, world_size)
    communication = costs.communication | {name: count * settings.accumulate for name, count in compared.communication.items()}
    order = ("parameters", "buffers", "gradients", "optimizer", "average", "inputs", "activations", "communication")
    memory |= costs.memory
    return Plan(
        world_size,
        "fsdp" if sharded else "ddp" if world_size > 1 else "none",
        items,
        tokens,
        {name: memory[name] for name in order},
        world_size * settings.accumulate * passed.flops,
        {name: count for name, count in communication.items() if count},
    )


@dataclass(frozen=True)
class _Costs:
    memory: dict[str, int]
    communication: dict[str, int]


def state_bytes(model: nn.Module, *, averaged: bool, whole_average: bool) -> dict[str, int]:
    """Return the bytes of one process's weights, gradients and optimizer state.

    Args:
        averaged: the run keeps a moving average.
        whole_average: the average is a copy of the model, and not of the trained weights alone.
    """
    from zoo.losses.distributed import local_part

    local = [local_part(p.detach()) for p in model.parameters()]
    trained = [local_part(p.detach()) for p in model.parameters() if p.requires_grad]
    gradients, buffers = bytes_of(trained), bytes_of(model.buffers())
    average = (bytes_of(local) + buffers if whole_average else gradients) if averaged else 0
    return {
        "parameters": bytes_of(local),
        "buffers": buffers,
        "gradients": gradients,
        "optimizer": 2 * gradients + STEP_BYTES * len(trained),
        "average": average,
    }


def _contrastive(system: System, items: int, batch_size: int) -> _Costs:
    """Return what a loss that compares the items of all processes adds: their vectors, and exponentials of the logits."""
    head = system.head
    if not isinstance(head, CLIPHead):
        return _Costs({"activations": 0}, {})
    vectors = batch_size * (head.embed_dim or 0) * torch.float32.itemsize
    return _Costs(
        {"activations": vectors + min(KEPT_BYTES, items * batch_size * torch.float32.itemsize)}, {"contrastive_loss": 2 * vectors}
    )


def _whole(system: nn.Module, settings: TrainingSettings, world_size: int) -> _Costs:
    """Return the costs of a system that every process holds whole; ``ddp`` sums copies of the gradients once per step."""
    memory = state_bytes(system, averaged=settings.ema_decay is not None, whole_average=True)
    reduced = memory["gradients"] if world_size > 1 else 0
    return _Costs({**memory, "communication": reduced}, {"all_reduce": reduced})


def _sharded(system: nn.Module, settings: TrainingSettings, in_backward: set[str]) -> _Costs:
    """Divide a system and return its costs: each unit is gathered for the forward and again for the backward pass, the root once."""
    from zoo.losses.distributed import local_part
    from zoo.training.sharding.sharded import Sharded

    sharding = Sharding(**settings.sharding)
    names = {id(module): name for name, module in system.named_modules()}
    sharded = Sharded(system, settings, torch.device("cpu"))
    size = sharding.shard_size or dist.get_world_size()
    gathered, scattered, held = 0, 0, []
    local_gradients = 0
    for module, own in _units(system):
        name = names.get(id(module), "")
        padded = [local_part(p.detach())[:1].numel() * -(-p.shape[0] // size) * size for p in own]
        weight = WIDTHS[sharding.param_dtype]
        unit = sum(padded) * weight
        times = 1 + any(name == block or name.startswith(f"{block}.") for block in in_backward if block)  # adapters: inside a block
        gathered += unit * times
        held.append((name, unit))
        trained = sum(count for count, p in zip(padded, own, strict=True) if p.requires_grad)
        scattered += trained * WIDTHS[sharding.reduce_dtype]
        local_gradients += trained // size * WIDTHS[sharding.reduce_dtype]
    if size == 1:  # torch gathers and scatters nothing in groups of one process
        gathered, scattered = 0, 0
    memory = state_bytes(system, averaged=settings.ema_decay is not None, whole_average=False)
    replicated = bytes_of(p for p in sharded.replicated if p.requires_grad)
    copies = dist.get_world_size() // size
    communication = {
        "all_gather": gathered * settings.accumulate,
        "reduce_scatter": scattered * settings.accumulate,
        "all_reduce": (replicated + (local_gradients if copies > 1 else 0)) * settings.accumulate,
    }
    # The root stays gathered, beside the unit that runs and the next one, which is gathered ahead.
    root = sum(unit for name, unit in held if name == "")
    largest = sorted((unit for name, unit in held if name != ""), reverse=True)[:2]
    return _Costs({**memory, "communication": root + sum(largest)}, communication)


def _units(system: nn.Module) -> Iterator[tuple[nn.Module, list[Any]]]:
    """Yield the units of a divided system with the weights of each."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    taken: set[int] = set()
    units = [module for module in system.modules() if isinstance(module, FSDPModule)]
    for module in reversed(units):  # the innermost first
        own = [p for p in module.parameters() if isinstance(p, DTensor) and id(p) not in taken]  # type: ignore[attr-defined]
        taken.update(map(id, own))
        yield module, own  # type: ignore[misc]


@contextmanager
def _fake_group(world_size: int) -> Iterator[None]:
    """Context in which this process is the first of ``world_size``, the others of which do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend

    assert not dist.is_initialized(), "a plan is made before a process group is joined"
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
