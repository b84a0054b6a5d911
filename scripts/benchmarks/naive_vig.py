"""Literal implementation of Vision GNN, formula by formula; the reference of ``bench.py`` and of the tests.

Han et al. 2022 (arXiv 2206.00272). The names of modules and tensors, and the cost of each step, are those of the published code: 1x1
convolutions on [B, C, N, 1], nodes and neighbours gathered into two tensors [B, C, N, k], BatchNorm as a separate layer.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(in_dim: int, out_dim: int, groups: int = 1) -> list[nn.Module]:
    """Return a 1x1 convolution and its BatchNorm."""
    return [nn.Conv2d(in_dim, out_dim, 1, groups=groups), nn.BatchNorm2d(out_dim)]


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Gather columns of x [B, C, M, 1] at index [B, N, k] into [B, C, N, k]."""
    batch, dim, length = x.shape[:3]
    first = torch.arange(batch, device=x.device).view(-1, 1, 1) * length
    rows = x.transpose(1, 2).reshape(batch * length, dim)
    return rows[(index + first).reshape(-1)].view(*index.shape, dim).permute(0, 3, 1, 2).contiguous()  # memory layout of the published code


class GraphConvolution(nn.Module):
    """Max-relative graph convolution: interleave x_i with max_j (x_j - x_i), then a convolution in four groups."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gconv = nn.Module()
        self.gconv.nn = nn.Sequential(*conv_norm(2 * dim, 2 * dim, groups=4), nn.GELU())

    def forward(self, x: Tensor, candidates: Tensor, index: Tensor) -> Tensor:
        batch, dim, nodes = x.shape[:3]
        centre = torch.arange(nodes, device=x.device).view(1, -1, 1).expand(batch, -1, index.shape[2])
        relative = (gather(candidates, index) - gather(x, centre)).max(-1, keepdim=True).values  # [B, C, N, 1]
        return self.gconv.nn(torch.stack((x, relative), dim=2).reshape(batch, 2 * dim, nodes, 1))


class Grapher(nn.Module):
    """Grapher block: fc1, graph convolution, fc2, and the residual."""

    def __init__(self, dim: int, k: int, dilation: int, reduction: int, side: int | None) -> None:
        super().__init__()
        self.k, self.dilation, self.reduction = k, dilation, reduction
        self.fc1 = nn.Sequential(*conv_norm(dim, dim))
        self.graph_conv = GraphConvolution(dim)
        self.fc2 = nn.Sequential(*conv_norm(2 * dim, dim))
        self.relative_pos = None
        if side is not None:
            table = torch.from_numpy(position_similarity(dim, side))[None, None]
            table = F.interpolate(table, size=(side**2, side**2 // reduction**2), mode="bicubic")
            self.relative_pos = nn.Parameter(-table[0], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut, x = x, self.fc1(x)
        rows, columns = x.shape[2:]
        candidates = F.avg_pool2d(x, self.reduction) if self.reduction > 1 else x
        x, candidates = x.flatten(2)[..., None], candidates.flatten(2)[..., None]
        table = self.relative_pos
        if table is not None and table.shape[1:] != (x.shape[2], candidates.shape[2]):
            table = F.interpolate(table[None], size=(x.shape[2], candidates.shape[2]), mode="bicubic")[0]
        index = self.neighbours(x, candidates, table)
        return self.fc2(self.graph_conv(x, candidates, index).view(len(x), -1, rows, columns)) + shortcut

    @torch.no_grad()
    def neighbours(self, x: Tensor, y: Tensor, table: Tensor | None) -> Tensor:
        """Return indices [B, N, k] of the nearest candidates by distance of unit vectors; dilation d keeps every d-th of the ranking."""
        x, y = (F.normalize(t, p=2.0, dim=1).squeeze(-1).transpose(1, 2) for t in (x, y))  # [B, N or M, C]
        distance = (x**2).sum(-1, keepdim=True) - 2 * x @ y.transpose(1, 2) + (y**2).sum(-1).unsqueeze(1)
        if table is not None:
            distance = distance + table
        return torch.topk(-distance, self.k * self.dilation).indices[..., :: self.dilation]


class FeedForward(nn.Module):
    """Feed-forward block: two 1x1 convolutions and the residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(*conv_norm(dim, 4 * dim))
        self.fc2 = nn.Sequential(*conv_norm(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x))) + x


class Stem(nn.Module):
    """Stem of 3x3 convolutions, all but the last with stride 2."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(zip((3, *widths), widths, strict=False)):
            last = i == len(widths) - 1
            layers += [nn.Conv2d(a, b, 3, stride=1 if last else 2, padding=1), nn.BatchNorm2d(b)] + ([] if last else [nn.GELU()])
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class Downsample(nn.Module):
    """Stride-2 convolution between the stages of a pyramid."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1), nn.BatchNorm2d(out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class NaiveViG(nn.Module):
    """Vision GNN: isotropic with one stage, a pyramid with several.

    Args:
        k: number of neighbours in the first and the last block; linear in between.
        relative: add relative position encodings to the distances, as in the pyramid models.
        stem_steps: number of times that the stem halves the resolution.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        *,
        image_size: int = 224,
        k: tuple[int, int] = (9, 9),
        reductions: Sequence[int] = (4, 2, 1, 1),
        relative: bool = True,
        stem_steps: int = 2,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        side, total = image_size // 2**stem_steps, sum(depths)
        ks = [int(value) for value in np.linspace(*k, total)]
        largest = (side // 2 ** (len(dims) - 1)) ** 2 // max(ks)
        self.stem = Stem([dims[0] // 2**i for i in reversed(range(stem_steps))] + [dims[0]])
        self.pos_embed = nn.Parameter(torch.zeros(1, dims[0], side, side))
        modules: list[nn.Module] = []
        block = 0
        for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            if stage:
                modules.append(Downsample(dims[stage - 1], dim))
            here = side // 2**stage if relative else None
            for _ in range(depth):
                grapher = Grapher(dim, ks[block], min(block // 4 + 1, largest), reductions[stage], here)
                modules.append(nn.Sequential(grapher, FeedForward(dim)))
                block += 1
        self.backbone = nn.Sequential(*modules)
        self.prediction = nn.Sequential(*conv_norm(dims[-1], 1024), nn.GELU(), nn.Dropout(0.0), nn.Conv2d(1024, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(self.stem(x) + self.pos_embed)
        return self.prediction(F.adaptive_avg_pool2d(x, 1)).flatten(1)


def position_similarity(dim: int, side: int) -> np.ndarray:
    """Return 2 P P^T / dim for the sine-cosine embeddings P of a square grid, float32 [side^2, side^2]."""
    omega = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4.0))
    column, row = np.meshgrid(np.arange(side), np.arange(side))
    table = np.concatenate([f(np.outer(axis.reshape(-1), omega)) for axis in (column, row) for f in (np.sin, np.cos)], axis=1)
    return (2 * table @ table.T / dim).astype(np.float32)


PUBLISHED = {  # table 1 and table 2 of the paper
    "vig_tiny": {"dims": (192,), "depths": (12,)},
    "vig_small": {"dims": (320,), "depths": (16,)},
    "vig_base": {"dims": (640,), "depths": (16,)},
    "pvig_tiny": {"dims": (48, 96, 240, 384), "depths": (2, 2, 6, 2)},
    "pvig_small": {"dims": (80, 160, 400, 640), "depths": (2, 2, 6, 2)},
    "pvig_medium": {"dims": (96, 192, 384, 768), "depths": (2, 2, 16, 2)},
    "pvig_base": {"dims": (128, 256, 512, 1024), "depths": (2, 2, 18, 2)},
}
ISOTROPIC = {"k": (9, 18), "reductions": (1,), "relative": False, "stem_steps": 4}


def published(name: str, num_classes: int = 1000) -> NaiveViG:
    """Return a model of a published size with random weights."""
    return NaiveViG(**PUBLISHED[name], **({} if name.startswith("pvig") else ISOTROPIC), num_classes=num_classes)
