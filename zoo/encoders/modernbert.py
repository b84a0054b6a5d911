"""ModernBERT: a pre-norm text encoder with rotary positions, gated feed-forward layers, and local attention in most layers.

Paper: Warner et al. 2024 (arXiv 2412.13663), section 2 and table 4. Reference: transformers 5.17, ``modeling_modernbert.py``.

Where we differ: there is one dropout rate, 0 by default as in the paper, and it does not apply to the attention probabilities; padding is
computed, not removed. The window counts places in the row, as in the reference, so padding has to lie at one end.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.attention import attend_heads, attention_mask, refuse_uneven_heads
from zoo.layers.linear import Linear
from zoo.layers.mlp import feed_forward
from zoo.layers.rope import Rotary, Turn
from zoo.layers.text_encoder import WordEncoder
from zoo.layers.text_tokens import pooled_text, real_tokens
from zoo.registry import register
from zoo.types import Encoded

POOLS = ("cls", "mean", "none")
Mask = Bool[Tensor, "batch 1 queries_or_1 keys"] | Bool[Tensor, "queries keys"] | None


class TurnedAttention(nn.Module):
    """Multi-head self-attention in both directions, with rotated queries and keys; the rows of ``qkv.weight`` are q, k, v."""

    def __init__(self, *, dim: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=bias)
        self.out = Linear(dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "batch length dim"], turn: Turn, allowed: Mask) -> Float[Tensor, "batch length dim"]:
        """Attend from each token to those that ``allowed`` marks; None allows all."""
        states = self.qkv(x).unflatten(-1, (3 * self.num_heads, -1))  # [B, L, heads of q, k, v, head_dim]
        asking, v = states.split([2 * self.num_heads, self.num_heads], dim=-2)
        q, k = turn(asking, self.num_heads)
        return self.out(attend_heads(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), allowed=allowed))


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)); the first block has no norm before its attention."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        activation: str,
        eps: float,
        bias: bool,
        norm_bias: bool,
        first: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        # The embeddings are normalised already, so that a norm before the first attention would only repeat it.
        self.norm1 = nn.Identity() if first else nn.LayerNorm(dim, eps=eps, bias=norm_bias)
        self.attention = TurnedAttention(dim=dim, num_heads=num_heads, bias=bias)
        self.norm2 = nn.LayerNorm(dim, eps=eps, bias=norm_bias)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch length dim"], turn: Turn, allowed: Mask) -> Float[Tensor, "batch length dim"]:
        x = x + self.dropout(self.attention(self.norm1(x), turn, allowed))
        return x + self.dropout(self.mlp(self.norm2(x)))


@register("encoder")
class ModernBert(WordEncoder):
    """Text encoder that gives the normalised tokens of the last block and one pooled vector.

    Args:
        context_length: maximum number of tokens of one text; the weights do not depend on it.
        hidden_dim: width of the gated feed-forward layers.
        activation: "geglu" (the gate's activation is GELU) or another gated activation of ``zoo.layers.mlp``.
        window: tokens that a local layer attends to, half of them on either side: 128 reaches 64 tokens to the left and to the right.
        global_every: every how many layers attention reaches the whole text; 3 means layers 0, 3, 6, ...
        rope_theta: theta of the global layers.
        window_rope_theta: theta of the local layers.
        bias: biases of all linear layers.
        norm_bias: biases of the norms.
        pool: "cls" is the first token, "mean" the mean over real tokens, "none" gives no pooled vector.
        normalise: scale pooled vectors to length 1 (sentence-transformers' Normalize).
        dropout: rate on the embeddings and on the output of each branch.

    Raises:
        ConfigError: ``pool`` or ``activation`` is unknown, or a number is outside its range.
        DataError: (forward) a row is longer than ``context_length``.
    """

    context_length: int
    silent_keywords = ("num_heads", "activation", "window", "global_every", "rope_theta", "window_rope_theta", "eps", "pool", "normalise")

    def __init__(
        self,
        *,
        vocab_size: int = 50368,
        context_length: int = 8192,
        dim: int = 768,
        depth: int = 22,
        num_heads: int = 12,
        hidden_dim: int = 1152,
        activation: str = "geglu",
        window: int = 128,
        global_every: int = 3,
        rope_theta: float = 160_000.0,
        window_rope_theta: float = 10_000.0,
        eps: float = 1e-5,
        bias: bool = False,
        norm_bias: bool = False,
        pool: str = "cls",
        normalise: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        _refuse(pool, window, global_every)
        self.dim, self.vocab_size, self.word_dim, self.context_length = dim, vocab_size, dim, context_length
        self.pool, self.gives_pooled, self.normalise = pool, pool != "none", normalise
        self.reach, self.is_local = window // 2, [bool(layer % global_every) for layer in range(depth)]
        self.rotary = Rotary(head_dim=dim // num_heads, theta=rope_theta)
        self.window_rotary = Rotary(head_dim=dim // num_heads, theta=window_rope_theta)
        self.embedding = nn.Embedding(vocab_size, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=eps, bias=norm_bias)
        self.blocks = nn.ModuleList(
            Block(
                **{"dim": dim, "num_heads": num_heads, "hidden_dim": hidden_dim, "activation": activation},
                **{"eps": eps, "bias": bias, "norm_bias": norm_bias, "first": layer == 0, "dropout": dropout},
            )
            for layer in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps, bias=norm_bias)
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode token ids to tokens [batch, length, dim] and a pooled vector.

        Args:
            mask: True at real tokens; None if there is no padding.
        """
        length, real = token_ids.shape[1], real_tokens(token_ids, mask, self.context_length)
        places = torch.arange(length, device=token_ids.device)[None]
        # Local and global layers share one mask and one rotation each.
        far = Turn(*self.rotary.tables(places)), attention_mask(mask, length, causal=False)
        near = Turn(*self.window_rotary.tables(places)), self._seen_nearby(mask, length, token_ids.device)
        x = self.dropout(self.embedding_norm(self.embedding(token_ids)))
        for block, is_local in zip(self.blocks, self.is_local, strict=True):
            x = block(x, *(near if is_local else far))
        x = self.norm(x)
        return Encoded(x, pooled_text(x, real, self.pool, normalise=self.normalise), real)

    def _seen_nearby(self, mask: Tensor | None, length: int, device: torch.device) -> Mask:
        """Return the mask of the local layers: with a window of 2, token 1 of ``[1 1 1 0]`` sees ``[1 1 1 0]``, token 2 ``[0 1 1 0]``."""
        seen = torch.ones(length, length, dtype=torch.bool, device=device).tril(self.reach).triu(-self.reach)
        if mask is None:
            return seen
        allowed = mask[:, None, None, :] & seen  # [B, 1, queries, keys]
        return allowed | ~allowed.any(-1, keepdim=True)  # a softmax over nothing is NaN; padding's output is never used

    def _initialise(self) -> None:
        """Draw weights from a normal distribution that is cut at two standard deviations; outputs shrink with depth.

        Source: ``_init_weights`` of transformers' ``modeling_modernbert.py``.
        """
        shrunk = 0.02 / (2 * max(len(self.blocks), 1)) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                std = shrunk if name.endswith((".attention.out", ".mlp.fc2")) else 0.02
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def _refuse(pool: str, window: int, global_every: int) -> None:
    if pool not in POOLS:
        raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
    if window < 2 or window % 2:
        raise ConfigError(f"window: got {window}; allowed is an even number from 2 on (128 in the paper)")
    if global_every < 1:
        raise ConfigError(f"global_every: got {global_every}; allowed is 1 or more (3 in the paper)")
