"""Feed-forward block and the activations by the names that configs use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices


def quick_gelu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(1.702 x), the form that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (flax default, SigLIP, GPT-2)."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
}


def find_activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return an activation by name.

    Raises:
        ConfigError: no such activation.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation: there is no {name!r}; {name_choices(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, *, dim: int, hidden_dim: int, activation: str = "gelu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.activation = find_activation(activation)

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        return self.fc2(self.activation(self.fc1(x)))
