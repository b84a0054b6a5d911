"""Convolutions and RNNs over padded rows: padding is zero in inputs and outputs, and is left out of the statistics of BatchNorm."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.recorded import is_recorded
from zoo.types import on_host, send


class MaskedBatchNorm(nn.BatchNorm1d):
    """BatchNorm whose statistics in training are computed from real positions only.

    The references (keithito/tacotron, NVIDIA/tacotron2, torchaudio) include padding, so that their output for a row depends on the longest
    row of its batch.
    """

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch channels length"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch channels length"]:
        """Normalise real positions, where ``mask`` is True; the others become zero."""
        if mask is None:
            return super().forward(x)
        if not self.training:
            return super().forward(x) * mask[:, None]
        batch, channels, length = x.shape
        # torch's BatchNorm has no mask: it gets only the rows of real positions, which are put back afterwards.
        places = send(on_host(mask).flatten().nonzero()[:, 0], x.device)  # [real]
        rows = x.transpose(1, 2).reshape(-1, channels).index_select(0, places)  # [real, channels]
        flat = x.new_zeros(batch * length, channels, dtype=rows.dtype).index_copy(0, places, super().forward(rows))
        return flat.view(batch, length, channels).transpose(1, 2)  # [B, channels, length]


class ConvNorm(nn.Module):
    """Convolution that keeps the length, with BatchNorm and an activation.

    An even kernel covers one position more on its right than on its left, like "same" padding in TensorFlow.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel: width of the kernel, in positions.
        activation: "relu", "tanh" or "none".
        norm_last: True puts the norm after the activation (Tacotron 2017); False before it (Tacotron 2).
        dropout: rate on the output, in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        activation: str = "none",
        norm_last: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel)
        self.norm = MaskedBatchNorm(out_channels)
        self.activation, self.norm_last, self.dropout = activation, norm_last, dropout
        self.padding = ((kernel - 1) // 2, kernel // 2)  # left, right: 1, 2 for a kernel of 4
        nn.init.xavier_uniform_(self.conv.weight, gain=1.0 if activation == "none" else nn.init.calculate_gain(activation))  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "batch in_channels length"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch out_channels length"]:
        """Return the layer's output, zero where the mask is False; ``x`` must be zero there too."""
        x = self._convolve(x)
        x = self.norm(self._activate(x), mask) if self.norm_last else self._activate(self.norm(x, mask))
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def _convolve(self, x: Tensor) -> Tensor:
        left, right = self.padding
        if left == right:
            return F.conv1d(x, self.conv.weight, self.conv.bias, padding=left)
        return self.conv(F.pad(x, self.padding))

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "none":
            return x
        return x.relu() if self.activation == "relu" else x.tanh()


def all_or_mask(mask: Bool[Tensor, "batch length"] | None) -> Bool[Tensor, "batch length"] | None:
    """Return None if every position is real, otherwise the mask; without a mask, faster kernels are used.

    Masks on the meta device have no values, so they give None too. While operations are recorded, a mask stays one.
    """
    if mask is not None and is_recorded() and not mask.is_meta:
        return mask
    return None if mask is None or mask.is_meta or bool(on_host(mask).all()) else mask


class BidirectionalRNN(nn.Module):
    """Bidirectional GRU or LSTM over padded rows; both directions start at a real position, and outputs at padding are zero."""

    def __init__(self, rnn: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length out_dim"]:
        """Run the RNN; ``mask`` is True at real positions, which come first in each row. Each row needs at least one."""
        if mask is None:
            return self.rnn(x)[0]
        if is_recorded():
            return self._run_each_way(x, mask)
        # torch wants the lengths on the CPU. Rows are sorted here, because torch would wait for the device to get the order.
        lengths, order = on_host(mask).sum(1).sort(descending=True)
        rows = x.index_select(0, send(order, x.device))
        packed = nn.utils.rnn.pack_padded_sequence(rows, lengths, batch_first=True)
        found = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        return found.index_select(0, send(order.argsort(), x.device))

    def _run_each_way(
        self, x: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length out_dim"]:
        """Run both directions forwards, the second over rows that are reversed up to their padding; packing would need the lengths."""
        places = torch.arange(x.shape[1], device=x.device)
        last = mask.sum(1, keepdim=True) - 1  # [B, 1]
        turned = torch.where(places <= last, last - places, places)  # [B, length]; a row of 3 and 2 of padding: 2 1 0 3 4
        onward, back = self._run(x, ""), self._run(x.take_along_dim(turned[..., None], 1), "_reverse")
        both = torch.cat([onward, back.take_along_dim(turned[..., None], 1)], dim=-1)
        return both * mask[..., None]

    def _run(self, x: Tensor, direction: str) -> Float[Tensor, "batch length hidden"]:
        """Run one direction of the layer forwards; ``direction`` is the end of the names of its weights."""
        weights = [self.rnn.get_parameter(f"{name}_l0{direction}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        zeros = x.new_zeros(1, x.shape[0], self.rnn.hidden_size)
        if isinstance(self.rnn, nn.LSTM):
            return torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, False, False, True)[0]  # type: ignore[attr-defined]
        return torch.gru(x, zeros, weights, True, 1, 0.0, False, False, True)[0]  # type: ignore[attr-defined]
