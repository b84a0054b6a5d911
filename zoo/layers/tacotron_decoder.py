"""Decoder of the first Tacotron: generates groups of mel frames from the tokens of a text, one group per step.

Paper: Wang et al. 2017 (arXiv 1703.10135), section 3.3 and table 1. Reference: keithito/tacotron ``tacotron.py``, ``rnn_wrappers.py``.

Differences, with equal outputs: in training, the residual GRUs and the projection, which are not fed back, are computed for all steps at
once. As in keithito's code, the context of the step before is an input of the attention GRU.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.prenet import Prenet


class ContentAttention(nn.Module):
    """Attention weights over text positions: ``softmax(v . tanh(query + key))`` (Bahdanau et al. 2014, arXiv 1409.0473)."""

    def __init__(self, *, query_dim: int, memory_dim: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_dim, dim, bias=False)
        self.memory = nn.Linear(memory_dim, dim, bias=False)
        self.v = nn.Linear(dim, 1, bias=False)

    def forward(
        self, query: Float[Tensor, "batch query_dim"], keys: Float[Tensor, "batch length dim"], hidden: Bool[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch length"]:
        """Return the attention weights; ``keys`` are ``self.memory(tokens)``, ``hidden`` is True at padding."""
        energies = self.v(torch.tanh(self.query(query)[:, None] + keys))[..., 0]  # [B, length]
        return (energies if hidden is None else energies.masked_fill(hidden, -torch.inf)).softmax(1)


class TacotronDecoder(nn.Module):
    """Pre-net, attention GRU, content-based attention, residual GRUs, and a projection to a group of frames.

    Args:
        memory_dim: width of the encoder's tokens.
        num_mels: mel bands per frame.
        reduction: frames per step; the last is fed back.
        prenet_dims: widths of the two layers of the pre-net.
        prenet_dropout: dropout rate of the pre-net, in training.
        dim: width of the attention and of all GRUs.
        depth: number of residual GRUs.
    """

    def __init__(
        self, *, memory_dim: int, num_mels: int, reduction: int, prenet_dims: tuple[int, int], prenet_dropout: float, dim: int, depth: int
    ) -> None:
        super().__init__()
        self.num_mels, self.reduction, self.dim = num_mels, reduction, dim
        self.prenet = Prenet(num_mels, prenet_dims, dropout=prenet_dropout, bias=True)
        self.attention_rnn = nn.GRUCell(prenet_dims[-1] + memory_dim, dim)
        self.attention = ContentAttention(query_dim=dim, memory_dim=memory_dim, dim=dim)
        self.join = nn.Linear(dim + memory_dim, dim)
        self.rnns = nn.ModuleList(nn.GRU(dim, dim) for _ in range(depth))
        self.projection = nn.Linear(dim, num_mels * reduction)

    def forward(
        self,
        memory: Float[Tensor, "batch length memory_dim"],
        mask: Bool[Tensor, "batch length"] | None,
        fed: Float[Tensor, "steps batch num_mels"],
    ) -> tuple[Float[Tensor, "batch num_mels frames"], Float[Tensor, "batch steps length"]]:
        """Decode with teacher forcing: the input of every step is the true frame before it. Return frames and attention weights."""
        walk = AttentionWalk(self, memory, mask)
        found = [walk(frame) for frame in self.prenet(fed).unbind(0)]  # the context of a step is an input of the next: no parallel form
        x = self.join(torch.stack([state for state, _ in found]))  # [steps, B, dim]
        for rnn in self.rnns:
            x = x + rnn(x)[0]
        groups = self.projection(x)  # [steps, B, reduction * num_mels]
        steps, batch = groups.shape[:2]
        mels = groups.view(steps, batch, self.reduction, self.num_mels).permute(1, 3, 0, 2).reshape(batch, self.num_mels, -1)
        return mels, torch.stack([weights for _, weights in found], 1)


class AttentionWalk:
    """The recurrent part of the decoder, which runs step by step even in training: attention GRU and attention."""

    def __init__(self, decoder: TacotronDecoder, memory: Tensor, mask: Tensor | None) -> None:
        self.decoder, self.memory, self.hidden = decoder, memory, None if mask is None else ~mask
        self.keys = decoder.attention.memory(memory)
        self.state = memory.new_zeros(len(memory), decoder.dim)
        self.context = memory.new_zeros(len(memory), memory.shape[2])

    def __call__(self, frame: Float[Tensor, "batch prenet_dim"]) -> tuple[Tensor, Float[Tensor, "batch length"]]:
        """Return state and context (concatenated), and the attention weights, for the pre-net's output of a frame."""
        self.state = self.decoder.attention_rnn(torch.cat([frame, self.context], 1), self.state)
        weights = self.decoder.attention(self.state, self.keys, self.hidden)
        self.context = torch.bmm(weights[:, None], self.memory)[:, 0]
        return torch.cat([self.state, self.context], 1), weights


class Stepper:
    """Step-by-step decoding of a batch of texts; each step gets the frame before."""

    def __init__(self, decoder: TacotronDecoder, memory: Tensor, mask: Tensor | None) -> None:
        self.decoder, self.walk = decoder, AttentionWalk(decoder, memory, mask)
        self.states = [memory.new_zeros(1, len(memory), decoder.dim) for _ in decoder.rnns]

    def __call__(self, frame: Float[Tensor, "batch num_mels"]) -> tuple[Float[Tensor, "batch group"], Float[Tensor, "batch length"]]:
        """Return the next group of frames (concatenated) and its attention weights."""
        state, weights = self.walk(self.decoder.prenet(frame))
        x = self.decoder.join(state)
        for number, rnn in enumerate(self.decoder.rnns):
            out, self.states[number] = rnn(x[None], self.states[number])
            x = x + out[0]
        return self.decoder.projection(x), weights
