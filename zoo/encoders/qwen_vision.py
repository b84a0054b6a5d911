"""Vision Transformer with rotary rows and columns, and windows: pictures of different sizes as one list of patches (Qwen-VL).

The image towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, and, with a final norm, an encoder for any head: CLIP, a classifier, LLaVA.

Papers: Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191), section 2.1; Bai et al. 2025, "Qwen2.5-VL" (arXiv 2502.13923), section 2.1.1; Qwen
team 2025, "Qwen3-VL" (arXiv 2511.21631). References: transformers 5.17, ``modeling_qwen2_vl.py``, ``modeling_qwen2_5_vl.py``,
``modeling_qwen3_vl.py``.

Where we differ: one class covers the three towers, which differ in their parts (norm, feed-forward part, windows, learned positions,
outputs of earlier blocks); patches come row by row, not in the order of merged squares, which changes no output; the squares are merged by
the connector ``patch_merger``. A final norm and attention pooling are ours, after SigLIP's tower.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.attention import refuse_uneven_heads
from zoo.layers.decoder import CausalAttention, DecoderBlock
from zoo.layers.linear import Linear
from zoo.layers.mlp import feed_forward
from zoo.layers.norm import build_norm
from zoo.layers.patch_list import refuse_patches
from zoo.layers.picture_lists import OneGrid, PictureList
from zoo.layers.pool import AttentionPool, masked_mean
from zoo.layers.position import resize_positions
from zoo.layers.rope import Rotary, Turn
from zoo.layers.select import find_layers, find_state
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real, on_host

POOLS = ("mean", "attention")


@register("encoder")
class QwenVision(Encoder):
    """Image encoder of patches; its tokens are the outputs of the last block, in row-major order.

    Args:
        image_size: nominal height and width in pixels, for checks; pictures may have any whole number of patches.
        hidden_dim: width of the feed-forward layers.
        norm: "layer" (Qwen2-VL, 3-VL) or "rms" (2.5-VL).
        activation: of the feed-forward layers: "quick_gelu" (2-VL), "swiglu" (2.5-VL), "gelu_tanh" (3-VL).
        patch_bias: bias of the patch projection (3-VL).
        position_grid: rows and columns of a table of learned positions, which is resized to each picture (3-VL: 48); None: no table.
        window: side of the squares of patches inside which most blocks attend (2.5-VL: 8); None: all attend to the whole picture.
        full_layers: blocks that attend to the whole picture although there is a window; 0 is the first, -1 the last.
        deepstack: earlier blocks whose outputs stand behind those of the last block, so that tokens are wider (3-VL: DeepStack).
        frames: pictures that one patch projects; a still is repeated so often (2: pairs of frames of a video).
        final_norm: norm behind the last block; the towers of Qwen-VL have none. Not with ``deepstack``.
        pool: "mean" of the tokens, or "attention": pooling by attention with a learned query (SigLIP).
        rope_theta: theta of the rotary positions.
        preprocessing: keywords of the image processor that the weights were trained with; a system's config may override them.

    Raises:
        ConfigError: widths and numbers of heads do not fit, a name is unknown, a block does not exist, or ``final_norm`` and ``deepstack``
            are given together.
        DataError: (forward) patches and grids do not fit one another.
    """

    modality = "image"
    patch_size: int
    takes_patches = True
    no_weight_decay = ("positions", "probe")
    silent_keywords = ("num_heads", "activation", "eps", "window", "full_layers", "deepstack", "rope_theta", "frames", "pool")

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 14,
        dim: int = 1280,
        depth: int = 32,
        num_heads: int = 16,
        hidden_dim: int = 5120,
        norm: str = "layer",
        activation: str = "quick_gelu",
        eps: float = 1e-6,
        patch_bias: bool = False,
        position_grid: int | None = None,
        window: int | None = None,
        full_layers: Sequence[int] = (),
        deepstack: Sequence[int] = (),
        frames: int = 2,
        rope_theta: float = 10_000.0,
        final_norm: bool = False,
        pool: str = "mean",
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        head_dim = dim // num_heads
        _refuse_numbers(image_size, patch_size, head_dim, window, frames)
        if pool not in POOLS:
            raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
        self.image_size, self.patch_size, self.frames = image_size, patch_size, frames
        self.window, self.full_layers = window, frozenset(find_layers(full_layers, depth))
        self.read_layers = find_layers(deepstack, depth)
        if final_norm and self.read_layers:
            raise ConfigError(f"final_norm: true with deepstack {list(deepstack)}; it has the width of one layer, so use one of the two")
        self.dim = dim * (1 + len(self.read_layers))
        self.preprocessing = dict(preprocessing or {})
        self.patch = Linear(3 * frames * patch_size**2, dim, bias=patch_bias)  # rows: the weight of a convolution, flattened
        self.position_grid = position_grid
        self.positions = None if position_grid is None else nn.Parameter(torch.empty(1, position_grid**2, dim))
        self.rotary = Rotary(head_dim=head_dim // 2, theta=rope_theta)  # half of the pairs turn by the row, half by the column
        self.blocks = nn.ModuleList(
            DecoderBlock(
                dim=dim,
                attention=CausalAttention(dim=dim, num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim, bias=True),
                mlp=feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation),
                norm=norm,
                eps=eps,
            )
            for _ in range(depth)
        )
        self.norm = build_norm(norm, dim, eps) if final_norm else nn.Identity()
        pooled: dict[str, Any] = {"dim": self.dim, "num_heads": num_heads, "hidden_dim": hidden_dim, "activation": activation, "eps": eps}
        self.attention_pool = None if pool == "mean" else AttentionPool(**pooled)
        self._initialise()

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Replace negative numbers of blocks, which count from the end."""
        return {**keywords, **{key: find_layers(keywords[key], keywords["depth"]) for key in ("full_layers", "deepstack")}}

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch ..."] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode images of one size to tokens [batch, num_tokens, dim].

        Args:
            mask: ignored; all encoders accept one, but images have no padding.

        Raises:
            DataError: the image has no whole number of patches.
        """
        return self.patches(pixels)

    def patches(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        mask: Bool[Tensor, "batch ..."] | None = None,
        *,
        layer: int | None = None,
        class_token: bool = False,
    ) -> Encoded:
        """Return the tokens of one layer; see ``Encoder.patches``. There is no class token.

        Raises:
            ConfigError: ``layer`` does not exist; with ``deepstack`` it is ignored.
            DataError: the image has no whole number of patches.
        """
        sides = [side // self.patch_size for side in pixels.shape[2:]]
        if any(number * self.patch_size != side for number, side in zip(sides, pixels.shape[2:], strict=True)):
            raise DataError(
                f"images have {list(pixels.shape[2:])} pixels, which are no whole number of patches of {self.patch_size}; resize them to "
                "multiples of it, for example with tiler fit"
            )
        cut = pixels.unflatten(3, (sides[1], -1)).unflatten(2, (sides[0], -1))  # [B, 3, rows, patch, columns, patch]
        cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, rows * columns, 3 * patch * patch]
        x = self._run(cut, OneGrid((sides[0], sides[1]), self.window, pixels.device), layer)
        return Encoded(x, x.mean(1) if self.attention_pool is None else self.attention_pool(x), all_real(x.shape[:2], x.device))

    def encode_patches(
        self,
        patches: Float[Tensor, "total patch_dim"],
        grids: Int64[Tensor, "items 2"],
        *,
        reads: str = "tokens",
        layer: int | None = None,
        class_token: bool = False,
    ) -> Encoded:
        """Encode pictures of different sizes; each attends to itself only, and no padding is computed.

        Args:
            patches: of all pictures, row by row; 3 * patch_size ** 2 values each, in the order channel, row, column. If they have
                ``frames`` times as many values, in the order channel, frame, row, column, nothing is repeated.
            grids: rows and columns of patches of each picture.
            reads: all outputs are the same tokens.
            layer: see ``patches``.
            class_token: ignored; there is none.

        Raises:
            ConfigError: ``layer`` does not exist; with ``deepstack`` it is ignored.
            DataError: patches and grids do not fit one another.
        """
        width = 3 * self.patch_size**2
        several = self.frames > 1 and patches.shape[-1] == width * self.frames
        refuse_patches(patches[:, :width] if several else patches, grids, self.patch_size)
        places = PictureList([(rows, columns) for rows, columns in on_host(grids).tolist()], window=self.window, device=patches.device)
        x = places.unpack(self._run(places.pack(patches), places, layer))
        pooled = masked_mean(x, places.mask) if self.attention_pool is None else self.attention_pool(x, places.mask)
        return Encoded(x, pooled, places.mask)

    def _run(self, patches: Float[Tensor, "*tokens patch_dim"], places: PictureList | OneGrid, layer: int | None) -> Tensor:
        """Return the tokens of a list of patches, or of a batch of pictures of one size, in the order in which they came."""
        layer = None if self.read_layers else layer  # tokens hold several layers already
        if patches.shape[-1] == 3 * self.patch_size**2:  # a still
            shape = (*patches.shape[:-1], 3, self.frames, self.patch_size**2)
            patches = patches.unflatten(-1, (3, 1, -1)).expand(shape).flatten(-3)
        x = self.patch(patches)
        if self.positions is not None:
            x = x + places.pack(self._learned(places.grids))
        calls = places.calls(self._turn(places))
        read = []
        for number, block in enumerate(self.blocks[: find_state(layer, len(self.blocks))]):
            x = block(x, calls[int(self.window is not None and number not in self.full_layers)], number)
            if number in self.read_layers:
                read.append(x)
        x = self.norm(x) if layer is None else x
        return torch.cat([x, *read], dim=-1) if read else x

    def _turn(self, places: PictureList | OneGrid) -> Turn:
        tables = [self.rotary.tables(axis) for axis in (places.rows, places.columns)]
        cos, sin = (torch.cat(pair, dim=-1) for pair in zip(*tables, strict=True))
        return Turn(cos, sin)

    def _learned(self, grids: Sequence[tuple[int, int]]) -> Float[Tensor, "total dim"]:
        """Return the learned positions of all patches, resized to each picture."""
        assert self.positions is not None and self.position_grid is not None
        side = (self.position_grid, self.position_grid)
        rule: dict[str, Any] = {"mode": "bilinear", "antialias": False, "align_corners": True}
        made = {grid: resize_positions(self.positions, side, grid, **rule)[0] for grid in dict.fromkeys(grids)}
        return torch.cat([made[grid] for grid in grids])

    def _initialise(self) -> None:
        if self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=0.02)
        if self.attention_pool is not None:
            nn.init.trunc_normal_(self.attention_pool.probe, std=self.dim**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _refuse_numbers(image_size: int, patch_size: int, head_dim: int, window: int | None, frames: int) -> None:
    if patch_size < 1 or image_size < 1 or image_size % patch_size:
        raise ConfigError(f"image_size: {image_size} is no multiple of patch_size {patch_size}; allowed are multiples of it")
    if head_dim % 4:
        raise ConfigError(f"num_heads: heads have {head_dim} channels; allowed are multiples of 4, which turn by rows and by columns")
    if frames < 1 or (window is not None and window < 1):
        raise ConfigError(f"frames: got {frames}, window: got {window}; allowed are 1 or more, and null for no window")
