"""Weights that are no numbers: NaN and infinity are named when a model is loaded, and refused where they would fill an index or a file."""

import logging

import torch
from torch import Tensor, nn

from zoo.errors import WeightsError

log = logging.getLogger("zoo")
SHOWN = 3


def not_finite(model: nn.Module) -> list[str]:
    """Return the names of parameters and buffers that hold NaN or infinity.

    A buffer that is not saved may hold infinity on purpose, as an attention mask does; only saved tensors are looked at.
    """
    return [name for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor) and _is_broken(tensor)]


def _is_broken(tensor: Tensor) -> bool:
    if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
        return False
    lowest, highest = torch.aminmax(tensor)  # NaN propagates; one pass, and no copy of the tensor
    return not bool(torch.isfinite(lowest) & torch.isfinite(highest))


def warn_not_finite(model: nn.Module, origin: str) -> None:
    """Log one line that names the tensors with NaN or infinity, if there are any."""
    if names := not_finite(model):
        log.warning("%s: %s", origin, _told(names))


def refuse_not_finite(model: nn.Module, origin: str, option: str = "--allow-nan") -> None:
    """Raise WeightsError if a tensor holds NaN or infinity, because every result would be NaN too.

    Args:
        origin: name of the model, for the message.
        option: way to go on in spite of it, for the message.
    """
    if names := not_finite(model):
        raise WeightsError(f"{origin}: {_told(names)}; results would be NaN. Take an earlier checkpoint, or go on with {option}")


def _told(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"the weights hold NaN or infinity in {', '.join(names[:SHOWN])}{more}"
