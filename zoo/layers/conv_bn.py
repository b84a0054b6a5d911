"""Linear and convolutional layers followed by BatchNorm, which is folded into their weights in evaluation.

A linear layer with BatchNorm on tokens equals a 1x1 convolution with BatchNorm2d on an image.
"""

import typing

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.linear import fast_linear


class NormedLinear(nn.Module):
    """Linear layer, BatchNorm over all tokens of the batch, and optionally GELU.

    In evaluation, the outputs equal those of the separate steps up to rounding.

    Args:
        in_dim: width of the input.
        out_dim: width of the output.
        groups: number of groups of channels; channels are only mixed within a group, as in a grouped 1x1 convolution.
        activate: True applies GELU.

    Raises:
        ConfigError: ``groups`` does not divide a width.
    """

    def __init__(self, *, in_dim: int, out_dim: int, groups: int = 1, activate: bool = False) -> None:
        super().__init__()
        if in_dim % groups or out_dim % groups:
            raise ConfigError(f"dim: widths {in_dim} and {out_dim} are not divisible by {groups} groups; choose multiples of {groups}")
        self.groups, self.activate = groups, activate
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim // groups))
        self.bias = nn.Parameter(torch.empty(out_dim))
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.norm = nn.BatchNorm1d(out_dim)

    def forward(self, x: Float[Tensor, "batch num_tokens in_dim"]) -> Float[Tensor, "batch num_tokens out_dim"]:
        rows = x.flatten(0, 1)  # [B * N, in_dim]
        if self.norm.training:
            out = self.norm(self._multiply(rows, self.weight, self.bias))
            out = F.gelu(out) if self.activate else out
        else:
            weight, bias = folded(self.weight, self.bias, self.norm)
            out = self._multiply(rows, weight, bias, "gelu" if self.activate else None)
        return out.unflatten(0, x.shape[:2])

    def _multiply(self, rows: Tensor, weight: Tensor, bias: Tensor, activation: str | None = None) -> Float[Tensor, "rows out_dim"]:
        if self.groups == 1:
            return fast_linear(rows, weight, bias, activation)
        grouped = rows.unflatten(1, (self.groups, -1)).transpose(0, 1)  # [groups, B * N, in_dim / groups]
        matrices = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)  # [groups, in_dim / groups, out_dim / groups]
        offset = bias.unflatten(0, (self.groups, 1, -1))  # [groups, 1, out_dim / groups]
        out = torch.baddbmm(offset, grouped, matrices).transpose(0, 1).flatten(1)  # [B * N, out_dim]
        return F.gelu(out) if activation is not None else out


class NormedConv(nn.Conv2d):
    """3x3 convolution with padding, then BatchNorm; ``stride`` 2 halves an image."""

    def __init__(self, *, in_dim: int, out_dim: int, stride: int) -> None:
        super().__init__(in_dim, out_dim, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(out_dim)
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(typing.cast(Tensor, self.bias))

    def forward(self, input: Float[Tensor, "batch in_dim height width"]) -> Float[Tensor, "batch out_dim rows columns"]:
        bias = typing.cast(Tensor, self.bias)
        if self.norm.training:
            return self.norm(self._conv_forward(input, self.weight, bias))
        return self._conv_forward(input, *folded(self.weight, bias, self.norm))


def folded(weight: Tensor, bias: Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a single layer that equals the layer followed by BatchNorm with its running statistics."""
    mean, variance = typing.cast(Tensor, norm.running_mean), typing.cast(Tensor, norm.running_var)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return weight * scale.view(-1, *(1,) * (weight.ndim - 1)), (bias - mean) * scale + norm.bias
