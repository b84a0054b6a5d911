"""Feed-forward blocks, and activations by the names that configs use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.linear import FUSED, Linear, fast_linear


def quick_gelu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(1.702 x), the approximation of GELU with which OpenAI's CLIP was trained."""
    return F.silu(1.702 * x) / 1.702


def quick_gelu_(x: Tensor) -> Tensor:
    """Compute ``quick_gelu`` in place, because allocating memory for the hidden layer takes longer than the arithmetic."""
    return F.silu(x.mul_(1.702), inplace=True).mul_(1 / 1.702)


def gelu_tanh(x: Tensor) -> Tensor:
    """Compute the tanh approximation of GELU (flax default, SigLIP, GPT-2)."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def find_activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return an activation by name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation: there is no {name!r}; {name_choices(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """Feed-forward block: linear layer, activation, optional norm, linear layer."""

    def __init__(self, *, dim: int, hidden_dim: int, activation: str = "gelu", bias: bool = True, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, bias=bias)
        self.norm = norm
        self.fc2 = Linear(hidden_dim, dim, bias=bias)
        self.activation = find_activation(activation)
        self.fused = activation if activation in FUSED else None

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        # The fused product reads fc1.weight, which would bypass an adapter or quantised layer in its place, and forward hooks.
        if self.fused is not None and type(self.fc1) is Linear and not self.fc1._forward_hooks:
            hidden = fast_linear(x, self.fc1.weight, self.fc1.bias, self.fused, self.fc1.precision)
        else:
            hidden = self.fc1(x)
            in_place = self.activation is quick_gelu and not torch.is_grad_enabled() and not self.fc1._forward_hooks
            hidden = quick_gelu_(hidden) if in_place else self.activation(hidden)
        return self.fc2(hidden if self.norm is None else self.norm(hidden))


GATED: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": F.gelu, "geglu_tanh": gelu_tanh}  # activation of the gate


class SwiGLU(nn.Module):
    """Gated feed-forward block: linear layer to twice ``hidden_dim``, activation of the first half times the second half, linear layer.

    Source: Shazeer 2020 (arXiv 2002.05202), equation 6; with biases in DINOv2's giant (timm ``SwiGLUPacked``), without in LLaMA. With
    "geglu_tanh" the gate's activation is GELU in its tanh approximation (Gemma), with "geglu" GELU itself (ModernBERT).
    """

    def __init__(self, *, dim: int, hidden_dim: int, bias: bool = True, activation: str = "swiglu") -> None:
        super().__init__()
        self.fc1 = Linear(dim, 2 * hidden_dim, bias=bias)  # rows: gate, value
        self.fc2 = Linear(hidden_dim, dim, bias=bias)
        self.activation = GATED[activation]

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.activation(gate) * value)


def feed_forward(*, dim: int, hidden_dim: int, activation: str = "gelu", bias: bool = True, norm: nn.Module | None = None) -> MLP | SwiGLU:
    """Return the feed-forward part of a block: a ``SwiGLU`` for an activation of ``GATED``, otherwise an ``MLP``.

    Args:
        dim: width of the tokens.
        hidden_dim: width of the hidden layer.
        activation: name in ``ACTIVATIONS`` or ``GATED``.
        bias: True gives the linear layers a bias.
        norm: applied to the hidden channels, before the last linear layer; not possible for a gated block.
    """
    if activation in GATED:
        assert norm is None
        return SwiGLU(dim=dim, hidden_dim=hidden_dim, bias=bias, activation=activation)
    return MLP(dim=dim, hidden_dim=hidden_dim, activation=activation, bias=bias, norm=norm)


def hidden_width(dim: int, mlp_ratio: float | int) -> int:
    """Return the hidden width of a feed-forward block, rounded down to an integer.

    1152 * (4304 / 1152) may be just below 4304 in floating point, so a small number is added before rounding.
    """
    return int(dim * mlp_ratio + 1e-6)
