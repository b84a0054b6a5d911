"""Linear layers with frozen 4-bit weights, computed by bitsandbytes.

Paper: Dettmers et al. 2023 (QLoRA, arXiv 2305.14314), section 3: NF4 in blocks of 64. The second quantisation, that of the scales, is left
out: with it, a weight would change when it is saved and loaded.

The state dict of such a layer holds the plain (dequantised) ``weight``. A checkpoint can therefore be loaded with or without bitsandbytes.
Quantising it again restores the same four bits, because the largest number of each block is a value of NF4.
"""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError

FORMATS = ("nf4", "fp4")


class QuantisedLinear:
    """Base class of quantised linear layers; the layer itself needs bitsandbytes and is defined on first use."""

    def plain_weight(self) -> Tensor:
        """Return the dequantised weight [out, in] in the layer's dtype."""
        raise NotImplementedError


def quantise(part: nn.Module, names: list[str], format: str) -> None:
    """Replace linear layers of a module by quantised ones; layers on the meta device are not changed.

    Args:
        part: the module, changed in place.
        names: names of the linear layers, relative to ``part``.
        format: "nf4" or "fp4".

    Raises:
        ConfigError: the format is unknown, or bitsandbytes is not installed.
    """
    if format not in FORMATS:
        raise ConfigError(f"quantise: there is no {format!r}; allowed is {' or '.join(FORMATS)}")
    kind = _layer()
    for name in names:
        layer = part.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        if layer.weight.is_meta:
            continue
        parent, _, last = name.rpartition(".")
        setattr(part.get_submodule(parent), last, kind(layer, format))  # type: ignore[call-arg]


def dequantised(layer: nn.Module) -> Tensor | None:
    """Return the dequantised weight [out, in] of a quantised layer, or None for a plain layer."""
    return layer.plain_weight() if isinstance(layer, QuantisedLinear) else None


@cache  # one class per process: isinstance must hold between calls
def _layer() -> type:
    """Return the class of quantised layers; bitsandbytes is optional, so the class is defined on the first call."""
    try:
        library: Any = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError("quantise: needs bitsandbytes; install it with: zoo install qlora") from error

    class Quantised(QuantisedLinear, library.nn.Linear4bit):
        """A frozen linear layer in four bits."""

        def __init__(self, layer: nn.Linear, format: str) -> None:
            sizes = (layer.in_features, layer.out_features)
            bias = layer.bias is not None
            library.nn.Linear4bit.__init__(
                self, *sizes, bias=bias, compute_dtype=layer.weight.dtype, compress_statistics=False, quant_type=format
            )
            self.support_avx512bf16_for_cpu = False  # if True, bitsandbytes repacks the bits in evaluation and computes in bf16
            self.bias, self.dtype, self.format = layer.bias, layer.weight.dtype, format
            self._take(layer.weight.detach())

        def _take(self, weight: Tensor) -> None:
            ours: Any = self.weight
            device = ours.device if ours.quant_state is not None else weight.device  # without a state, this is the first call
            data = weight.detach().to("cpu", self.dtype, copy=True).contiguous()
            fresh: Any = library.nn.Params4bit(data, False, compress_statistics=False, quant_type=self.format, module=self)
            self.weight = fresh.to(device)

        def plain_weight(self) -> Tensor:
            """Return the dequantised weight [out, in] in the layer's dtype."""
            ours: Any = self.weight
            return library.functional.dequantize_4bit(ours.data, ours.quant_state).to(self.dtype)

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            destination[f"{prefix}weight"] = self.plain_weight()
            if self.bias is not None:
                destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()

        def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
            weight = state_dict.pop(f"{prefix}weight", None)
            missing = rest[2]  # torch's arguments after the prefix: local_metadata, strict, missing_keys, ...
            if weight is None:
                missing.append(f"{prefix}weight")
            else:
                self._take(weight)
            if self.bias is not None and f"{prefix}bias" in state_dict:
                with torch.no_grad():
                    self.bias.copy_(state_dict[f"{prefix}bias"])

    return Quantised
