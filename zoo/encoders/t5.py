"""Encoder of T5: a pre-norm transformer without biases, with relative positions.

Paper: Raffel et al. 2019 (arXiv 1910.10683), section 2.1; for version 1.1 Shazeer 2020 (arXiv 2002.05202), the "GEGLU" with tanh; for
experts in every second block Fedus et al. 2021 (Switch, arXiv 2101.03961). References: transformers 5.17, ``modeling_t5.py`` and
``modeling_switch_transformers.py``; google-research/text-to-text-transfer-transformer.

Where we differ: one matrix projects to queries, keys and values, and one to the gate and the value of a gated feed-forward layer. Dropout
is 0 by default, and the attention probabilities have no dropout. Half-precision activations are not clamped. There is a pooled vector, the
mean over real tokens (Sentence-T5, Ni et al. 2021, arXiv 2108.08877). The weights allow any length; ``context_length`` is the length used
in training. The weights of experts and routers begin with a tenth of the variance, as in the paper; transformers' do not.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.attention import attend_heads, attention_mask
from zoo.layers.experts import Experts, SparseSettings, expert_losses
from zoo.layers.linear import Linear
from zoo.layers.mlp import find_activation
from zoo.layers.norm import RMSNorm
from zoo.layers.pool import masked_mean
from zoo.layers.relative_bias import refuse_buckets, relative_bias
from zoo.layers.text_encoder import WordEncoder
from zoo.layers.text_tokens import real_tokens
from zoo.registry import register
from zoo.types import Encoded

POOLS = ("mean", "none")
GATES = {"gelu": "geglu", "gelu_tanh": "geglu_tanh", "silu": "swiglu"}  # activation of a gate: name of the gated activation


class RelativeAttention(nn.Module):
    """Multi-head self-attention with unscaled scores and a relative position bias; ``num_heads * head_dim`` may differ from ``dim``."""

    def __init__(self, *, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * num_heads * head_dim, bias=False)  # rows: q, k, v, each head-major
        self.out = Linear(num_heads * head_dim, dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        bias: Float[Tensor, "1 num_heads length length"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Attend over the whole row.

        Args:
            bias: added to the attention scores of every item.
            mask: True at tokens that may be attended to; None allows all.
        """
        states = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, L, 3, heads, head_dim]
        q, k, v = states.permute(2, 0, 3, 1, 4)  # each [B, heads, L, head_dim]
        allowed = attention_mask(mask, x.shape[1], causal=False)
        # scale 1: T5 has no 1 / sqrt(head_dim); the initialisation of the queries contains it (see T5._initialise).
        return self.out(attend_heads(q, k, v, allowed=allowed, bias=bias.to(q.dtype), scale=1.0))


class FeedForward(nn.Module):
    """Two linear layers with an activation between them; if gated, the activation of one half multiplies the other half."""

    def __init__(self, *, dim: int, hidden_dim: int, activation: str, gated: bool, dropout: float) -> None:
        super().__init__()
        self.fc1 = Linear(dim, (1 + gated) * hidden_dim, bias=False)  # rows: gate, value
        self.fc2 = Linear(hidden_dim, dim, bias=False)
        self.activation, self.gated = find_activation(activation), gated
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        if not self.gated:
            return self.fc2(self.dropout(self.activation(self.fc1(x))))
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.dropout(self.activation(gate) * value))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)); with ``experts`` these compute the second part."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        head_dim: int,
        hidden_dim: int,
        activation: str,
        gated: bool,
        eps: float,
        dropout: float,
        experts: SparseSettings | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(dim, eps=eps)
        self.attention = RelativeAttention(dim=dim, num_heads=num_heads, head_dim=head_dim)
        self.norm2 = RMSNorm(dim, eps=eps)
        self.mlp: nn.Module
        if experts is None:
            self.mlp = FeedForward(dim=dim, hidden_dim=hidden_dim, activation=activation, gated=gated, dropout=dropout)
        else:
            self.mlp = experts.make(dim=dim, hidden_dim=hidden_dim, activation=_expert_activation(activation, gated))
        self.routes = experts is not None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        bias: Float[Tensor, "1 num_heads length length"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        x = x + self.dropout(self.attention(self.norm1(x), bias, mask))
        normed = self.norm2(x)
        return x + self.dropout(self.mlp(normed, mask) if self.routes else self.mlp(normed))


def _expert_activation(activation: str, gated: bool) -> str:
    """Return the name that experts have for an activation.

    Raises:
        ConfigError: there are no gated experts with it.
    """
    if gated and activation not in GATES:
        raise ConfigError(f"activation: gated experts have no {activation!r}; {name_choices(activation, GATES)}")
    return GATES[activation] if gated else activation


@register("encoder")
class T5(WordEncoder):
    """Text encoder that gives the normalised tokens of the last block and their mean.

    Args:
        context_length: maximum number of tokens of one text; the model's weights do not depend on it.
        head_dim: width of each head; ``num_heads * head_dim`` need not be ``dim`` (T5-3B, T5-11B).
        hidden_dim: width between the two feed-forward layers.
        activation: "relu" in version 1.0, "gelu_tanh" in version 1.1.
        gated: the feed-forward part has a third matrix, the gate (version 1.1).
        num_buckets: rows of the relative position bias table, which all blocks share.
        max_distance: distance from which on all distances share one row, in tokens.
        pool: "mean" over real tokens, or "none" for no pooled vector.
        normalise: scale pooled vectors to length 1 (sentence-transformers' Normalize).
        dropout: dropout rate of the embeddings, of the output of each sublayer, inside the feed-forward part and of the final tokens;
            0.1 in the paper. Experts have ``expert_dropout`` inside.
        num_experts: number of feed-forward networks in every ``expert_step``-th block, of which each token uses one (Switch); None: one
            network for all tokens.
        expert_step: distance between blocks with experts; with 2 the blocks 1, 3, 5 and so on, counted from 0.
        expert_capacity: limit on the tokens of one expert in training, see ``zoo.layers.experts``; None: no limit.
        expert_dropout: dropout rate inside the experts.
        router_jitter: noise on the input of the router in training, see ``zoo.layers.experts``.
        balance_weight: weight of the loss that balances the use of the experts.
        router_z_weight: weight of the loss on large logits of the router (ST-MoE).

    Raises:
        ConfigError: ``pool`` is unknown, ``num_buckets`` and ``max_distance`` do not fit together, or the experts are not possible.
        DataError: (forward) a row is longer than ``context_length``.
    """

    context_length: int
    no_weight_decay = ("distances",)
    silent_keywords = ("num_heads", "activation", "max_distance", "eps", "pool", "normalise")

    def __init__(
        self,
        *,
        vocab_size: int = 32128,
        context_length: int = 512,
        dim: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        head_dim: int = 64,
        hidden_dim: int = 2048,
        activation: str = "relu",
        gated: bool = False,
        num_buckets: int = 32,
        max_distance: int = 128,
        eps: float = 1e-6,
        pool: str = "mean",
        normalise: bool = False,
        dropout: float = 0.0,
        num_experts: int | None = None,
        expert_step: int = 2,
        expert_capacity: float | None = None,
        expert_dropout: float = 0.0,
        router_jitter: float = 0.0,
        balance_weight: float = 0.01,
        router_z_weight: float = 0.001,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
        refuse_buckets(num_buckets, max_distance)
        self.dim, self.vocab_size, self.context_length, self.word_dim = dim, vocab_size, context_length, dim
        self.num_heads, self.head_dim, self.num_buckets, self.max_distance = num_heads, head_dim, num_buckets, max_distance
        self.pool, self.gives_pooled, self.normalise = pool, pool != "none", normalise
        rates: dict[str, Any] = {"capacity": expert_capacity, "dropout": expert_dropout, "jitter": router_jitter}
        experts = SparseSettings.of(num_experts, depth=depth, step=expert_step, **rates)
        self.adds_losses, self.balance_weight, self.router_z_weight = experts is not None, balance_weight, router_z_weight
        self.embedding = nn.Embedding(vocab_size, dim)
        self.distances = nn.Parameter(torch.empty(num_buckets, num_heads))  # one table for all blocks; the reference keeps it in block 0
        self.blocks = nn.ModuleList(
            Block(
                dim=dim,
                num_heads=num_heads,
                head_dim=head_dim,
                hidden_dim=hidden_dim,
                activation=activation,
                gated=gated,
                eps=eps,
                dropout=dropout,
                experts=experts if experts is not None and experts.is_sparse(layer) else None,
            )
            for layer in range(depth)
        )
        self.norm = RMSNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode token ids to tokens [batch, length, dim] and their mean.

        Args:
            mask: True at real tokens; None if there is no padding.
        """
        real = real_tokens(token_ids, mask, self.context_length)
        x, bias = self.dropout(self.embedding(token_ids)), self.bias(token_ids.shape[1])
        for block in self.blocks:
            x = block(x, bias, mask)
        x = self.dropout(self.norm(x))
        pooled = masked_mean(x, real) if self.gives_pooled else None
        return Encoded(x, F.normalize(pooled, dim=-1) if self.normalise and pooled is not None else pooled, real)

    def auxiliary_losses(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the losses that balance the experts and limit the logits of their routers, and metrics. See ``Encoder``."""
        return expert_losses(self.blocks, balance_weight=self.balance_weight, z_weight=self.router_z_weight)

    def bias(self, length: int) -> Float[Tensor, "1 num_heads {length} {length}"]:
        """Return the relative position bias that each head adds to the attention scores of a row of ``length`` tokens."""
        places = torch.arange(length, device=self.distances.device)
        return relative_bias(self.distances, places, places, max_distance=self.max_distance)

    def _initialise(self) -> None:
        """Initialise as Mesh TensorFlow does: the queries contain the 1 / sqrt(head_dim) that the unscaled scores lack.

        Source: ``_init_weights`` of transformers' ``modeling_t5.py``.
        """
        inner = self.num_heads * self.head_dim
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.distances, std=self.dim**-0.5)
        for block in self.blocks:
            assert isinstance(block, Block)
            q, k, v = block.attention.qkv.weight.split(inner)
            nn.init.normal_(q, std=(self.dim * self.head_dim) ** -0.5)
            for matrix, width in ((k, self.dim), (v, self.dim), (block.attention.out.weight, inner)):
                nn.init.normal_(matrix, std=width**-0.5)
            if isinstance(block.mlp, Experts):
                block.mlp.initialise_scaled()
            else:
                assert isinstance(block.mlp, FeedForward)
                nn.init.normal_(block.mlp.fc1.weight, std=self.dim**-0.5)
                nn.init.normal_(block.mlp.fc2.weight, std=block.mlp.fc2.in_features**-0.5)
