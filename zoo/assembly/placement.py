"""Device and precision of a model that is used: the words that users write, and what they mean to torch."""

import torch

from zoo.errors import ConfigError, name_choices

AUTO = "auto"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def find_device(name: str | torch.device | None, key: str = "device") -> torch.device | None:
    """Return the device of a name; "auto" is the accelerator if there is one, else the CPU, and None stays None.

    Args:
        name: "auto", or a device of torch such as "cpu" or "cuda:1".
        key: option or config key, for messages.

    Raises:
        ConfigError: torch cannot use the device on this machine.
    """
    if name is None:
        return None
    if str(name) == AUTO:
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ConfigError(f"{key}: {name} cannot be used here ({reason}); use auto or cpu") from error
    return device


def find_dtype(precision: str | None, dtype: torch.dtype | None = None, key: str = "precision") -> torch.dtype | None:
    """Return the data type of the weights for a precision; None for both keeps the weights as they are built, in float32.

    Args:
        precision: one of ``PRECISIONS``.
        dtype: the data type itself, instead of ``precision``.
        key: option or config key, for messages.

    Raises:
        ConfigError: there is no such precision, or it contradicts ``dtype``.
    """
    if precision is None:
        return dtype
    if precision not in PRECISIONS:
        raise ConfigError(f"{key}: there is no {precision!r}; {name_choices(str(precision), PRECISIONS)}")
    if dtype not in (None, PRECISIONS[precision]):
        raise ConfigError(f"{key}: {precision!r} contradicts dtype={dtype}; give one of the two")
    return PRECISIONS[precision]
