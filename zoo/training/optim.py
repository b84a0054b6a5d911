"""Optimizer: AdamW with weight decay on matrices only, layer-wise learning rate decay, learning rates per part; moving average."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import increment_version
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.errors import ConfigError, name_choices
from zoo.losses.distributed import local_part
from zoo.training.settings import TrainingSettings
from zoo.types import Part, is_system

# "blocks.3." is block 3; "stages.1.blocks.2." block 2 of stage 1, as timm and transformers name them.
BLOCK = re.compile(r"(?:^|\.)(?:stages|layers|layer|blocks|block)\.(\d+)\.(?:(?:blocks|layers)\.(\d+)\.)?")


def undecayed_names(model: nn.Module) -> Iterator[str]:
    """Yield the full names of parameters that a module lists in ``no_weight_decay`` (positions, class tokens)."""
    for prefix, module in model.named_modules():
        part: Any = module
        listed: Sequence[str] = part.no_weight_decay if isinstance(module, Part) else ()
        for name, _ in part.named_parameters():
            if any(entry == name or entry in name.split(".") for entry in listed):
                yield f"{prefix}.{name}".strip(".")


def layers_above(encoder: nn.Module) -> dict[str, int]:
    """Return the number of layers above each parameter of an encoder.

    With two blocks: positions 3, patch 3, blocks.0 2, blocks.1 1, norm 0 (the last layer, as the head). Parameters before the first
    block in the order of ``named_parameters`` count as below all blocks, the others outside blocks as above. Blocks are recognised by
    their names, and numbered through all stages. An encoder without blocks is one layer below the head.
    """
    names = [name for name, _ in encoder.named_parameters()]
    matches = {name: match for name in names if (match := BLOCK.search(name))}
    # The prefix with the most parameters is the trunk; a neck or pool may have a few blocks too.
    trunk = Counter(name[: match.start()] for name, match in matches.items()).most_common(1)
    blocks = {name: (int(m[1]), int(m[2] or 0)) for name, m in matches.items() if name[: m.start()] == trunk[0][0]}
    numbers = {block: i for i, block in enumerate(sorted(set(blocks.values())), 1)}
    first = next((i for i, name in enumerate(names) if name in blocks), len(names))
    layers = {name: numbers[blocks[name]] if name in blocks else (len(numbers) + 1) * (i > first) for i, name in enumerate(names)}
    return {name: len(numbers) + 1 - layer for name, layer in layers.items()}


def part_of(name: str, parts: Sequence[str]) -> str | None:
    """Return the innermost of ``parts`` that contains the parameter, or None if no part contains it."""
    return max((part for part in parts if name == part or name.startswith(f"{part}.")), key=len, default=None)


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float | None = None, scales: Mapping[str, float] | None = None
) -> list[dict]:
    """Group the trainable parameters by weight decay and learning rate.

    Weight decay applies to matrices, but not to gains, biases, temperatures and the parameters named in ``no_weight_decay``. The
    learning rate of each layer is ``layer_decay`` times that of the layer above; the head counts as part of the last layer.

    Args:
        scales: factor on the learning rate, by part.

    Returns:
        Parameter groups for AdamW, with the factor on the learning rate as ``lr_scale``.

    Raises:
        ConfigError: the model has no such part.

    Sources: CLIP, section 2.5 ("all weights that are not gains or biases"); open_clip ``main.py``; for the layers Bao et al.
    2021 (BEiT, arXiv 2106.08254) and their ``optim_factory.py``. timm's ``param_groups_layer_decay`` differs in one point: if a class
    token is pooled, a ViT's last norm has the learning rate of the last block.
    """
    scales, known = scales or {}, [name for name, _ in (*model.named_modules(), *model.named_parameters()) if name]
    for part in scales:
        if part not in known:
            as_deep = [name for name in known if name.count(".") <= part.count(".")]
            raise ConfigError(f"training.learning_rates.{part}: the model has no such part; {name_choices(part, as_deep)}")
    exempt = set(undecayed_names(model))
    above: dict[str, int] = {}
    if layer_decay is not None and is_system(model):
        for modality, encoder in model.encoders.items():
            above |= {f"encoders.{modality}.{name}": layers for name, layers in layers_above(encoder).items()}
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[above.get(name, 0), parameter.ndim < 2 or name in exempt, part_of(name, list(scales)) or ""].append(parameter)
    factor, scales = 1.0 if layer_decay is None else layer_decay, {"": 1.0, **scales}
    return [
        {"params": groups[key], "weight_decay": 0.0 if exempted else weight_decay, "lr_scale": scales[part] * factor**layers}
        for key in sorted(groups)
        for layers, exempted, part in [key]
    ]


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> AdamW:
    """Build AdamW with the fused kernel, which on a CPU is several times faster and equal up to rounding.

    The fused kernel does not increment the version of the parameters that it writes (torch 2.11). A hook does so here, because tensors
    derived from weights are cached for inference until the version of the weights changes.
    """
    betas = (float(settings.betas[0]), float(settings.betas[1]))
    groups = [part for group in _groups(model, settings) for part in _by_sharding(group)]
    fused = all(p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for group in groups for p in group["params"])
    optimizer = AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.eps, fused=fused)
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer.register_step_post_hook(lambda *_: increment_version(parameters))
    return optimizer


def trained_names(model: nn.Module, settings: TrainingSettings) -> list[str]:
    """Return the names of the trained parameters in the order of the optimizer of a model that is not sharded."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in _groups(model, settings) for parameter in group["params"]]


def _groups(model: nn.Module, settings: TrainingSettings) -> list[dict]:
    scales = {part: rate / settings.learning_rate for part, rate in settings.learning_rates.items()}
    return parameter_groups(model, settings.weight_decay, settings.layer_decay, scales)


def _by_sharding(group: dict) -> list[dict]:
    """Divide a group into parameters that are sharded and those that are not, because one kernel takes only one kind."""
    whole = [p for p in group["params"] if local_part(p) is p]
    sharded = [p for p in group["params"] if local_part(p) is not p]
    return [{**group, "params": kind} for kind in (whole, sharded) if kind]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set each group's learning rate to ``rate`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


class MovingAverage(AveragedModel):
    """Exponential moving average of a model's parameters, with copies of its buffers.

    torch's own update copies its counter to the device in every step, for which the host waits; the averages are equal to its averages.

    Args:
        model: the model to average; it is copied.
        decay: share of the old average that remains in each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take over the parameters at the first call, and move towards them at each later one."""
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        averaged = [pair for pair in pairs if int(self.n_averaged) and torch.is_floating_point(pair[0])]  # the counter is on the CPU
        for dtype in dict.fromkeys(ours.dtype for ours, _ in averaged):
            of_dtype = [pair for pair in averaged if pair[0].dtype == dtype]
            self.multi_avg_fn([ours for ours, _ in of_dtype], [theirs for _, theirs in of_dtype], 0)  # type: ignore[misc]
        if not self.n_averaged:
            for ours, theirs in pairs:  # quantised weights are frozen, so that the first copy stays
                ours.copy_(theirs)
        for ours, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)
        self.n_averaged += 1
