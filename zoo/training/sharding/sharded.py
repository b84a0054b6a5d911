"""A model whose weights are divided over the processes, and its weights in one piece for evaluation and saving.

References: torch ``fully_shard`` (FSDP2); torchtitan ``parallelize``: activation checkpointing, then compilation, then sharding from the
blocks to the root.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from zoo.errors import ConfigError, name_choices
from zoo.losses.distributed import average_gradients, full_tensor, local_part
from zoo.training.optim import trained_names
from zoo.training.settings import TrainingSettings
from zoo.training.sharding.blocks import blocks_of, prepare_blocks
from zoo.training.sharding.settings import DTYPES, Sharding
from zoo.types import Part


class Sharded:
    """A model whose blocks are checkpointed and compiled as the settings say, and whose weights are then divided over all processes.

    Args:
        model: changed in place; the weights of the first process are taken. Freeze parts and inject adapters before.
        settings: of the run.
        device: device that computes.

    Attributes:
        model: the divided model.
        average: moving average of its weights; None without ``ema_decay``.
        order: names of the trained weights in the order of an optimizer of the undivided model.
        replicated: weights that every process holds whole: those of replicated parts, scalars and quantised weights.

    Raises:
        ConfigError: ``sharding.parts`` names a part that the model lacks.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings, device: torch.device) -> None:
        self.model = model
        self._copy = _WholeCopy(model)
        self.order = trained_names(self._copy.model, settings)
        prepare_blocks(model, checkpointing=settings.checkpoint_activations, compiled=settings.compile)
        self.replicated = _divide(model, Sharding(**settings.sharding), device)
        self.average = None if settings.ema_decay is None else ShardedAverage(model, settings.ema_decay)

    def finish_backward(self) -> None:
        """Average the gradients of replicated weights over the processes, and release gathered weights; call it after each backward pass.

        ``fully_shard`` averages the gradients of the weights that it divides. It releases weights in the backward pass, which a batch
        without loss does not have.
        """
        average_gradients(self.replicated)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def whole(self, *, device: torch.device, keep: bool) -> Iterator[nn.Module]:
        """Gather all weights, or their moving average, into a plain copy of the model; every process has to take part.

        Args:
            device: where the whole weights are held.
            keep: False takes part in gathering, but gives a model without weights.
        """
        found = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        found |= {} if self.average is None else self.average.tensors
        full: dict[str, Tensor] = {}
        for name, tensor in found.items():  # one after the other, so that a process that keeps nothing holds one weight at a time
            gathered = full_tensor(tensor)
            if keep:
                full[name] = gathered.to(device)
        with self._copy.filled(full, dict(self.model.named_buffers())) as model:
            yield model


class ShardedAverage:
    """Exponential moving average of divided weights; every process averages its own part.

    The formula is that of ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn``: the first update copies the weights.

    Attributes:
        tensors: averages of the trained weights, by name.
        count: number of updates, a tensor because it is saved.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, torch.zeros((), dtype=torch.int64)
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the averages towards the weights of a model."""
        now = dict(model.named_parameters())
        ours = [local_part(tensor) for tensor in self.tensors.values()]
        theirs = [local_part(now[name].detach()) for name in self.tensors]
        torch._foreach_lerp_(ours, theirs, 1 - self.decay if int(self.count) else 1.0)  # type: ignore[attr-defined]
        self.count += 1


class _WholeCopy:
    """Copy of a model that has no weights until it is filled."""

    def __init__(self, model: nn.Module) -> None:
        # Quantised weights are objects of another library and never change: the copy shares them.
        empty = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) if p.is_floating_point() else p
            for p in model.parameters()
        }
        self.model = copy.deepcopy(model, dict(empty))
        names = {id(p): name for name, p in self.model.named_parameters() if p.is_meta}
        owned = [(module, key, p) for module in self.model.modules() for key, p in module._parameters.items() if p is not None]
        # Tied weights have several slots and one name.
        self.slots = [(module, key, p, names[id(p)]) for module, key, p in owned if id(p) in names]

    @contextmanager
    def filled(self, tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """Give the copy weights and buffers, and take the weights away again."""
        kept = {name: p for _, _, p, name in self.slots}
        made = {name: nn.Parameter(tensors[name], requires_grad=empty.requires_grad) for name, empty in kept.items() if tensors}
        for module, key, _, name in self.slots if made else []:
            setattr(module, key, made[name])
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])
        try:
            yield self.model
        finally:
            for module, key, parameter, _ in self.slots:
                setattr(module, key, parameter)
            self.model.train()  # modules forget what they computed from the weights


def _divide(model: nn.Module, sharding: Sharding, device: torch.device) -> list[nn.Parameter]:
    """Divide the weights of a model from its blocks to its root; returns those that every process holds whole."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # fully_shard takes no other layout, such as the channels-last one of convolutions
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.data, src=0)  # as DDP does
    policy_of = _policies(model, sharding.parts)
    named = dict(model.named_parameters())
    # fully_shard takes no scalars, and one type of weights in each unit: scalars and quantised weights stay whole.
    whole = [p for n, p in named.items() if policy_of(n) == "replicated" or not p.ndim or not p.is_floating_point()]
    options = _options(sharding, device, set(whole))
    apart = _called_apart(model)
    for name, block in _units(model):
        if policy_of(name) == "per_layer":
            for module in block.modules():
                if module in apart:
                    fully_shard(module, **options)
            if adapters := _adapters(block):
                fully_shard(adapters, **options)
            fully_shard(block, **options)
    fully_shard(model, **options)
    return whole


def _options(sharding: Sharding, device: torch.device, ignored: set[nn.Parameter]) -> dict:
    """Return the keywords of ``fully_shard``."""
    plain = sharding.param_dtype == sharding.reduce_dtype == "fp32"  # then everything stays as the weights are
    param_dtype, reduce_dtype = (None if plain else getattr(torch, DTYPES[each]) for each in (sharding.param_dtype, sharding.reduce_dtype))
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=reduce_dtype)
    offload = CPUOffloadPolicy(pin_memory=device.type != "cpu") if sharding.cpu_offload else OffloadPolicy()
    mesh = _mesh(sharding.shard_size, device.type)
    return {"mesh": mesh, "mp_policy": policy, "offload_policy": offload, "ignored_params": ignored}


def _mesh(shard_size: int | None, device: str) -> DeviceMesh:
    """Return a mesh of all processes; with ``shard_size``, one of copies by parts."""
    processes = dist.get_world_size()
    if shard_size is None or shard_size == processes:
        return init_device_mesh(device, (processes,), mesh_dim_names=("shard",))
    return init_device_mesh(device, (processes // shard_size, shard_size), mesh_dim_names=("replicate", "shard"))


def _policies(model: nn.Module, parts: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function from the name of a block or weight to its policy.

    Raises:
        ConfigError: the model has no such part.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    for part in parts:
        if part not in modules:
            as_deep = [name for name in modules if name.count(".") <= part.count(".")]
            raise ConfigError(f"training.sharding.parts.{part}: the model has no such part; {name_choices(part, as_deep)}")
    towers = [n for n in modules if n.startswith("encoders.") and n.count(".") == 1]
    frozen = {n: "root" for n in towers if not any(p.requires_grad for p in modules[n].parameters())}
    known = {**frozen, **parts}

    def policy_of(name: str) -> str:
        inside = [part for part in known if name == part or name.startswith(f"{part}.")]
        return known[max(inside, key=len)] if inside else "per_layer"

    return policy_of


def _units(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Yield the blocks whose weights no other module shares; a shared weight has to belong to the unit of all its users, the root's."""
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, block in blocks_of(model).items():
        own: dict[int, int] = {}
        for _, parameter in block.named_parameters(remove_duplicate=False):
            own[id(parameter)] = own.get(id(parameter), 0) + 1
        if all(owners[key] == times for key, times in own.items()):
            yield name, block


def _called_apart(model: nn.Module) -> set[nn.Module]:
    """Return the modules that run outside of their block (``Part.called_apart``)."""
    parts = [module for module in model.modules() if isinstance(module, Part)]
    wanted = [(part, pattern) for part in parts for pattern in part.called_apart]
    return {module for part, pattern in wanted for name, module in part.named_modules() if fnmatchcase(name, pattern)}  # type: ignore[attr-defined]


def _adapters(block: nn.Module) -> list[nn.Module]:
    """Return the trained linear layers that PEFT keeps in dictionaries inside a frozen block.

    They form a unit of their own, because a unit has one type of weights, and the frozen weights may have another.
    """
    frozen = any(not p.requires_grad for p in block.parameters())
    held = [child for module in block.modules() if isinstance(module, nn.ModuleDict) for child in module.values()]
    return [m for m in held if frozen and isinstance(m, nn.Linear) and all(p.requires_grad for p in m.parameters())]
