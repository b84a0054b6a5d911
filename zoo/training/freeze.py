"""Freezing of model parts: no gradients, and evaluation mode (no dropout, fixed BatchNorm statistics)."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from zoo.errors import ConfigError, name_choices


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Turn off the gradients of modules and parameters; parts that are already frozen stay frozen.

    Args:
        names: names of modules (including everything below them) or of single parameters; ``*`` matches any text
            (``encoders.image``, ``encoders.*.blocks.0``, ``*.bias``).

    Returns:
        The modules that ``train_mode`` keeps in evaluation mode.

    Raises:
        ConfigError: a name matches no module and no parameter.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    frozen = []
    for wanted in names:
        matched = [module for name, module in modules.items() if fnmatchcase(name, wanted)]
        single = [parameter for name, parameter in parameters.items() if fnmatchcase(name, wanted)]
        if not matched and not single:
            as_deep = [name for name in (*modules, *parameters) if name.count(".") <= wanted.count(".")]
            raise ConfigError(f"training.freeze: the model has no part {wanted!r}; {name_choices(wanted, as_deep)}")
        for part in (*matched, *single):
            part.requires_grad_(False)
        frozen += matched
    return frozen


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Set the model to training mode and its frozen modules to evaluation mode."""
    model.train()
    for module in frozen:
        module.eval()
