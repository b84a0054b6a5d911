"""What the encoders share that hold another library's model: tokens out of feature maps, and a trial run without weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.meta import meta_device

M = TypeVar("M", bound=nn.Module)
REFUSALS = (AssertionError, AttributeError, ImportError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def flatten_map(features: Float[Tensor, "batch a b c"], *, channels_last: bool = False) -> Float[Tensor, "batch num_tokens dim"]:
    """The places of a feature map [B, dim, rows, columns] (or channels last) as tokens, in row-major order."""
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)  # [B, rows * columns, dim]


@dataclass(frozen=True)
class Trial:
    """What a model did with two images: the tokens of each, their width, and the parameters that had no part in it."""

    num_tokens: int
    dim: int
    unused: tuple[str, ...]


def try_out(build: Callable[[], M], encode: Callable[[M, Tensor], tuple[Tensor, Tensor]], image_size: int, name: str) -> Trial:
    """Build a model on the meta device and send two square images through it and back.

    Args:
        build: makes the model.
        encode: model and pixels to tokens [batch, num_tokens, dim] and pooled [batch, dim].
        name: of the model, for messages.

    Raises:
        ConfigError: the library refuses to build it, or it takes no such images, or gives something else.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), meta_device():  # whatever the caller is in
            model = build().eval()
            pixels = torch.empty(2, 3, image_size, image_size)
        with torch.inference_mode(False), torch.enable_grad():
            tokens, pooled = encode(model, pixels)
            if tokens.ndim != 3 or len(tokens) != 2 or pooled.shape != (2, tokens.shape[-1]):
                raise ConfigError(
                    f"gives tokens {list(tokens.shape)} and a pooled vector {list(pooled.shape)} for two images; an encoder gives "
                    "[2, num_tokens, dim] and [2, dim]"
                )
            (tokens.sum() + pooled.sum()).backward()
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    except REFUSALS as error:  # what another library raises for what it does not take is its own affair
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(f"{name}: cannot serve as an encoder of images of {image_size} x {image_size}: {reason}") from error
    unused = tuple(key for key, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None)
    return Trial(tokens.shape[1], tokens.shape[2], unused)


def freeze(model: nn.Module, names: tuple[str, ...]) -> None:
    """Stop the gradients of parameters that no output depends on, so that every other one surely gets one."""
    for name in names:
        model.get_parameter(name).requires_grad_(False)
