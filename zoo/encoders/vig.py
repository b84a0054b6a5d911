"""Vision GNN: an image as a graph of patches whose edges are recomputed in every block.

Paper: Han et al. 2022, "Vision GNN: An Image is Worth Graph of Nodes" (arXiv 2206.00272). Reference:
huawei-noah/Efficient-AI-Backbones, ``vig_pytorch/vig.py`` and ``pyramid_vig.py``.

Where we differ:

* One class covers the isotropic and the pyramid form (a list of stages).
* 1x1 convolutions are linear layers on tokens.
* Any image size is accepted: positions are resized, and neighbours and dilation shrink if there are fewer nodes.
* The classifier is a separate head (``classifier_vig``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.layers.conv_bn import NormedConv, NormedLinear
from zoo.layers.drop import DropPath
from zoo.layers.graph import MaxRelativeUpdate, max_over_neighbours, nearest_neighbours, relative_positions_2d
from zoo.layers.intermediates import as_output, block_outputs
from zoo.layers.position import resize_positions
from zoo.layers.select import find_layers
from zoo.layers.transformer import drop_path_rates
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real

GROUPS = 4  # groups of the graph convolution's update (the paper's "multi-head"); the same in every published size


@dataclass
class Graph:
    """Edges of the graph that one block computes.

    Attributes:
        neighbours: index of each neighbour among the candidates (row-major on ``candidate_grid``), nearest first.
        distances: squared distance of the unit vectors, plus the relative position term if the model has one.
        shares: share of the channels (0 to 1) in which this neighbour has the maximum and so determines the node's update.
        grid: rows and columns of the nodes.
        candidate_grid: rows and columns of the candidates: ``grid`` divided by the block's reduction.
    """

    neighbours: Int[Tensor, "batch nodes neighbors"]
    distances: Float[Tensor, "batch nodes neighbors"]
    shares: Float[Tensor, "batch nodes neighbors"]
    grid: tuple[int, int]
    candidate_grid: tuple[int, int]


class Stem(nn.Module):
    """Convolutional stem: log2(patch_size) convolutions that each halve the image and double the width, then one of stride 1.

    Raises:
        ConfigError: ``patch_size`` is not a power of two from 2 on, or ``dim`` is not divisible as the widths require.
    """

    def __init__(self, *, patch_size: int, dim: int) -> None:
        super().__init__()
        steps = int(log2(patch_size)) if patch_size > 1 else 0
        if 2**steps != patch_size or not steps:
            raise ConfigError(f"patch_size: {patch_size}; each convolution of the stem halves the image: allowed are 2, 4, 8, 16, 32")
        if dim % 2 ** (steps - 1):
            raise ConfigError(f"dims: {dim}; a stem of patch_size {patch_size} needs a multiple of {2 ** (steps - 1)}")
        widths = [3, *(dim // 2 ** (steps - 1 - i) for i in range(steps)), dim]
        strides = [2] * steps + [1]  # the last convolution keeps the size
        self.layers = nn.ModuleList(NormedConv(in_dim=a, out_dim=b, stride=s) for a, b, s in zip(widths, widths[1:], strides, strict=False))

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim rows columns"]:
        x = pixels.contiguous(memory_format=torch.channels_last)  # so that the output becomes tokens without a copy
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else F.gelu(x))  # no activation after the last layer, as in the reference
        return x


class Grapher(nn.Module):
    """Grapher module: linear layer, max-relative graph convolution, linear layer; only the convolution has a non-linearity.

    Source: Han et al. 2022, equations 3 to 6. Each node computes ``m = max_j (x_j - x_i)`` over its neighbours, and the update mixes
    the channels ``x_0 m_0 x_1 m_1 ...`` in four groups. Unit vectors decide which neighbours are nearest; the maximum is taken over
    the unnormalised vectors.

    Args:
        num_neighbors: number of neighbours of each node.
        dilation: of the ``num_neighbors * dilation`` nearest candidates, every ``dilation``-th becomes a neighbour.
        reduction: side of the square of nodes whose mean is one candidate.
        grid: nominal rows and columns of the relative position table; None uses no table.
    """

    def __init__(self, *, dim: int, num_neighbors: int, dilation: int, reduction: int, grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.num_neighbors, self.dilation, self.reduction = num_neighbors, dilation, reduction
        self.fc1 = NormedLinear(in_dim=dim, out_dim=dim)
        self.update = MaxRelativeUpdate(dim=dim, groups=GROUPS)
        self.fc2 = NormedLinear(in_dim=2 * dim, out_dim=dim)
        # Negative, because the table is added to distances and near nodes must get smaller values.
        table = None if grid is None else -relative_positions_2d(grid, dim=dim, reduction=reduction)
        # A parameter without gradient, not a buffer, because published checkpoints store it as a parameter.
        self.relative_positions = None if table is None else nn.Parameter(table, requires_grad=False)

    def forward(self, x: Float[Tensor, "batch nodes dim"], grid: tuple[int, int]) -> Float[Tensor, "batch nodes dim"]:
        x = self.fc1(x)
        candidates, _ = self._candidates(x, grid)
        # The choice of neighbours has no gradient; the layers learn through the values of the chosen neighbours only.
        index, _ = self._neighbours(x, candidates, grid)
        relative = max_over_neighbours(candidates, index) - x  # equal to max_j (x_j - x_i), with one subtraction
        return self.fc2(self.update(x, relative))

    def graph(self, x: Float[Tensor, "batch nodes dim"], grid: tuple[int, int]) -> Graph:
        """Return the edges that ``forward`` uses for the same tokens."""
        x = self.fc1(x)
        candidates, candidate_grid = self._candidates(x, grid)
        index, distances = self._neighbours(x, candidates, grid)
        items = torch.arange(len(x), device=x.device).view(-1, 1, 1)
        winners = candidates[items, index].argmax(2)  # [B, N, dim], the neighbour with the maximum in each channel
        shares = F.one_hot(winners, index.shape[2]).to(x.dtype).mean(2)  # [B, N, neighbors]
        return Graph(index, distances, shares, grid, candidate_grid)

    def _candidates(self, x: Tensor, grid: tuple[int, int]) -> tuple[Float[Tensor, "batch candidates dim"], tuple[int, int]]:
        side = min(self.reduction, *grid)  # a grid smaller than the square becomes a single row or column of candidates
        return (x, grid) if side == 1 else to_tokens(F.avg_pool2d(to_image(x, grid), side))

    def _neighbours(self, x: Tensor, candidates: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        table = self.relative_positions
        if table is not None and table.shape != (x.shape[1], candidates.shape[1]):
            size = (x.shape[1], candidates.shape[1])
            # The [nodes, candidates] table is resized like an image, as in the reference, although its axes are flattened grids.
            table = F.interpolate(table[None, None], size=size, mode="bicubic")[0, 0]
        return nearest_neighbours(x, candidates, num_neighbors=self.num_neighbors, dilation=self.dilation, offset=table)


class FeedForward(nn.Module):
    """Feed-forward network: linear, BatchNorm, GELU, linear, BatchNorm. Source: Han et al. 2022, equation 7."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = NormedLinear(in_dim=dim, out_dim=hidden_dim, activate=True)
        self.fc2 = NormedLinear(in_dim=hidden_dim, out_dim=dim)

    def forward(self, x: Float[Tensor, "batch nodes dim"]) -> Float[Tensor, "batch nodes dim"]:
        return self.fc2(self.fc1(x))


class ViGBlock(nn.Module):
    """ViG block: x + grapher(x), then x + feed_forward(x); the first block of each later stage halves the grid first."""

    def __init__(self, *, grapher: Grapher, feed_forward: FeedForward, downsample: NormedConv | None, drop_path: float) -> None:
        super().__init__()
        self.downsample = downsample
        self.grapher = grapher
        self.feed_forward = feed_forward
        self.drop_path = DropPath(drop_path)

    def enter(self, x: Float[Tensor, "batch nodes dim"], grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Downsample tokens to this block's grid and width, if it begins a stage; return the tokens and their grid."""
        return (x, grid) if self.downsample is None else to_tokens(self.downsample(to_image(x, grid)))

    def forward(self, x: Float[Tensor, "batch nodes dim"], grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        x, grid = self.enter(x, grid)
        x = x + self.drop_path(self.grapher(x, grid))
        return x + self.drop_path(self.feed_forward(x)), grid


@register("encoder")
class ViG(Encoder):
    """Image encoder that gives the nodes of the last stage in row-major order as tokens, and their mean.

    Args:
        image_size: nominal height and width in pixels; other sizes resize the position table.
        patch_size: pixels along one side of a node of the first stage, a power of two.
        dims: width of each stage; between two stages the grid is halved.
        depths: number of blocks of each stage.
        num_neighbors: neighbours in the first and in the last block; interpolated linearly between them and rounded down.
        reductions: for each stage, the side of the square of nodes whose mean is one candidate.
        relative: add a fixed table of relative positions to the distances (pyramid form).
        mlp_ratio: width between the two feed-forward layers, in multiples of the stage's width.
        drop_path: largest rate of stochastic depth; the rate rises linearly over the blocks.
        preprocessing: keywords of the image processor that the weights were trained with; a system's config may override them.

    Raises:
        ConfigError: the lists differ in length, or a width or size is not allowed.
        DataError: (forward) pixels do not have shape [batch, 3, height, width], or are too small for a single node.
    """

    modality = "image"
    patch_size: int

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        dims: Sequence[int] = (192,),
        depths: Sequence[int] = (12,),
        num_neighbors: Sequence[int] = (9, 18),
        reductions: Sequence[int] = (1,),
        relative: bool = False,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _refuse_stages(dims, depths, reductions, num_neighbors)
        self.image_size, self.patch_size, self.dim = image_size, patch_size, dims[-1]
        self.preprocessing = dict(preprocessing or {})
        self.stem = Stem(patch_size=patch_size, dim=dims[0])
        side = ceil(image_size / patch_size)
        self.grid = (side, side)
        self.positions = nn.Parameter(torch.zeros(1, side * side, dims[0]))  # zeros, as in the reference
        self.blocks = nn.ModuleList()
        neighbors, dilations = schedules(depths, num_neighbors, last_side=ceil(side / 2 ** (len(dims) - 1)))
        rates = drop_path_rates(drop_path, sum(depths))
        for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            grid = (ceil(side / 2**stage),) * 2 if relative else None
            for first in (i == 0 for i in range(depth)):
                i = len(self.blocks)
                grapher = Grapher(dim=dim, num_neighbors=neighbors[i], dilation=dilations[i], reduction=reductions[stage], grid=grid)
                # The first stage has no downsampling: the stem already gives its grid and width.
                downsample = NormedConv(in_dim=dims[stage - 1], out_dim=dim, stride=2) if first and stage else None
                feed_forward = FeedForward(dim=dim, hidden_dim=int(dim * mlp_ratio))
                self.blocks.append(ViGBlock(grapher=grapher, feed_forward=feed_forward, downsample=downsample, drop_path=rates[i]))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # tokens viewed as images have channels last

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch ..."] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode images to tokens [batch, nodes, dim] and their mean [batch, dim].

        Args:
            mask: ignored; all encoders accept one, but images have no padding.
        """
        x, grid = self._embed(pixels)
        for block in self.blocks:
            x, grid = block(x, grid)
        return Encoded(x, x.mean(1), all_real(x.shape[:2], x.device))

    def intermediates(
        self,
        x: Float[Tensor, "batch 3 height width"],
        layers: Sequence[int] | None = None,
        *,
        mask: Bool[Tensor, "batch ..."] | None = None,
        normalise: bool = False,
        output: str = "tokens",
    ) -> list[Tensor]:
        """Return the outputs of the chosen blocks; there is no final norm. See ``Encoder``."""
        return as_output(block_outputs(self, list(self.blocks), x, None, layers), output, x)

    @torch.no_grad()
    def graphs(self, pixels: Float[Tensor, "batch 3 height width"], layers: Sequence[int] | None = None) -> list[Graph]:
        """Return the graphs that the chosen blocks compute for these images.

        Args:
            layers: as in ``intermediates``.

        Raises:
            ConfigError: a block does not exist.
        """
        wanted = find_layers(layers, len(self.blocks))
        found: dict[int, Graph] = {}
        x, grid = self._embed(pixels)
        for i, module in enumerate(self.blocks[: max(wanted, default=-1) + 1]):
            block = cast(ViGBlock, module)
            if i in wanted:
                found[i] = block.grapher.graph(*block.enter(x, grid))
            x, grid = block(x, grid)
        return [found[i] for i in wanted]

    def _embed(self, pixels: Tensor) -> tuple[Float[Tensor, "batch nodes dim"], tuple[int, int]]:
        if pixels.ndim != 4 or pixels.shape[1] != 3 or min(pixels.shape[2:]) < self.patch_size:
            raise DataError(
                f"pixels have shape {list(pixels.shape)}; allowed is [batch, 3, height, width] with both sides at least "
                f"{self.patch_size}, the size of one node"
            )
        x, grid = to_tokens(self.stem(pixels))
        return x + resize_positions(self.positions, self.grid, grid), grid


def schedules(depths: Sequence[int], num_neighbors: Sequence[int], *, last_side: int) -> tuple[list[int], list[int]]:
    """Return the number of neighbours and the dilation of each block.

    The number of neighbours grows linearly and is rounded down (12 blocks, 9 to 18: 9 9 10 11 12 13 13 14 15 16 17 18). The dilation
    grows by one every four blocks, up to the value for which the last stage still has enough nodes.
    Source: ``vig.py``, ``DeepGCN.__init__``.

    Args:
        depths: number of blocks of each stage.
        num_neighbors: neighbours in the first and in the last block.
        last_side: rows of the last stage's grid at the nominal image size.
    """
    total, (first, last) = sum(depths), num_neighbors
    neighbors = [first + (last - first) * i // max(total - 1, 1) for i in range(total)]  # integers avoid rounding errors
    largest = max(1, last_side**2 // max(neighbors))  # dilation * neighbours may not exceed the nodes of the last stage
    return neighbors, [min(i // 4 + 1, largest) for i in range(total)]


def to_image(x: Float[Tensor, "batch nodes dim"], grid: tuple[int, int]) -> Float[Tensor, "batch dim rows columns"]:
    """Reshape tokens to an image without copying (channels last in memory)."""
    return x.unflatten(1, grid).permute(0, 3, 1, 2)  # [B, dim, rows, columns]


def to_tokens(image: Float[Tensor, "batch dim rows columns"]) -> tuple[Float[Tensor, "batch nodes dim"], tuple[int, int]]:
    """Flatten an image to tokens in row-major order; return them and their grid (rows, columns)."""
    return image.flatten(2).transpose(1, 2).contiguous(), (image.shape[2], image.shape[3])  # [B, N, dim]


def _refuse_stages(dims: Sequence[int], depths: Sequence[int], reductions: Sequence[int], num_neighbors: Sequence[int]) -> None:
    if not dims or not len(dims) == len(depths) == len(reductions):
        raise ConfigError(
            f"dims: {len(dims)} stages, but depths has {len(depths)} and reductions {len(reductions)}; give one number per stage in each"
        )
    if min(*dims, *depths, *reductions, *num_neighbors) < 1 or len(num_neighbors) != 2:
        raise ConfigError(f"num_neighbors: {list(num_neighbors)}; give two numbers above 0, for the first and the last block")
    uneven = [dim for dim in dims if 2 * dim % GROUPS]
    if uneven:
        raise ConfigError(f"dims: {uneven[0]}; the graph convolution has {GROUPS} groups of 2 x dim channels: choose even widths")
