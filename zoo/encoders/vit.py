"""Vision Transformer.

Paper: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words" (arXiv 2010.11929); registers: Darcet et al. 2023 (arXiv
2309.16588). References: timm ``vision_transformer.py``; for the CLIP flavour openai/CLIP ``model.py``.

Where we differ: one class covers the plain, CLIP, SigLIP and DINOv2 variants. They differ in their components (class token,
registers, norm before the blocks, patch bias, layer scale, pooling), not in a variant name. ``tokens`` are normalised, except with
the pool "mean_norm". CLIP towers normalise only the class token (transformers' ``CLIPVisionModel``: ``last_hidden_state`` is not
normalised, ``pooler_output`` is); ``intermediates`` gives the tokens without the norm.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.intermediates import as_output, block_outputs
from zoo.layers.mlp import hidden_width
from zoo.layers.patch import PatchEmbedding
from zoo.layers.patch_list import Pictures, grid_positions, refuse_patches
from zoo.layers.pool import AttentionPool, masked_mean
from zoo.layers.position import RESAMPLINGS, resize_positions
from zoo.layers.select import find_layers, find_state, select_places
from zoo.layers.transformer import Block, drop_path_rates
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real, follow

POOLS = ("cls", "cls_tanh", "mean", "mean_norm", "attention", "concat", "none")
INITS = ("timm", "clip", "jax")


class Joined(nn.Module):
    """Projection of the concatenated vectors of several layers to one: BatchNorm, then one linear layer, or two with GELU between.

    Channel magnitudes differ by a factor of up to 100. BatchNorm without gain and bias equalises them (He et al. 2021, MAE, arXiv
    2111.06377, appendix A.1).

    Args:
        width: number of input channels.
        dim: number of output channels.
        hidden_dim: width between two linear layers; None is a single linear layer.
        dropout: dropout rate before each linear layer.
    """

    def __init__(self, width: int, dim: int, *, hidden_dim: int | None, dropout: float) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm1d(width, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(width, hidden_dim) if hidden_dim is not None else None
        self.project = nn.Linear(hidden_dim or width, dim)

    def forward(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch dim"]:
        x = self.dropout(self.standardise(x))
        if self.hidden is not None:
            x = self.dropout(F.gelu(self.hidden(x)))
        return self.project(x)


@register("encoder")
class ViT(Encoder):
    """Image encoder that gives normalised tokens ``[class token, registers, patches in row-major order]`` and one pooled vector.

    Args:
        image_size: nominal height and width in pixels; other sizes resize the position table.
        mlp_ratio: width between the two feed-forward layers, in multiples of ``dim``; the product is rounded down.
        activation: one of ``zoo.layers.mlp.ACTIVATIONS``, or "swiglu" (DINOv2's giant).
        num_registers: number of additional learned tokens, without position, after the class token (DINOv2).
        pool: "cls" takes the class token; "cls_tanh" adds a linear layer and tanh to it (transformers' ``ViTModel``, the paper's
            pre-logits); "mean" takes the mean of the normalised patch tokens; "mean_norm" normalises the mean instead of the tokens
            (timm's "avg", as in MAE); "attention" pools the patch tokens by attention with a learned query; "concat" concatenates
            the class token and the patch mean after each of ``pool_layers`` (the features on which DINOv2 is evaluated: Oquab et
            al. 2023, arXiv 2304.07193, appendix B.3) and projects them to ``dim`` (``Joined``); "none" gives no pooled vector.
        pool_layers: blocks that "concat" reads; 0 is the first, -1 the last.
        pool_hidden_dim: for "concat", width between two linear layers; None is a single linear layer.
        pool_dropout: for "concat", the dropout rate in training.
        pre_norm: LayerNorm between the positions and the first block (CLIP).
        final_norm: LayerNorm behind the last block; InternViT has none.
        layer_scale: initial factor of each residual branch; None disables layer scale.
        drop_path: largest rate of stochastic depth; the rate rises linearly over the blocks.
        drop_remainder: ignore pixels at the right and lower edge that do not fill a patch; if False, such sizes raise an error.
        antialias: resize positions as timm and open_clip do (True) or as transformers does (False; DINOv2 with registers: True).
        resampling: rule by which positions are resized: "bicubic", "bilinear" (SigLIP 2 NaFlex) or "lookup" (Idefics3).
        init: "timm" (truncated normal 0.02), "clip" (openai/CLIP) or "jax" (Google's: Xavier uniform).
        preprocessing: keywords of the image processor that the weights were trained with; a system's config may override them.

    Raises:
        ConfigError: ``image_size`` is not a multiple of ``patch_size``, a name is unknown, or "cls" is used without a class token.
    """

    modality = "image"
    takes_patches = True
    no_weight_decay = ("class_token", "registers", "positions", "probe")
    silent_keywords = ("num_heads", "activation", "eps", "pool")
    # digits, zero-shot (clip_vit_nano, both towers): 97.77 % as in fp32 (scripts/benchmarks/quality.py)
    low_precision = {"int8": ()}
    # ``attention_pool`` is not among them: its probe needs all tokens, so there is no small vector to cache before it.
    after_features = ("pooler",)  # the submodules that ``from_features`` applies

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
        final_norm: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        pool: str = "cls",
        pool_layers: Sequence[int] = (-4, -3, -2, -1),
        pool_hidden_dim: int | None = None,
        pool_dropout: float = 0.0,
        drop_remainder: bool = False,
        antialias: bool = True,
        resampling: str = "bicubic",
        init: str = "timm",
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for key, value, legal in (("pool", pool, POOLS), ("init", init, INITS), ("resampling", resampling, RESAMPLINGS)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        if (pool.startswith("cls") or pool == "concat") and not class_token:
            raise ConfigError(f"pool: {pool!r} needs class_token=true; for class_token=false choose mean, mean_norm, attention or none")
        self.pool_layers = find_layers(pool_layers, depth) if pool == "concat" else []
        self.dim, self.image_size, self.pool, self.patch_size = dim, image_size, pool, patch_size
        self.resizing = {"mode": resampling, "antialias": antialias}
        self.gives_pooled = pool != "none"
        self.preprocessing = dict(preprocessing or {})
        # patch_bias is False in CLIP: its pre_norm comes directly after the positions, which can already shift each channel.
        self.patch = PatchEmbedding(image_size=image_size, patch_size=patch_size, dim=dim, bias=patch_bias, drop_remainder=drop_remainder)
        self.class_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.registers = nn.Parameter(torch.empty(1, num_registers, dim)) if num_registers else None
        # One position for the class token, one per patch, none for registers (DINOv2).
        self.positions = nn.Parameter(torch.empty(1, int(class_token) + self.patch.grid**2, dim))
        self.pre_norm = nn.LayerNorm(dim, eps=eps) if pre_norm else nn.Identity()
        hidden_dim = hidden_width(dim, mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(
                dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps, layer_scale=layer_scale, drop_path=rate
            )
            for rate in drop_path_rates(drop_path, depth)
        )
        # "mean_norm" applies the final norm after the mean, so its tokens stay unnormalised (timm's fc_norm).
        self.norm = nn.LayerNorm(dim, eps=eps) if final_norm and pool != "mean_norm" else nn.Identity()
        self.pool_norm = nn.LayerNorm(dim, eps=eps) if pool == "mean_norm" else nn.Identity()
        self.pooler = nn.Linear(dim, dim) if pool == "cls_tanh" else None
        if pool == "concat":
            width = 2 * dim * len(self.pool_layers)  # class token and patch mean of each layer
            self.pooler = Joined(width, dim, hidden_dim=pool_hidden_dim, dropout=pool_dropout)
        self.attention_pool = (
            AttentionPool(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps)
            if pool == "attention"
            else None
        )
        self._initialise(init)

    @property
    def has_class_token(self) -> bool:
        """True if the first token is a class token."""
        return self.class_token is not None

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: the class token and the registers."""
        return int(self.class_token is not None) + (0 if self.registers is None else self.registers.shape[1])

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch ..."] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode images to tokens [batch, num_tokens, dim] and pooled vectors [batch, dim].

        Args:
            mask: ignored; all encoders accept one, but images have no padding.

        Raises:
            DataError: the image size does not fit ``patch_size``.
        """
        x, features = self._run(pixels)
        return Encoded(x, self._finished(features), all_real(x.shape[:2], x.device))

    def features(self, x: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch ..."] | None = None) -> Float[Tensor, "batch _"]:
        """Return the input of the pooler's weights; if only these are trained, it can be computed once and cached."""
        features = self._run(x)[1]
        assert features is not None
        return features

    def from_features(self, features: Float[Tensor, "batch _"]) -> Encoded:
        """Apply the pooler to cached ``features``; the only tokens of the result are the pooled vectors."""
        pooled = self._finished(features)
        assert pooled is not None
        return Encoded.of_pooled(pooled)

    def _run(self, pixels: Tensor) -> tuple[Float[Tensor, "batch num_tokens dim"], Float[Tensor, "batch _"] | None]:
        """Return normalised tokens, and the pooled vector before the pooler; the vector is None if the pool is "none"."""
        x, read = self._embed(pixels), {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.pool_layers:
                read[i] = self.norm(x)  # DINOv2 applies the final norm to every layer that it reads
        x = self.norm(x)
        return x, self._joined([read[i] for i in self.pool_layers]) if read else self._pooled(x)

    def _finished(self, features: Tensor | None) -> Float[Tensor, "batch dim"] | None:
        if self.pooler is None or features is None:
            return features
        return self.pooler(features).tanh() if self.pool == "cls_tanh" else self.pooler(features)

    def patches(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        mask: Bool[Tensor, "batch ..."] | None = None,
        *,
        layer: int | None = -2,
        class_token: bool = False,
    ) -> Encoded:
        """Return the patch tokens of one layer, without the final norm (as LLaVA reads them) unless ``layer`` is None.

        Args:
            layer: index as in transformers' ``hidden_states``: -1 is the output of the last block, -2 that of the block before, 0 the
                input of the first block. None is the output of the last block with the final norm. Later blocks are not computed.
            class_token: put the class token, if there is one, before the patches (as Kosmos reads them); registers are never included.

        Raises:
            ConfigError: ``layer`` does not exist.
        """
        x = self._embed(pixels)
        for block in self.blocks[: find_state(layer, len(self.blocks))]:
            x = block(x)
        x = self.norm(x) if layer is None else x
        x = select_places(x, self.num_prefix_tokens, first=class_token and self.class_token is not None)
        return Encoded(x, None, all_real(x.shape[:2], x.device))

    def encode_patches(
        self,
        patches: Float[Tensor, "total values"],
        grids: Int64[Tensor, "items 2"],
        *,
        reads: str = "tokens",
        layer: int | None = None,
        class_token: bool = False,
    ) -> Encoded:
        """Encode pictures of different sizes, each with positions of its own grid; see ``Encoder``.

        Raises:
            ConfigError: ``layer`` does not exist.
            DataError: the number or length of the patches does not fit.
        """
        refuse_patches(patches, grids, self.patch.patch_size)
        drops = self.training and any(cast(Block, block).drop_path.rate > 0 for block in self.blocks)  # by item: needs the padded batch
        pictures = Pictures(grids, prefix=self.num_prefix_tokens, device=patches.device, packed=not drops)
        x, read, shown = pictures.with_prefix(*self._embed_list(patches, grids)), {}, reads == "patches"
        x = self.pre_norm(x)
        for i, block in enumerate(self.blocks[: find_state(layer if shown else None, len(self.blocks))]):
            x = pictures.run(block, x)
            if not shown and i in self.pool_layers:
                read[i] = pictures.padded(self.norm(x))
        if not shown or layer is None:
            x = self.norm(x)
        x, mask = pictures.padded(x), pictures.mask
        if shown:
            with_class = class_token and self.class_token is not None
            mask = follow(lambda m: select_places(m, self.num_prefix_tokens, first=with_class), mask)
            return Encoded(select_places(x, self.num_prefix_tokens, first=with_class), None, mask)
        pooled = self._joined([read[i] for i in self.pool_layers], mask) if read else self._pooled(x, mask)
        return Encoded(x, self._finished(pooled), mask)

    def _embed_list(self, patches: Tensor, grids: Tensor) -> tuple[Float[Tensor, "total dim"], Float[Tensor, "prefix dim"] | None]:
        """Return the embedded patches of a list, with positions, and the prefix tokens of each picture."""
        project, prefix = self.patch.project, int(self.class_token is not None)
        if type(project) is nn.Conv2d:  # the same sum as a linear layer, which is faster
            x = F.linear(patches, project.weight.flatten(1), project.bias)  # [total, dim]
        else:  # with an adapter
            x = project(patches.unflatten(1, (3, self.patch.patch_size, -1))).flatten(1)
        x = x + grid_positions(self.positions[:, prefix:], (self.patch.grid, self.patch.grid), grids, **self.resizing)
        first = [] if self.class_token is None else [(self.class_token + self.positions[:, :1])[0]]
        first += [] if self.registers is None else [self.registers[0]]
        return x, torch.cat(first) if first else None

    def intermediates(
        self,
        x: Float[Tensor, "batch 3 height width"],
        layers: Sequence[int] | None = None,
        *,
        mask: Bool[Tensor, "batch ..."] | None = None,
        normalise: bool = False,
        output: str = "tokens",
    ) -> list[Tensor]:
        """Return the outputs of the chosen blocks; with ``normalise``, -1 equals the tokens of ``forward``. See ``Encoder``."""
        found = block_outputs(self, list(self.blocks), x, None, layers)
        return as_output([self.norm(each) if normalise else each for each in found], output, x, self.num_prefix_tokens)

    def attention_maps(
        self, pixels: Float[Tensor, "batch 3 height width"], layers: Sequence[int] | None = None
    ) -> list[Float[Tensor, "batch num_heads queries keys"]]:
        """Return the attention weights of the chosen blocks; they sum to 1 over the keys.

        Args:
            layers: indices of blocks, 0 is the first and -1 the last; the result has the same order. None chooses all.

        Raises:
            ConfigError: a block does not exist.
        """
        wanted = find_layers(layers, len(self.blocks))
        found, x = {}, self._embed(pixels)
        for i in range(max(wanted, default=-1) + 1):
            x = self.blocks[i - 1](x) if i else x  # the weights of block i need its input only, so block i itself does not run
            if i in wanted:
                block = cast(Block, self.blocks[i])
                found[i] = block.attention.weights(block.norm1(x))
        return [found[i] for i in wanted]

    def _embed(self, pixels: Tensor) -> Float[Tensor, "batch num_tokens dim"]:
        patches = self.patch(pixels)  # [B, dim, rows, columns]
        prefix = int(self.class_token is not None)
        grid = (self.patch.grid, self.patch.grid)
        new_grid = (patches.shape[2], patches.shape[3])
        # The class token's position is no place in the grid, so it is not resized.
        positions = resize_positions(self.positions[:, prefix:], grid, new_grid, **self.resizing)
        tokens = [patches.flatten(2).transpose(1, 2) + positions]  # [B, patches, dim]
        if self.registers is not None:
            tokens.insert(0, self.registers.expand(pixels.shape[0], -1, -1))  # registers have no position (DINOv2)
        if self.class_token is not None:
            tokens.insert(0, (self.class_token + self.positions[:, :1]).expand(pixels.shape[0], -1, -1))
        return self.pre_norm(torch.cat(tokens, dim=1))  # [B, prefix + patches, dim]

    def _pooled(self, x: Tensor, mask: Tensor | None = None) -> Float[Tensor, "batch dim"] | None:
        if self.pool in ("cls", "cls_tanh"):
            return x[:, 0]
        if self.pool in ("mean", "mean_norm"):
            return self.pool_norm(self._patch_mean(x, mask))
        if self.attention_pool is None:
            return None
        real = None if mask is None else mask[:, self.num_prefix_tokens :]
        return self.attention_pool(x[:, self.num_prefix_tokens :], real)

    def _patch_mean(self, x: Tensor, mask: Tensor | None) -> Float[Tensor, "batch dim"]:
        patches = x[:, self.num_prefix_tokens :]
        return patches.mean(1) if mask is None else masked_mean(patches, mask[:, self.num_prefix_tokens :])

    def _joined(self, layers: Sequence[Tensor], mask: Tensor | None = None) -> Float[Tensor, "batch _"]:
        parts = [part for x in layers for part in (x[:, 0], self._patch_mean(x, mask))]
        return torch.cat(parts, dim=-1)  # [B, 2 * layers * dim]

    def _initialise(self, init: str) -> None:
        width = self.dim**-0.5  # openai/CLIP's ``scale``
        scale = width if init == "clip" else 0.02
        nn.init.trunc_normal_(self.positions, std=scale)
        for token in (self.class_token, self.registers):
            if token is not None:
                nn.init.normal_(token, std=scale if init == "clip" else 1e-6)  # 1e-6: timm
        if self.attention_pool is not None:
            nn.init.trunc_normal_(self.attention_pool.probe, std=width)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                FILLS[init](module, name)
        if init == "jax":
            self._initialise_rest_as_jax()

    def _initialise_rest_as_jax(self) -> None:
        _fill_lecun(self.patch.project)
        if self.class_token is not None:
            nn.init.zeros_(self.class_token)  # registers stay random: they have no position, so zero ones would remain identical
        if self.attention_pool is not None:
            nn.init.xavier_uniform_(self.attention_pool.probe.data[0])  # [1, dim]


def _fill_timm(module: nn.Linear, name: str) -> None:
    nn.init.trunc_normal_(module.weight, std=0.02)
    nn.init.zeros_(module.bias)


def _fill_clip(module: nn.Linear, name: str) -> None:
    """Initialise like torch's MultiheadAttention and Linear, whose defaults openai/CLIP keeps."""
    if name.endswith("qkv"):
        nn.init.xavier_uniform_(module.weight)
    if "attention" in name:
        nn.init.zeros_(module.bias)


def _fill_jax(module: nn.Linear, name: str) -> None:
    """Initialise as google-research/vision_transformer ``models_vit.py`` does.

    There, query, key and value are separate matrices, so each part of our joined matrix is initialised separately.
    """
    if name == "pooler":
        return _fill_lecun(module)
    several = name.endswith(("qkv", "key_value"))
    for matrix in module.weight.data.split(module.in_features if several else module.out_features):
        nn.init.xavier_uniform_(matrix)
    if "mlp" in name:
        nn.init.normal_(module.bias, std=1e-6)
    else:
        nn.init.zeros_(module.bias)


def _fill_lecun(module: nn.Linear | nn.Conv2d) -> None:
    """Initialise by flax's default: variance 1 / fan-in, truncated at two standard deviations; the factor 0.8796 corrects the variance."""
    std = module.weight[0].numel() ** -0.5 / 0.87962566103423978
    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


FILLS = {"timm": _fill_timm, "clip": _fill_clip, "jax": _fill_jax}
