"""Device and precision of a model that is used: the words that users write, and what they mean to torch."""

import logging
from functools import cache

import torch

from zoo.errors import ConfigError, name_choices
from zoo.layers.low_precision.cpu import reason_to_avoid
from zoo.layers.low_precision.modes import DTYPES, PRECISIONS

log = logging.getLogger("zoo")
AUTO = "auto"


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


def find_precision(
    precision: str | None, dtype: torch.dtype | None = None, *, device: torch.device | None = None, key: str = "precision"
) -> str | torch.dtype | None:
    """Return the word of a precision, or the type if one is given; None for both keeps the weights as they are built, in float32.

    Args:
        precision: one of ``PRECISIONS``, or "auto": bf16 on a GPU that computes in it, else fp32.
        dtype: data type of the weights, instead of ``precision``.
        device: device of the model, on which "auto" depends; None is the CPU.
        key: option or config key, for messages.

    Raises:
        ConfigError: there is no such precision or type, or the two contradict each other.
    """
    if precision == AUTO and dtype is None:
        return "bf16" if device is not None and device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision is not None and precision not in PRECISIONS:
        raise ConfigError(f"{key}: there is no {precision!r}; {name_choices(str(precision), (*PRECISIONS, AUTO))}")
    if precision == "bf16" and (device is None or device.type == "cpu"):
        _warn_once(precision, key)
    if dtype is None:
        return precision
    if DTYPES.get(str(precision)) == dtype:
        return dtype
    if precision is not None:
        raise ConfigError(f"{key}: {precision!r} contradicts dtype={dtype}; give one of the two")
    if dtype not in DTYPES.values():
        raise ConfigError(f"dtype: {dtype}; allowed is {', '.join(map(str, DTYPES.values()))}; for fewer bits give precision='int8'")
    return dtype


@cache
def _warn_once(precision: str, key: str) -> None:
    """Log once if a chosen precision is slow on this CPU."""
    if (reason := reason_to_avoid(precision)) is not None:
        log.warning("%s: %s: %s", key, precision, reason)
