"""Parts that are not trained: no gradient, and the behaviour of evaluation (no dropout, fixed BatchNorm statistics)."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from zoo.errors import ConfigError, name_choices


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Stop the gradients of modules and parameters; what was frozen before stays so.

    Args:
        names: of modules, with everything below them, or of single parameters; ``*`` stands for any text
            (``encoders.image``, ``encoders.*.blocks.0``, ``*.bias``).

    Returns:
        The modules that ``train_mode`` keeps from training.

    Raises:
        ConfigError: a name that the model does not have.
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
    """``model.train()``, but frozen parts behave as in evaluation."""
    model.train()
    for module in frozen:
        module.eval()
