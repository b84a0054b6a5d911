"""Normalisation layers by the names that configs use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices


class RMSNorm(nn.Module):
    """x divided by its root mean square, computed in float32, then multiplied by a learned factor per channel.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4. As in LLaMA, x is cast back to its dtype before the multiplication.
    """

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        if x.dtype == self.weight.dtype == torch.float32:  # nothing to cast, so one fused call gives the same
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return self.weight * F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype)


class OffsetRMSNorm(RMSNorm):
    """RMSNorm whose factor is one plus the learned weight, and whose product is computed in float32 (Gemma).

    The weight is stored without the one, because bfloat16 has few digits near one. Source: transformers ``Gemma2RMSNorm``.
    """

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__(dim, eps=eps)
        nn.init.zeros_(self.weight)

    def forward(self, x: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        return F.rms_norm(x.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps).to(x.dtype)


NORMS: dict[str, Callable[..., nn.Module]] = {"rms": RMSNorm, "rms_offset": OffsetRMSNorm, "layer": nn.LayerNorm}


def build_norm(name: str, dim: int, eps: float) -> nn.Module:
    """Return a norm over the channels by name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in NORMS:
        raise ConfigError(f"norm: there is no {name!r}; {name_choices(name, NORMS)}")
    return NORMS[name](dim, eps=eps)
