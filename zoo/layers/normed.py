"""Linear layers followed by BatchNorm, on tokens: what 1x1 convolutions with BatchNorm2d are on images."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError


class GroupedLinear(nn.Module):
    """A linear layer whose channels are mixed within groups only: a 1x1 convolution with ``groups``.

    Raises:
        ConfigError: ``groups`` does not divide a width.
    """

    def __init__(self, *, in_dim: int, out_dim: int, groups: int = 1) -> None:
        super().__init__()
        if in_dim % groups or out_dim % groups:
            raise ConfigError(f"dim: widths {in_dim} and {out_dim} cannot be shared by {groups} groups; choose multiples of {groups}")
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim // groups))
        self.bias = nn.Parameter(torch.empty(out_dim))
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)


class NormedLinear(GroupedLinear):
    """Linear layer, perhaps in groups, then BatchNorm over all tokens of the batch.

    In evaluation the normalisation is folded into the matrix; the outputs are those of the two steps up to rounding.
    """

    def __init__(self, *, in_dim: int, out_dim: int, groups: int = 1) -> None:
        super().__init__(in_dim=in_dim, out_dim=out_dim, groups=groups)
        self.norm = nn.BatchNorm1d(out_dim)

    def forward(self, x: Float[Tensor, "batch num_tokens in_dim"]) -> Float[Tensor, "batch num_tokens out_dim"]:
        rows = x.flatten(0, 1)  # [B * N, in_dim]
        if self.training:
            out = self.norm(self._multiply(rows, self.weight, self.bias))
        else:
            scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)  # type: ignore[operator]
            bias = (self.bias - self.norm.running_mean) * scale + self.norm.bias  # type: ignore[operator]
            out = self._multiply(rows, self.weight * scale[:, None], bias)
        return out.unflatten(0, x.shape[:2])

    def _multiply(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "rows out_dim"]:
        if self.groups == 1:
            return nn.functional.linear(rows, weight, bias)
        grouped = rows.unflatten(1, (self.groups, -1)).transpose(0, 1)  # [groups, B * N, in_dim / groups]
        matrices = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)  # [groups, in_dim / groups, out_dim / groups]
        offset = bias.unflatten(0, (self.groups, 1, -1))  # [groups, 1, out_dim / groups]
        return torch.baddbmm(offset, grouped, matrices).transpose(0, 1).flatten(1)  # [B * N, out_dim]
