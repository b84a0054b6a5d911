"""The decoder of the first Tacotron: groups of frames from tokens, one group after the other.

Paper: Wang et al. 2017 (arXiv 1703.10135), section 3.3 and table 1. Reference: keithito/tacotron ``tacotron.py``, ``rnn_wrappers.py``.

Where we differ, with equal outputs: the residual GRUs and the projection, which do not feed back in training, are computed for all steps
at once there. As in keithito's code the context of the step before is an input of the attention GRU.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.prenet import Prenet


class ContentAttention(nn.Module):
    """Weights over text positions: ``softmax(v . tanh(query + key))`` (Bahdanau et al. 2014, arXiv 1409.0473)."""

    def __init__(self, *, query_dim: int, memory_dim: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_dim, dim, bias=False)
        self.memory = nn.Linear(memory_dim, dim, bias=False)
        self.v = nn.Linear(dim, 1, bias=False)

    def forward(
        self, query: Float[Tensor, "batch query_dim"], keys: Float[Tensor, "batch length dim"], hidden: Bool[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch length"]:
        """Weights; ``keys`` are ``self.memory(tokens)``, ``hidden`` is True where there is no text."""
        energies = self.v(torch.tanh(self.query(query)[:, None] + keys))[..., 0]  # [B, length]
        return (energies if hidden is None else energies.masked_fill(hidden, -torch.inf)).softmax(1)


class TacotronDecoder(nn.Module):
    """Pre-net, attention GRU, content-based attention, residual GRUs, a projection to a group of frames.

    Args:
        memory_dim: of the encoder's tokens.
        reduction: frames a step; the last is fed back.
        dim: of attention, of all GRUs.
        depth: residual GRUs.
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
        """Teacher forcing: every step is fed the frame that truly comes before it. Frames, and where each step looked."""
        walk = AttentionWalk(self, memory, mask)
        found = [walk(frame) for frame in self.prenet(fed).unbind(0)]
        x = self.join(torch.stack([state for state, _ in found]))  # [steps, B, dim]
        for rnn in self.rnns:
            x = x + rnn(x)[0]
        groups = self.projection(x)  # [steps, B, reduction * num_mels]
        steps, batch = groups.shape[:2]
        mels = groups.view(steps, batch, self.reduction, self.num_mels).permute(1, 3, 0, 2).reshape(batch, self.num_mels, -1)
        return mels, torch.stack([weights for _, weights in found], 1)


class AttentionWalk:
    """The part of the decoder that feeds back even in training: attention GRU and attention."""

    def __init__(self, decoder: TacotronDecoder, memory: Tensor, mask: Tensor | None) -> None:
        self.decoder, self.memory, self.hidden = decoder, memory, None if mask is None else ~mask
        self.keys = decoder.attention.memory(memory)
        self.state = memory.new_zeros(len(memory), decoder.dim)
        self.context = memory.new_zeros(len(memory), memory.shape[2])

    def __call__(self, frame: Float[Tensor, "batch prenet_dim"]) -> tuple[Tensor, Float[Tensor, "batch length"]]:
        """State and context side by side, and where it looked, for a frame that went through the pre-net."""
        self.state = self.decoder.attention_rnn(torch.cat([frame, self.context], 1), self.state)
        weights = self.decoder.attention(self.state, self.keys, self.hidden)
        self.context = torch.bmm(weights[:, None], self.memory)[:, 0]
        return torch.cat([self.state, self.context], 1), weights


class Stepper:
    """One step after the other, each from the frames before."""

    def __init__(self, decoder: TacotronDecoder, memory: Tensor, mask: Tensor | None) -> None:
        self.decoder, self.walk = decoder, AttentionWalk(decoder, memory, mask)
        self.states = [memory.new_zeros(1, len(memory), decoder.dim) for _ in decoder.rnns]

    def __call__(self, frame: Float[Tensor, "batch num_mels"]) -> tuple[Float[Tensor, "batch group"], Float[Tensor, "batch length"]]:
        """The next group of frames one behind the other, and where it looked."""
        state, weights = self.walk(self.decoder.prenet(frame))
        x = self.decoder.join(state)
        for number, rnn in enumerate(self.decoder.rnns):
            out, self.states[number] = rnn(x[None], self.states[number])
            x = x + out[0]
        return self.decoder.projection(x), weights
