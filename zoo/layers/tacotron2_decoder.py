"""Decoder of Tacotron 2: generates groups of mel frames from the tokens of a text, one group per step.

Paper: Shen et al. 2017 (arXiv 1712.05884), section 2.2. References: torchaudio ``models/tacotron2.py``, NVIDIA/tacotron2 ``model.py``.

Differences, with equal outputs: the products of the encoder's tokens with the weights of LSTMs and projections are computed once per text
instead of once per frame, if that is less work. In training, the second LSTM, the projection and the stop token, which are not fed back,
are computed for all frames at once. Several frames per step (``reduction``) come from the first Tacotron; the last of them is fed back.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.location_attention import LocationAttention, Looked, Prepared
from zoo.layers.prenet import Prenet, PrenetMasks


@dataclass(frozen=True)
class Frames:
    """Outputs of the decoder.

    Attributes:
        mels: frames before the post-net; ``frames`` is ``reduction`` times ``steps``.
        stops: logit of "this step is the last", per step.
        alignments: attention weights of each step over the text.
    """

    mels: Float[Tensor, "batch num_mels frames"]
    stops: Float[Tensor, "batch steps"]
    alignments: Float[Tensor, "batch steps length"]


@dataclass(frozen=True)
class State:
    """Recurrent state between two steps.

    Attributes:
        attention: hidden state and cell of the attention LSTM.
        decoder: hidden state and cell of the decoder LSTM.
        looked: attention weights of earlier steps.
        context: product of the attended tokens with their columns of the attention LSTM's input weight.
    """

    attention: tuple[Tensor, Tensor]
    decoder: tuple[Tensor, Tensor]
    looked: Looked
    context: Tensor


class Attended:
    """Product of a matrix with attention-weighted sums of tokens, for many steps of the same texts.

    The matrix is multiplied either with the tokens in advance (folded) or with the sum of each step, whichever is less work.

    Args:
        memory: the encoder's tokens.
        columns: parts of the matrix, each [part_dim, memory_dim], which follow one another along ``out_dim``.
    """

    def __init__(self, memory: Float[Tensor, "batch length memory_dim"], *columns: Float[Tensor, "_ memory_dim"]) -> None:
        folds = memory.shape[0] * memory.shape[1] <= memory.shape[2]
        # Folded, the products are joined and not the parts, because joined parts are a copy of the weights (17 MB for the full size).
        self.values = torch.cat([F.linear(memory, part) for part in columns], -1) if folds else memory  # [B, length, width]
        self.columns = None if folds else columns[0] if len(columns) == 1 else torch.cat(columns)

    def __call__(self, weights: Float[Tensor, "batch length"]) -> Float[Tensor, "batch out_dim"]:
        sums = torch.bmm(weights[:, None], self.values)[:, 0]
        return sums if self.columns is None else F.linear(sums, self.columns)


class Tacotron2Decoder(nn.Module):
    """Pre-net, attention LSTM, location-sensitive attention, decoder LSTM, projections to frames and stop token.

    Args:
        memory_dim: width of the encoder's tokens.
        num_mels: mel bands per frame.
        reduction: frames per step.
        prenet_dim: width of the pre-net.
        prenet_dropout: dropout rate of the pre-net.
        rnn_dim: width of both LSTMs.
        attention_dim: width in which queries and keys are compared.
        location_filters: filters of the convolution over earlier attention weights.
        location_kernel: kernel of that convolution, in tokens; odd.
        hidden_dropout: dropout rate on the hidden states of both LSTMs in training; the paper uses zoneout.
    """

    def __init__(
        self,
        *,
        memory_dim: int,
        num_mels: int,
        reduction: int,
        prenet_dim: int,
        prenet_dropout: float,
        rnn_dim: int,
        attention_dim: int,
        location_filters: int,
        location_kernel: int,
        hidden_dropout: float,
    ) -> None:
        super().__init__()
        self.num_mels, self.reduction, self.rnn_dim, self.memory_dim = num_mels, reduction, rnn_dim, memory_dim
        self.prenet_dim, self.hidden_dropout = prenet_dim, hidden_dropout
        self.prenet = Prenet(num_mels, (prenet_dim, prenet_dim), dropout=prenet_dropout)
        self.attention_rnn: Any = nn.LSTM(prenet_dim + memory_dim, rnn_dim)
        self.attention = LocationAttention(
            query_dim=rnn_dim, memory_dim=memory_dim, dim=attention_dim, filters=location_filters, kernel=location_kernel
        )
        self.decoder_rnn: Any = nn.LSTM(rnn_dim + memory_dim, rnn_dim)
        self.projection = nn.Linear(rnn_dim + memory_dim, num_mels * reduction)
        self.gate = nn.Linear(rnn_dim + memory_dim, 1)
        self._standing: tuple[list[tuple[int, int]], Tensor, Tensor] | None = None
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.xavier_uniform_(self.gate.weight)

    def forward(
        self,
        memory: Float[Tensor, "batch length memory_dim"],
        mask: Bool[Tensor, "batch length"] | None,
        fed: Float[Tensor, "steps batch num_mels"],
        masks: PrenetMasks | None = None,
    ) -> Frames:
        """Decode with teacher forcing: the input of every step is the true frame before it.

        Args:
            memory: the encoder's tokens.
            mask: True at real tokens; None: all are real.
            fed: input of each step: the last frame of the step before, zeros for the first step.
            masks: dropout masks of the pre-net; None: torch's dropout, which is active only in training.
        """
        steps = len(fed)
        drawn = None if masks is None else [each[:, None] for each in masks.first(steps)]  # [steps, 1, width]
        rnn, split = self.attention_rnn, self.prenet_dim
        into = F.linear(self.prenet(fed, drawn), rnn.weight_ih_l0[:, :split], rnn.bias_ih_l0 + rnn.bias_hh_l0)  # [steps, B, 4 rnn_dim]
        context_of = Attended(memory, rnn.weight_ih_l0[:, split:])
        prepared, looked = self.attention.prepare(memory, mask), self.attention.begin(memory)
        hidden = cell = memory.new_zeros(len(memory), self.rnn_dim)
        hiddens, weights = [], []
        recurrent = rnn.weight_hh_l0.t()
        for number, gates in enumerate(into.unbind(0)):
            if number:  # the context of the first step is zero
                gates = gates + context_of(looked.last)
            hidden, cell = lstm_step(torch.addmm(gates, hidden, recurrent), cell)
            hidden = F.dropout(hidden, self.hidden_dropout, self.training)
            looked = self.attention(hidden, looked, prepared)
            hiddens.append(hidden)
            weights.append(looked.last)
        alignments = torch.stack(weights, 1)  # [B, steps, length]
        contexts = torch.bmm(alignments, memory).transpose(0, 1)  # [steps, B, memory_dim]
        return self._frames(torch.stack(hiddens), contexts, alignments)

    def _frames(self, hiddens: Tensor, contexts: Tensor, alignments: Tensor) -> Frames:
        """Compute the parts that are not fed back, for all steps at once."""
        states = self._second_rnn(torch.cat([hiddens, contexts], -1))  # [steps, B, rnn_dim]
        found = torch.cat([states, contexts], -1)  # [steps, B, rnn_dim + memory_dim]
        groups = self.projection(found)  # [steps, B, reduction * num_mels]
        steps, batch = groups.shape[:2]
        mels = groups.view(steps, batch, self.reduction, self.num_mels).permute(1, 3, 0, 2).reshape(batch, self.num_mels, -1)
        return Frames(mels, self.gate(found)[..., 0].t(), alignments)

    def _second_rnn(self, x: Float[Tensor, "steps batch in_dim"]) -> Float[Tensor, "steps batch rnn_dim"]:
        rnn = self.decoder_rnn
        # torch's fused LSTM cannot drop the hidden state between steps, so dropout needs the loop below.
        if not (self.training and self.hidden_dropout):
            return rnn(x)[0]
        into = F.linear(x, rnn.weight_ih_l0, rnn.bias_ih_l0 + rnn.bias_hh_l0)
        hidden = cell = x.new_zeros(x.shape[1], self.rnn_dim)
        states, recurrent = [], rnn.weight_hh_l0.t()
        for gates in into.unbind(0):
            hidden, cell = lstm_step(torch.addmm(gates, hidden, recurrent), cell)
            hidden = F.dropout(hidden, self.hidden_dropout, True)  # the next step gets the dropped state too, as in the references
            states.append(hidden)
        return torch.stack(states)

    def standing_weights(self) -> tuple[Tensor, Tensor]:
        """Return the transposed weights of both LSTMs, without the columns for attended tokens.

        Products of single rows with transposed matrices are a quarter faster on a CPU. Without gradients, they are cached until the weights
        change, because transposing them takes as long as about thirty frames.
        """
        weights = [rnn.weight_ih_l0 for rnn in (self.attention_rnn, self.decoder_rnn)]
        weights += [rnn.weight_hh_l0 for rnn in (self.attention_rnn, self.decoder_rnn)]
        known = None if torch.is_grad_enabled() or any(w.is_inference() for w in weights) else [(w.data_ptr(), w._version) for w in weights]
        if known is None or self._standing is None or self._standing[0] != known:
            inner = (self.prenet_dim, self.rnn_dim)
            first, second = (torch.cat([weights[i][:, : inner[i]].t(), weights[i + 2].t()]) for i in (0, 1))
            if known is None:
                return first, second
            self._standing = (known, first, second)
        return self._standing[1], self._standing[2]

    def train(self, mode: bool = True) -> "Tacotron2Decoder":
        """Set training or evaluation mode, as ``torch.nn.Module.train``; training mode deletes the cached transposed weights."""
        self._standing = None if mode else self._standing
        return super().train(mode)

    def stepper(self, memory: Float[Tensor, "batch length memory_dim"], mask: Bool[Tensor, "batch length"] | None) -> "Stepper":
        """Return a ``Stepper``, which generates one group of frames per call."""
        return Stepper(self, memory, mask)


class Stepper:
    """Step-by-step decoding of a batch of texts; values that all steps share are computed in the constructor."""

    def __init__(self, decoder: Tacotron2Decoder, memory: Tensor, mask: Tensor | None) -> None:
        self.decoder, rnn, second = decoder, decoder.attention_rnn, decoder.decoder_rnn
        self.prepared: Prepared = decoder.attention.prepare(memory, mask)
        split, width = decoder.prenet_dim, decoder.rnn_dim
        out = torch.cat([decoder.projection.weight, decoder.gate.weight])  # [out_dim, rnn_dim + memory_dim]
        # The columns that are multiplied with the attended tokens: one product serves both LSTMs and the projections.
        self.context_of = Attended(memory, rnn.weight_ih_l0[:, split:], second.weight_ih_l0[:, width:], out[:, width:])
        self.sizes = (4 * width, 4 * width, len(out))
        self.first, self.second = decoder.standing_weights()
        self.out = out[:, :width].t().contiguous()
        self.biases = (
            rnn.bias_ih_l0 + rnn.bias_hh_l0,
            second.bias_ih_l0 + second.bias_hh_l0,
            torch.cat([decoder.projection.bias, decoder.gate.bias]),
        )
        zeros = memory.new_zeros(len(memory), width)
        nothing = memory.new_zeros(len(memory), 4 * width)
        self.state = State((zeros, zeros), (zeros, zeros), decoder.attention.begin(memory), nothing)

    def __call__(
        self, frame: Float[Tensor, "batch num_mels"], masks: list[Tensor] | None
    ) -> tuple[Float[Tensor, "batch group"], Float[Tensor, " batch"], Float[Tensor, "batch length"]]:
        """Return the next group of frames (concatenated), its stop logit and its attention weights.

        Args:
            frame: the last frame of the group before.
            masks: dropout masks of the pre-net, by layer; None: torch's dropout.
        """
        decoder, state = self.decoder, self.state
        hidden, cell = state.attention
        into = torch.cat([decoder.prenet(frame, masks), hidden], 1)
        hidden, cell = lstm_step(torch.addmm(self.biases[0] + state.context, into, self.first), cell)
        hidden = F.dropout(hidden, decoder.hidden_dropout, decoder.training)
        looked = decoder.attention(hidden, state.looked, self.prepared)
        contexts = self.context_of(looked.last).split(self.sizes, 1)
        gates = torch.addmm(self.biases[1] + contexts[1], torch.cat([hidden, state.decoder[0]], 1), self.second)
        second = lstm_step(gates, state.decoder[1])
        second = (F.dropout(second[0], decoder.hidden_dropout, decoder.training), second[1])
        found = torch.addmm(self.biases[2] + contexts[2], second[0], self.out)
        self.state = State((hidden, cell), second, looked, contexts[0])
        return found[:, :-1], found[:, -1], looked.last


def lstm_step(gates: Float[Tensor, "batch four_dims"], cell: Float[Tensor, "batch dim"]) -> tuple[Tensor, Tensor]:
    """Return the new hidden state and cell of an LSTM from its gates before activation (input, forget, cell, output, as in torch)."""
    let_in, forget, new, let_out = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + let_in.sigmoid() * new.tanh()
    return let_out.sigmoid() * cell.tanh(), cell
