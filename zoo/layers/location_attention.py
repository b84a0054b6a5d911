"""Location-sensitive attention: where to look next depends on what is there and on where one has looked before.

Papers: Chorowski et al. 2015 (arXiv 1506.07503), section 2.2; Shen et al. 2017 (arXiv 1712.05884), section 2.2. References: torchaudio
``models/tacotron2.py``, NVIDIA/tacotron2 ``model.py``.

Where we differ: the convolution over former weights and the matrix behind it, with nothing between them, are one convolution.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Looked:
    """Where attention has been: the last weights, and the sum of all."""

    last: Float[Tensor, "batch length"]
    total: Float[Tensor, "batch length"]


@dataclass(frozen=True)
class Prepared:
    """What does not change from frame to frame."""

    keys: Float[Tensor, "batch dim length"]
    hidden: Bool[Tensor, "batch length"] | None  # True where there is no text
    location: Float[Tensor, "dim 2 kernel"]


class LocationAttention(nn.Module):
    """Weights over text positions: ``softmax(v . tanh(query + key + location))``.

    Args:
        query_dim: of the decoder's state.
        memory_dim: of the encoder's tokens.
        dim: in which the three are added.
        filters: of the convolution over the last and the summed weights.
    """

    def __init__(self, *, query_dim: int, memory_dim: int, dim: int = 128, filters: int = 32, kernel: int = 31) -> None:
        super().__init__()
        self.query = nn.Linear(query_dim, dim, bias=False)
        self.memory = nn.Linear(memory_dim, dim, bias=False)
        self.location_conv = nn.Conv1d(2, filters, kernel, bias=False)
        self.location_dense = nn.Linear(filters, dim, bias=False)
        self.v = nn.Linear(dim, 1, bias=False)
        for layer in (self.query, self.memory, self.location_dense):
            nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("tanh"))
        for layer in (self.location_conv, self.v):
            nn.init.xavier_uniform_(layer.weight)

    def prepare(self, memory: Float[Tensor, "batch length memory_dim"], mask: Bool[Tensor, "batch length"] | None) -> Prepared:
        """What stays the same for all frames of these texts."""
        keys = self.memory(memory).transpose(1, 2).contiguous()  # [B, dim, length]
        location = torch.einsum("df,fck->dck", self.location_dense.weight, self.location_conv.weight)
        return Prepared(keys, None if mask is None else ~mask, location)

    def begin(self, memory: Float[Tensor, "batch length memory_dim"]) -> Looked:
        """Nothing has been looked at."""
        zeros = memory.new_zeros(memory.shape[:2])
        return Looked(zeros, zeros)

    def forward(self, query: Float[Tensor, "batch query_dim"], looked: Looked, prepared: Prepared) -> Looked:
        """The next weights, which are ``last`` of what is returned."""
        former = torch.stack([looked.last, looked.total], dim=1)  # [B, 2, length]
        places = F.conv1d(former, prepared.location, padding=prepared.location.shape[-1] // 2)  # [B, dim, length]
        sums = torch.tanh(self.query(query)[:, :, None] + prepared.keys + places)
        energies = torch.matmul(self.v.weight, sums)[:, 0]  # [B, length]
        if prepared.hidden is not None:
            energies = energies.masked_fill(prepared.hidden, -torch.inf)
        weights = energies.softmax(1)
        return Looked(weights, looked.total + weights)
