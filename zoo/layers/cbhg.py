"""CBHG: a bank of convolutions, highway layers and a bidirectional GRU.

Paper: Wang et al. 2017 (Tacotron, arXiv 1703.10135), section 3.1 and figure 2, after Lee et al. 2016. Reference: keithito/tacotron
``modules.py``.

Where we differ: padding is zero in front of each convolution and counts in no statistics; there is no published form of it in torch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.masked_conv import BidirectionalRNN, ConvNorm


class Highway(nn.Module):
    """``y = h(x) t(x) + x (1 - t(x))``, with a gate that begins nearly closed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.change = nn.Linear(dim, dim)
        self.gate = nn.Linear(dim, dim)
        nn.init.constant_(self.gate.bias, -1.0)  # keithito

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """The same width."""
        gate = self.gate(x).sigmoid()
        return self.change(x).relu() * gate + x * (1 - gate)


class CBHG(nn.Module):
    """Sequences of vectors to sequences of ``2 * dim`` wide ones, as long.

    Args:
        in_dim: of the vectors.
        bank: widest kernel; there is one convolution of each width from 1 on.
        dim: of each convolution of the bank, of the highway layers, and of each direction of the GRU.
        projections: channels of the two convolutions behind the bank; the last is ``in_dim``, which is added.
    """

    def __init__(self, *, in_dim: int, bank: int, dim: int, projections: Sequence[int], highways: int = 4) -> None:
        super().__init__()
        assert projections[-1] == in_dim, "what comes out of the projections is added to what went in"
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
        """``mask`` is True at real positions, at the left; padding becomes zero."""
        x = x if mask is None else x * mask[..., None]
        rows = x.transpose(1, 2)  # [B, in_dim, length]
        found = torch.cat([convolution(rows, mask) for convolution in self.bank], 1)  # [B, bank * dim, length]
        # Of each position and the next the larger; zero behind the end is never larger than what a ReLU gave, but a norm stands between.
        found = _pooled(found, mask)
        for projection in self.projections:
            found = projection(found, mask)
        x = self.highways(self.widen(x + found.transpose(1, 2)))
        return self.gru(x, mask)


def _pooled(x: Float[Tensor, "batch channels length"], mask: Bool[Tensor, "batch length"] | None) -> Float[Tensor, "batch channels length"]:
    """Maximum over a position and the next real one: width 2, stride 1, one step of padding on the right."""
    if mask is None:
        return F.max_pool1d(F.pad(x, (0, 1), value=-torch.inf), 2, stride=1)
    hidden = x.masked_fill(~mask[:, None], -torch.inf)
    return F.max_pool1d(F.pad(hidden, (0, 1), value=-torch.inf), 2, stride=1).masked_fill(~mask[:, None], 0.0)
