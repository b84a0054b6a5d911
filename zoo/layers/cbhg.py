"""CBHG: a bank of convolutions, highway layers and a bidirectional GRU.

Paper: Wang et al. 2017 (Tacotron, arXiv 1703.10135), section 3.1 and figure 2, after Lee et al. 2016. Reference: keithito/tacotron
``modules.py``.

Differences: padding is set to zero before each convolution and is left out of the statistics of BatchNorm.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.masked_conv import BidirectionalRNN, ConvNorm


class Highway(nn.Module):
    """Highway layer, ``y = h(x) t(x) + x (1 - t(x))``; the gate t is nearly closed at initialisation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.change = nn.Linear(dim, dim)
        self.gate = nn.Linear(dim, dim)
        nn.init.constant_(self.gate.bias, -1.0)  # keithito/tacotron: the layer starts close to the identity

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Return vectors of the same width."""
        gate = self.gate(x).sigmoid()
        return self.change(x).relu() * gate + x * (1 - gate)


class CBHG(nn.Module):
    """CBHG module: sequences of vectors to sequences of the same length and width ``2 * dim``.

    Args:
        in_dim: width of the input.
        bank: widest kernel of the bank, which has one convolution of each kernel from 1 to ``bank``.
        dim: width of each convolution of the bank, of the highway layers, and of each direction of the GRU.
        projections: channels of the convolutions after the bank; the last must be ``in_dim``, because the input is added to it.
        highways: number of highway layers.
    """

    def __init__(self, *, in_dim: int, bank: int, dim: int, projections: Sequence[int], highways: int = 4) -> None:
        super().__init__()
        assert projections[-1] == in_dim, "the residual connection needs the last projection to have in_dim channels"
        self.bank = nn.ModuleList(ConvNorm(in_dim, dim, kernel, activation="relu", norm_last=True) for kernel in range(1, bank + 1))
        widths = [bank * dim, *projections]
        self.projections = nn.ModuleList(
            ConvNorm(a, b, 3, activation="relu" if number < len(projections) - 1 else "none", norm_last=True)
            for number, (a, b) in enumerate(zip(widths, projections, strict=False))
        )
        self.widen = nn.Linear(in_dim, dim) if in_dim != dim else nn.Identity()
        self.highways = nn.Sequential(*(Highway(dim) for _ in range(highways)))
        self.gru = BidirectionalRNN(nn.GRU(dim, dim, batch_first=True, bidirectional=True))

    def forward(
        self, x: Float[Tensor, "batch length in_dim"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length twice_dim"]:
        """Return the GRU's outputs; ``mask`` is True at real positions, which come first in each row. Outputs at padding are zero."""
        x = x if mask is None else x * mask[..., None]
        rows = x.transpose(1, 2)  # [B, in_dim, length]
        found = torch.cat([convolution(rows, mask) for convolution in self.bank], 1)  # [B, bank * dim, length]
        # Zeros after the end of a row would be harmless for outputs of a ReLU. BatchNorm comes after it and may give negative values, so
        # that a zero could win the maximum: _pooled masks them.
        found = _pooled(found, mask)
        for projection in self.projections:
            found = projection(found, mask)
        x = self.highways(self.widen(x + found.transpose(1, 2)))
        return self.gru(x, mask)


def _pooled(x: Float[Tensor, "batch channels length"], mask: Bool[Tensor, "batch length"] | None) -> Float[Tensor, "batch channels length"]:
    """Return the maximum over each position and the next real one (max pooling of width 2, stride 1, one step of padding on the right)."""
    if mask is None:
        return F.max_pool1d(F.pad(x, (0, 1), value=-torch.inf), 2, stride=1)
    hidden = x.masked_fill(~mask[:, None], -torch.inf)
    return F.max_pool1d(F.pad(hidden, (0, 1), value=-torch.inf), 2, stride=1).masked_fill(~mask[:, None], 0.0)
