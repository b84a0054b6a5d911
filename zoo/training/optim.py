"""The optimizer: AdamW with decay on matrices only, and rates that may fall from layer to layer."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.autograd.graph import increment_version
from torch.optim import AdamW

from zoo.errors import ConfigError, name_choices
from zoo.training.settings import TrainingSettings

# "blocks.3." is block 3; "stages.1.blocks.2." block 2 of stage 1, as timm and transformers name them.
BLOCK = re.compile(r"(?:^|\.)(?:stages|layers|layer|blocks|block)\.(\d+)\.(?:(?:blocks|layers)\.(\d+)\.)?")


def undecayed_names(model: nn.Module) -> Iterator[str]:
    """Parameters that a module names in ``no_weight_decay`` (positions, class tokens), by their full name."""
    for prefix, module in model.named_modules():
        words: Sequence[str] = getattr(module, "no_weight_decay", ())
        words = words() if callable(words) else words  # timm's models have a method of that name
        for name, _ in module.named_parameters():
            if any(word == name or word in name.split(".") for word in words):
                yield f"{prefix}.{name}".strip(".")


def layers_above(encoder: nn.Module) -> dict[str, int]:
    """How many layers lie above each of an encoder's parameters.

    With two blocks: positions 3, patch 3, blocks.0 2, blocks.1 1, norm 0 (the last layer, where the head is too). What stands
    before the first block in the order of ``named_parameters`` counts as below it, what stands after as above. Blocks are told
    by their names, those of stages are counted on; an encoder without blocks is one layer below the head.
    """
    names = [name for name, _ in encoder.named_parameters()]
    matches = {name: match for name in names if (match := BLOCK.search(name))}
    trunk = Counter(name[: match.start()] for name, match in matches.items()).most_common(1)  # not the few of a neck or pool
    blocks = {name: (int(m[1]), int(m[2] or 0)) for name, m in matches.items() if name[: m.start()] == trunk[0][0]}
    numbers = {block: i for i, block in enumerate(sorted(set(blocks.values())), 1)}
    first = next((i for i, name in enumerate(names) if name in blocks), len(names))
    layers = {name: numbers[blocks[name]] if name in blocks else (len(numbers) + 1) * (i > first) for i, name in enumerate(names)}
    return {name: len(numbers) + 1 - layer for name, layer in layers.items()}


def part_of(name: str, parts: Sequence[str]) -> str | None:
    """The innermost of the parts that a parameter is in; None where it is in none."""
    return max((part for part in parts if name == part or name.startswith(f"{part}.")), key=len, default=None)


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float | None = None, scales: Mapping[str, float] | None = None
) -> list[dict]:
    """Matrices decay; gains, biases, temperatures and named exceptions do not. ``lr_scale`` falls by ``layer_decay`` per layer.

    Args:
        scales: by part, what its learning rate is of that of the others.

    Raises:
        ConfigError: the model has no such part.

    Sources: CLIP, section 2.5 ("all weights that are not gains or biases"); open_clip ``main.py``; for the layers Bao et al.
    2021 (BEiT, arXiv 2106.08254) and their ``optim_factory.py``. The head is the last layer. timm's ``param_groups_layer_decay``
    differs in one point: a ViT's last norm shares the rate of the last block, where a class token is pooled.
    """
    scales, known = scales or {}, [name for name, _ in (*model.named_modules(), *model.named_parameters()) if name]
    for part in scales:
        if part not in known:
            as_deep = [name for name in known if name.count(".") <= part.count(".")]
            raise ConfigError(f"training.learning_rates.{part}: the model has no such part; {name_choices(part, as_deep)}")
    exempt = set(undecayed_names(model))
    above: dict[str, int] = {}
    encoders = getattr(model, "encoders", None)
    if layer_decay is not None and isinstance(encoders, nn.ModuleDict):
        for modality, encoder in encoders.items():
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
    """AdamW with the fused kernel, which on a CPU is several times faster and equal to rounding.

    That kernel does not tell autograd that it writes (torch 2.11), so it is told here: what a model makes of its weights is kept
    for inference until their version changes.
    """
    betas = (float(settings.betas[0]), float(settings.betas[1]))
    scales = {part: rate / settings.learning_rate for part, rate in settings.learning_rates.items()}
    groups = parameter_groups(model, settings.weight_decay, settings.layer_decay, scales)
    fused = all(p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for group in groups for p in group["params"])
    optimizer = AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.eps, fused=fused)
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer.register_step_post_hook(lambda *_: increment_version(parameters))
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the scheduled rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
