"""Location-sensitive attention: scores depend on the content of the tokens and on the attention weights of earlier steps.

Papers: Chorowski et al. 2015 (arXiv 1506.07503), section 2.2; Shen et al. 2017 (arXiv 1712.05884), section 2.2. References: torchaudio
``models/tacotron2.py``, NVIDIA/tacotron2 ``model.py``.

Differences: the convolution over earlier weights and the linear layer after it are merged into one convolution, because there is no
nonlinearity between them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Looked:
    """Attention weights of earlier steps: the last weights, and the sum of all."""

    last: Float[Tensor, "batch length"]
    total: Float[Tensor, "batch length"]


@dataclass(frozen=True)
class Prepared:
    """Precomputed values that are the same for every frame of a batch of texts."""

    keys: Float[Tensor, "batch dim length"]
    hidden: Bool[Tensor, "batch length"] | None  # True at padding
    location: Float[Tensor, "dim 2 kernel"]


class LocationAttention(nn.Module):
    """Attention weights over text positions: ``softmax(v . tanh(query + key + location))``.

    Args:
        query_dim: width of the decoder's state.
        memory_dim: width of the encoder's tokens.
        dim: width in which query, key and location are added.
        filters: filters of the convolution over the last and the summed weights.
        kernel: kernel of that convolution, in tokens; odd.
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
        """Precompute the values that are the same for all frames of these texts; ``mask`` is True at real tokens."""
        keys = self.memory(memory).transpose(1, 2).contiguous()  # [B, dim, length]
        location = torch.einsum("df,fck->dck", self.location_dense.weight, self.location_conv.weight)
        return Prepared(keys, None if mask is None else ~mask, location)

    def begin(self, memory: Float[Tensor, "batch length memory_dim"]) -> Looked:
        """Return the initial state: attention weights of zero."""
        zeros = memory.new_zeros(memory.shape[:2])
        return Looked(zeros, zeros)

    def forward(self, query: Float[Tensor, "batch query_dim"], looked: Looked, prepared: Prepared) -> Looked:
        """Compute the next attention weights; return the new state, whose ``last`` they are."""
        former = torch.stack([looked.last, looked.total], dim=1)  # [B, 2, length]
        places = F.conv1d(former, prepared.location, padding=prepared.location.shape[-1] // 2)  # [B, dim, length]
        sums = torch.tanh(self.query(query)[:, :, None] + prepared.keys + places)
        energies = torch.matmul(self.v.weight, sums)[:, 0]  # [B, length]
        if prepared.hidden is not None:
            energies = energies.masked_fill(prepared.hidden, -torch.inf)
        weights = energies.softmax(1)
        return Looked(weights, looked.total + weights)
