"""Stochastic depth."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth: in training, set a residual branch to zero per sample, and scale the kept ones by 1 / (1 - rate).

    Source: Huang et al. 2016 (arXiv 1603.09382), in timm's per-sample form.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)  # one random number per sample, for all its tokens and channels
        return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep) / keep
