"""Vision Transformer.

Paper: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words" (arXiv 2010.11929). References: timm
``vision_transformer.py``; for the CLIP flavour openai/CLIP ``model.py``.

Where we differ: one class for the plain, CLIP and SigLIP flavours, told apart by what is there (class token, norm before
the blocks, patch bias, pooling), never by the name.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.patch import PatchEmbedding
from zoo.layers.pool import AttentionPool
from zoo.layers.position import resize_positions
from zoo.layers.transformer import Block, drop_path_rates
from zoo.registry import register
from zoo.types import Encoded

POOLS = ("cls", "mean", "mean_norm", "attention", "none")
INITS = ("timm", "clip")


@register("encoder")
class ViT(nn.Module):
    """Image to ``[class token, registers, patches in row-major order]``, normalised, and one pooled vector.

    Args:
        image_size: nominal height and width in pixels; other sizes resize the position table.
        pool: "cls" takes the class token, "mean" the mean of the normalised patch tokens, "mean_norm" normalises the mean
            instead of the tokens (timm's "avg", as in MAE), "attention" asks the patch tokens with a learned query, "none"
            gives no pooled vector.
        pre_norm: LayerNorm between the positions and the first block (CLIP).
        antialias: resize positions as timm and open_clip do (True) or as transformers does (False).
        init: "timm" (truncated normal 0.02) or "clip" (openai/CLIP).
        preprocessing: keywords of the image processor that the weights were trained with; a system's config may override them.

    Raises:
        ConfigError: sizes that do not divide, an unknown name, "cls" without a class token.
    """

    modality = "image"
    no_weight_decay = ("class_token", "registers", "positions", "probe")

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        eps: float = 1e-6,
        class_token: bool = True,
        num_registers: int = 0,
        patch_bias: bool = True,
        pre_norm: bool = False,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        pool: str = "cls",
        antialias: bool = True,
        init: str = "timm",
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for key, value, legal in (("pool", pool, POOLS), ("init", init, INITS)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        if pool == "cls" and not class_token:
            raise ConfigError("pool: 'cls' needs class_token=true; without one choose 'mean', 'attention' or 'none'")
        self.dim, self.image_size, self.pool, self.antialias = dim, image_size, pool, antialias
        self.gives_pooled = pool != "none"
        self.preprocessing = dict(preprocessing or {})
        self.patch = PatchEmbedding(image_size=image_size, patch_size=patch_size, dim=dim, bias=patch_bias)
        self.class_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.registers = nn.Parameter(torch.empty(1, num_registers, dim)) if num_registers else None
        self.positions = nn.Parameter(torch.empty(1, int(class_token) + self.patch.grid**2, dim))
        self.pre_norm = nn.LayerNorm(dim, eps=eps) if pre_norm else nn.Identity()
        hidden_dim = int(dim * mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(
                dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps, layer_scale=layer_scale, drop_path=rate
            )
            for rate in drop_path_rates(drop_path, depth)
        )
        self.norm = nn.Identity() if pool == "mean_norm" else nn.LayerNorm(dim, eps=eps)
        self.pool_norm = nn.LayerNorm(dim, eps=eps) if pool == "mean_norm" else nn.Identity()
        self.attention_pool = (
            AttentionPool(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps)
            if pool == "attention"
            else None
        )
        self._initialise(init)

    @property
    def num_prefix_tokens(self) -> int:
        """Class token and registers, which come before the patches."""
        return int(self.class_token is not None) + (0 if self.registers is None else self.registers.shape[1])

    def forward(self, pixels: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch ..."] | None = None) -> Encoded:
        """``mask`` is accepted for the contract; images have no padding."""
        x = self.pre_norm(self._embed(pixels))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Encoded(x, self._pooled(x), torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    def _embed(self, pixels: Tensor) -> Float[Tensor, "batch num_tokens dim"]:
        patches = self.patch(pixels)  # [B, dim, rows, columns]
        prefix = int(self.class_token is not None)
        grid = (self.patch.grid, self.patch.grid)
        new_grid = (patches.shape[2], patches.shape[3])
        positions = resize_positions(self.positions[:, prefix:], grid, new_grid, antialias=self.antialias)
        tokens = [patches.flatten(2).transpose(1, 2) + positions]  # [B, patches, dim]
        if self.registers is not None:
            tokens.insert(0, self.registers.expand(len(pixels), -1, -1))  # registers carry no position (DINOv2)
        if self.class_token is not None:
            tokens.insert(0, (self.class_token + self.positions[:, :1]).expand(len(pixels), -1, -1))
        return torch.cat(tokens, dim=1)  # [B, prefix + patches, dim]

    def _pooled(self, x: Tensor) -> Float[Tensor, "batch dim"] | None:
        if self.pool == "cls":
            return x[:, 0]
        patches = x[:, self.num_prefix_tokens :]
        if self.pool in ("mean", "mean_norm"):
            return self.pool_norm(patches.mean(1))
        return self.attention_pool(patches) if self.attention_pool is not None else None

    def _initialise(self, init: str) -> None:
        scale = self.dim**-0.5 if init == "clip" else 0.02
        nn.init.trunc_normal_(self.positions, std=scale)
        for token in (self.class_token, self.registers):
            if token is not None:
                nn.init.normal_(token, std=scale if init == "clip" else 1e-6)
        if self.attention_pool is not None:
            nn.init.trunc_normal_(self.attention_pool.probe, std=scale)
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            if init == "timm":
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif name.endswith("qkv"):
                nn.init.xavier_uniform_(module.weight)
            if init == "timm" or "attention" in name:
                nn.init.zeros_(module.bias)
