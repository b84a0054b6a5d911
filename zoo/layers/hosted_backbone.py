"""Helpers for encoders that wrap another library's model: tokens from feature maps, and a trial run without weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.meta import meta_device, unused_parameters

RESIZES = {"center": "crop", "squash": "squash", "border": "border"}  # from timm's crop_mode to ``resize`` of our image processor
M = TypeVar("M", bound=nn.Module)
REFUSALS = (AssertionError, AttributeError, ImportError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def timm_preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords of our image processor for a ``pretrained_cfg`` of timm."""
    return {
        "resize": RESIZES[config["crop_mode"]],
        "interpolation": config["interpolation"],
        "crop_fraction": config["crop_pct"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


def flatten_map(features: Float[Tensor, "batch a b c"], *, channels_last: bool = False) -> Float[Tensor, "batch num_tokens dim"]:
    """Return the positions of a feature map [B, dim, rows, columns] (or [B, rows, columns, dim]) as tokens, in row-major order."""
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)  # [B, rows * columns, dim]


@dataclass(frozen=True)
class Trial:
    """Result of a trial run: tokens per image, their width, and the names of parameters that the outputs do not depend on."""

    num_tokens: int
    dim: int
    unused: tuple[str, ...]


def try_out(build: Callable[[], M], encode: Callable[[M, Tensor], tuple[Tensor, Tensor]], image_size: int, name: str) -> Trial:
    """Build a model on the meta device and run two square images through it.

    Args:
        build: returns the model.
        encode: maps model and pixels to tokens [batch, num_tokens, dim] and pooled vectors [batch, dim].
        image_size: side of the images, in pixels.
        name: name of the model, for messages.

    Raises:
        ConfigError: the library cannot build the model, the model rejects images of this size, or its outputs have the wrong shapes.
    """
    try:
        # The trial needs gradients, also if the caller is in inference mode.
        with torch.inference_mode(False), torch.enable_grad(), meta_device():
            model = build().eval()
            pixels = torch.empty(2, 3, image_size, image_size)
        with torch.inference_mode(False), torch.enable_grad():
            tokens, pooled = encode(model, pixels)
            if tokens.ndim != 3 or len(tokens) != 2 or pooled.shape != (2, tokens.shape[-1]):
                raise ConfigError(
                    f"returns tokens {list(tokens.shape)} and pooled vectors {list(pooled.shape)} for two images; an encoder must return "
                    "[2, num_tokens, dim] and [2, dim]"
                )
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    except REFUSALS as error:  # libraries raise many types of exception for unsupported models and sizes
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ConfigError(f"{name}: cannot be used as an encoder of images of {image_size} x {image_size} pixels: {reason}") from error
    return Trial(tokens.shape[1], tokens.shape[2], unused_parameters(model, tokens, pooled))


def freeze(model: nn.Module, names: tuple[str, ...]) -> None:
    """Freeze the named parameters, on which no output depends, so that every trainable parameter gets a gradient (DDP needs this)."""
    for name in names:
        model.get_parameter(name).requires_grad_(False)
