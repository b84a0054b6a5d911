"""Blocks of a model (transformer blocks, graph blocks): the units of activation checkpointing, compilation and sharding."""

import re
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from zoo.errors import ConfigError

# "encoders.image.blocks.3", "head.language.layers.0", "encoders.text.model.encoder.layer.11"
BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers|layer|block|h)\.\d+$")
COMPILER = "inductor"  # of torch.compile
Blocks = dict[str, nn.Module]


def blocks_of(model: nn.Module) -> Blocks:
    """Return the innermost blocks of a model by name: children of a list of modules that consist of modules themselves."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)}
    found = {f"{name}.{i}": block for name, modules in lists.items() for i, block in enumerate(modules)}
    blocks = {name: block for name, block in found.items() if BLOCK.search(name) and any(True for _ in block.children())}
    return {name: block for name, block in blocks.items() if not any(other.startswith(f"{name}.") for other in blocks)}


def checkpoint_activations(model: nn.Module, value: str | int) -> None:
    """Compute the activations of blocks again in the backward pass instead of keeping them; parameters keep their names.

    Args:
        model: changed in place; do not copy it afterwards, because a copy would run the blocks of the original.
        value: "none"; "full", every block; or n, every n-th block.

    Raises:
        ConfigError: the model has no blocks, or a block has BatchNorm, whose statistics would be updated twice.
    """
    if value == "none":
        return
    blocks = _needed(blocks_of(model), "checkpoint_activations")
    chosen = list(blocks)[:: 1 if value == "full" else int(value)]
    for name in chosen:
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in blocks[name].modules()):
            raise ConfigError(
                f"training.checkpoint_activations: {name} has BatchNorm, which would count each batch twice in its statistics; set "
                "training.checkpoint_activations=none"
            )
        blocks[name].forward = partial(checkpoint, blocks[name].forward, use_reentrant=False)  # type: ignore[method-assign]


def prepare_blocks(model: nn.Module, *, checkpointing: str | int, compiled: bool) -> None:
    """Checkpoint and compile the blocks of a model, in the order in which torch allows both."""
    checkpoint_activations(model, checkpointing)
    if compiled:
        compile_blocks(model)


def compile_blocks(model: nn.Module) -> None:
    """Compile each block by ``torch.compile``; blocks of one kind share their compiled code, and names stay as they are.

    Raises:
        ConfigError: the model has no blocks.
    """
    for block in _needed(blocks_of(model), "compile").values():
        block.compile(backend=COMPILER)


def _needed(blocks: Blocks, key: str) -> Blocks:
    if not blocks:
        raise ConfigError(f"training.{key}: the model has no blocks (modules in a list that is called blocks or layers); leave it unset")
    return blocks
