"""Patch merger: squares of neighbouring tokens become one token through a norm and two linear layers.

Papers: Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191), section 2.1; Bai et al. 2025, "Qwen2.5-VL" (arXiv 2502.13923), section 2.1.1.
Further mergers of earlier layers: Meng et al. 2024, "DeepStack" (arXiv 2406.04334), as Qwen3-VL has them. Reference: transformers 5.17,
``modeling_qwen2_vl.py`` (``PatchMerger``), ``modeling_qwen3_vl.py`` (``Qwen3VLVisionPatchMerger``).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.connector import cannot, refuse_below
from zoo.layers.linear import Linear
from zoo.layers.norm import build_norm
from zoo.layers.squares import joined_squares, misfit, square_tokens
from zoo.registry import register
from zoo.types import Connector


class Merger(nn.Module):
    """Norm, linear layer of the same width, GELU, linear layer, of the joined tokens of squares.

    Args:
        dim: width of a token.
        out_dim: width of the result.
        factor: side of the squares, in tokens.
        norm: "layer" or "rms".
        eps: added inside the norm.
        joined: True normalises the joined tokens, False each of them.
    """

    def __init__(self, *, dim: int, out_dim: int, factor: int, norm: str, eps: float, joined: bool) -> None:
        super().__init__()
        width = dim * factor**2
        self.joined = joined
        self.norm = build_norm(norm, width if joined else dim, eps)
        self.fc1 = Linear(width, width)
        self.fc2 = Linear(width, out_dim)

    def forward(self, x: Float[Tensor, "total square dim"]) -> Float[Tensor, "total out_dim"]:
        x = self.norm(x.flatten(1)) if self.joined else self.norm(x).flatten(1)
        return self.fc2(F.gelu(self.fc1(x)))


@register("connector")
class PatchMerger(Connector):
    """Norm of each token, concatenation of each square of tokens, and two linear layers with GELU between them.

    Args:
        in_dim: width of the encoder's tokens: of one layer, and of ``deepstack`` earlier layers behind it.
        out_dim: width of the language model.
        factor: side of the squares, in tokens.
        norm: "layer" (Qwen2-VL, 3-VL) or "rms" (2.5-VL).
        eps: added inside the norms.
        deepstack: number of earlier layers in the tokens; each has a merger of its own, which normalises the joined tokens. Their outputs
            stand behind the others, so that the result is ``(1 + deepstack) * out_dim`` wide.

    Raises:
        ConfigError: ``in_dim`` does not hold so many layers of equal width.
    """

    silent_keywords = ("eps",)

    def __init__(self, *, in_dim: int, out_dim: int, factor: int = 2, norm: str = "layer", eps: float = 1e-6, deepstack: int = 0) -> None:
        super().__init__()
        refuse_below("factor", factor, 1)
        refuse_below("deepstack", deepstack, 0)
        if in_dim % (1 + deepstack):
            raise ConfigError(f"deepstack: {deepstack}, but tokens of width {in_dim} do not hold {1 + deepstack} layers of equal width")
        self.merge = self.factor = factor
        self.deepstack, self.dim = deepstack, in_dim // (1 + deepstack)
        sizes: dict[str, Any] = {"dim": self.dim, "out_dim": out_dim, "factor": factor, "norm": norm, "eps": eps}
        self.merger = Merger(**sizes, joined=False)
        self.deep = nn.ModuleList(Merger(**sizes, joined=True) for _ in range(deepstack))

    @classmethod
    def refuse(cls, num_tokens: int | None, options: Mapping[str, Any]) -> None:
        if num_tokens is None:
            raise cannot("patch_merger", "it needs a grid of tokens, and audio has none", ("downsampler", "resampler"))
        reason = misfit(num_tokens, options["factor"])
        if reason is not None:
            raise cannot("patch_merger", f"for the encoder's output, {reason}", ("linear", "mlp", "resampler", "attention_pool"))

    def num_tokens(self, n: int) -> int:
        return square_tokens("patch_merger", n, self.factor)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        if len(tokens):
            self.num_tokens(tokens.shape[1])  # refuses what is no grid of such squares
        squares, real = joined_squares(tokens, mask, None, self.factor)
        return self._merged(squares), real

    def on_grids(
        self, tokens: Tensor, mask: Tensor, grids: Int64[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        squares, real = joined_squares(tokens, mask, grids, self.factor)
        return self._merged(squares), real

    def _merged(self, squares: Float[Tensor, "batch new_tokens square in_dim"]) -> Float[Tensor, "batch new_tokens _"]:
        parts = squares.flatten(0, 1).split(self.dim, dim=-1)
        found = [merger(part) for merger, part in zip([self.merger, *self.deep], parts, strict=True)]
        return torch.cat(found, dim=-1).unflatten(0, squares.shape[:2])
