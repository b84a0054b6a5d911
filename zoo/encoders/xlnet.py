"""XLNet: a post-norm text encoder with relative positions, two streams for prediction in any order, and a memory of earlier segments.

Paper: Yang et al. 2019 (arXiv 1906.08237), sections 2.3 to 2.5 and appendix A.2; Dai et al. 2019 (Transformer-XL, arXiv 1901.02860),
section 3.3. References: transformers 5.17, ``modeling_xlnet.py``; zihangdai/xlnet, ``modeling.py``.

Both streams use the same weights, so that the queries of the second one stand behind the tokens of the first in one tensor.

Where we differ:

* There is one dropout rate, 0 by default; the attention probabilities and the sinusoids have no dropout.
* The query stream is computed at predicted tokens only, as in the authors' code. (transformers maps their queries to all positions.)
* A query that sees nothing takes no value. In transformers, it attends to all tokens, also to the one that it predicts.
* A query of padding does not attend to itself; the tokens of padding are arbitrary.
* Segments follow from the separators in a row, unless the caller passes them. In transformers, a call without segments has no score of
  segments, which is the same as one segment as long as there is no memory.
* Only bidirectional attention is there: no causal one, no limit of distances (``clamp_len``), no reversed half of the batch (``bi_data``).
* Padding may stand on either side of a text; the published fine-tuning puts it before the text. Positions are relative, so that both give
  the same tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.attention import attend_heads, attention_mask, refuse_uneven_heads
from zoo.layers.linear import Linear
from zoo.layers.mlp import feed_forward, hidden_width
from zoo.layers.pool import masked_last, masked_mean
from zoo.layers.text_encoder import WordEncoder
from zoo.layers.text_tokens import real_tokens
from zoo.layers.turns import are_real, predicted_places, seen_by_content, seen_by_queries
from zoo.registry import register
from zoo.types import Encoded

POOLS = {"last": masked_last, "mean": masked_mean}
LONGEST_WAVE = 10000  # of the sinusoids, in units of 2 pi tokens; the paper's
Turns = Int[Tensor, "batch length"]


class Relations(NamedTuple):
    """Relations between queries and keys, which all blocks share.

    Attributes:
        table: sinusoids of relative positions [rows, dim].
        rows: row of ``table`` for each query and key [batch or 1, queries, keys].
        differs: True where query and key belong to different segments [batch or 1, queries, keys].
        allowed: True where a query may attend to a key [batch, 1, queries or 1, keys]; None allows all.
        blind: True at queries that see nothing [batch, queries, 1]; None if there cannot be any.
    """

    table: Float[Tensor, "rows dim"]
    rows: Int[Tensor, "batch_or_1 queries keys"]
    differs: Bool[Tensor, "batch_or_1 queries keys"]
    allowed: Bool[Tensor, "batch 1 queries_or_1 keys"] | None
    blind: Bool[Tensor, "batch queries 1"] | None


class RelativeAttention(nn.Module):
    """Multi-head attention with three scores: of the key's content, of its relative position, and of its segment.

    Source: Yang et al. 2019, appendix A.2 and section 2.5. With the query q of a token i, the key k and the relative position r of a token
    j, and the vector s of equal or different segments, the score is (q + u) k + (q + v) r + (q + w) s; u, v and w are learnt per head.
    """

    def __init__(self, *, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, head_dim = num_heads, dim // num_heads
        self.query = Linear(dim, dim, bias=False)
        self.key_value = Linear(dim, 2 * dim, bias=False)
        self.position = Linear(dim, dim, bias=False)
        self.out = Linear(dim, dim, bias=False)
        self.content_bias, self.position_bias, self.segment_bias = (nn.Parameter(torch.empty(num_heads, head_dim)) for _ in range(3))
        self.segments = nn.Parameter(torch.empty(2, num_heads, head_dim))  # of keys in the same segment, and in another one
        self.scale = head_dim**-0.5

    def forward(
        self, x: Float[Tensor, "batch queries dim"], context: Float[Tensor, "batch keys dim"], relations: Relations
    ) -> Float[Tensor, "batch queries dim"]:
        """Attend from ``x`` to ``context``."""
        q, k, v = (self._heads(part) for part in (self.query(x), *self.key_value(context).chunk(2, dim=-1)))  # [B, h, N, head_dim]
        r = self.position(relations.table).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)  # [h, rows, head_dim]
        rows = relations.rows[:, None].expand(*q.shape[:2], -1, -1)
        by_position = ((q + self.position_bias[:, None]) @ r.transpose(-2, -1)).gather(-1, rows)  # [B, h, queries, keys]
        by_segment = (q + self.segment_bias[:, None]) @ self.segments.permute(1, 2, 0)  # [B, h, queries, 2]
        bias = by_position + torch.where(relations.differs[:, None], by_segment[..., 1:], by_segment[..., :1])
        content = (q + self.content_bias[:, None]).to(k.dtype)
        found = attend_heads(content, k, v, allowed=relations.allowed, bias=bias.to(k.dtype) * self.scale, scale=self.scale)
        return self.out(found if relations.blind is None else found.masked_fill(relations.blind, 0.0))

    def _heads(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch num_heads tokens head_dim"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Post-norm block: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int, activation: str, eps: float, dropout: float) -> None:
        super().__init__()
        self.attention = RelativeAttention(dim=dim, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch queries dim"], context: Float[Tensor, "batch keys dim"], relations: Relations
    ) -> Float[Tensor, "batch queries dim"]:
        """Return the new tokens of ``x``, which attend to ``context``: the memory and the content stream before this block."""
        x = self.norm1(x + self.dropout(self.attention(x, context, relations)))
        return self.norm2(x + self.dropout(self.mlp(x)))


@register("encoder")
class XLNet(WordEncoder):
    """Text encoder that gives the tokens of the last block and one pooled vector.

    Args:
        context_length: maximum number of tokens of one text, without those in memory; the weights do not depend on it.
        separator_id: id of the symbol that ends each text of a row; segments follow from it: ``a <sep> b <sep> <cls>`` has the segments
            0 0 1 1 2. None: every token has segment 0 unless the caller passes segments.
        pool: "last" is the last real token (the classification symbol, in texts as they were published), "mean" the mean over real tokens,
            "none" gives no pooled vector.
        normalise: scale pooled vectors to length 1 (sentence-transformers' Normalize).
        dropout: rate on the embeddings, on the output of each sublayer, and on the tokens that are returned; 0.1 in the paper.

    Raises:
        ConfigError: ``pool`` or the activation is unknown, or a number is outside its range.
        DataError: (forward) a row is longer than ``context_length``.
    """

    takes_turns = True
    context_length: int
    no_weight_decay = ("mask_vector", "segments", "content_bias", "position_bias", "segment_bias")
    silent_keywords = ("num_heads", "activation", "eps", "pool", "normalise", "separator_id")

    def __init__(
        self,
        *,
        vocab_size: int = 32000,
        context_length: int = 512,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        separator_id: int | None = None,
        activation: str = "gelu",
        eps: float = 1e-12,
        pool: str = "last",
        normalise: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        _refuse(dim, vocab_size, separator_id, pool)
        self.dim, self.vocab_size, self.word_dim, self.context_length = dim, vocab_size, dim, context_length
        self.pool, self.gives_pooled, self.normalise, self.separator_id = pool, pool != "none", normalise, separator_id
        self.embedding = nn.Embedding(vocab_size, dim)
        self.mask_vector = nn.Parameter(torch.empty(dim))  # input of the query stream, the same at each position
        sizes = {"dim": dim, "num_heads": num_heads, "hidden_dim": hidden_width(dim, mlp_ratio)}
        self.blocks = nn.ModuleList(Block(**sizes, activation=activation, eps=eps, dropout=dropout) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    @property
    def final_norm(self) -> None:
        """No norm: each block ends with one."""
        return None

    def forward(
        self,
        token_ids: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"] | Turns | None = None,
        *,
        reads: str = "tokens",
        types: Int[Tensor, "batch length"] | None = None,
    ) -> Encoded:
        """Encode token ids to tokens [batch, length, dim] and a pooled vector.

        Args:
            token_ids: ids, padded to equal length.
            mask: True at real tokens; None if there is no padding. Integers are turns (``zoo.layers.turns``): the tokens of predicted
                positions then come from the query stream, all others from the content stream, and both see only what the turns allow.
            reads: makes no difference.
            types: segment of each token; None derives the segments from the separators.
        """
        return self._encode(token_ids, mask, types, (), 0)[0]

    def with_memory(
        self,
        token_ids: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"] | Turns | None = None,
        *,
        memory: Sequence[Float[Tensor, "batch before dim"]] = (),
        keep: int,
        types: Int[Tensor, "batch length"] | None = None,
    ) -> tuple[Encoded, list[Float[Tensor, "batch kept dim"]]]:
        """Encode a segment of a longer text, whose tokens also attend to the memory of the segments before it.

        Args:
            token_ids: ids of the segment, as in ``forward``.
            mask: as in ``forward``; all tokens attend to all of the memory, so that earlier segments should have no padding.
            memory: what the call for the segment before returned; empty for the first one. It counts as segment 0.
            keep: number of last tokens, of memory and segment together, to return.
            types: as in ``forward``.

        Returns:
            The encoding, and for each block its input at the kept tokens, without gradients.

        Raises:
            DataError: the memory does not fit this encoder or batch, or ``keep`` is negative.
        """
        shapes = {(len(part), part.shape[-1]) for part in memory}
        if memory and (len(memory) != len(self.blocks) or shapes != {(len(token_ids), self.dim)}):
            raise DataError(
                f"memory: has {len(memory)} tensors of (rows, width) {sorted(shapes)}; expected: {len(self.blocks)}, one for each block, "
                f"of {(len(token_ids), self.dim)}; pass what with_memory returned for the same rows"
            )
        if keep < 0:
            raise DataError(f"keep: got {keep}; allowed is 0 or more tokens")
        return self._encode(token_ids, mask, types, memory, keep)

    def _encode(
        self, token_ids: Tensor, mask: Tensor | None, types: Tensor | None, memory: Sequence[Tensor], keep: int
    ) -> tuple[Encoded, list[Tensor]]:
        turns = mask if mask is not None and mask.dtype != torch.bool else None
        length, before = token_ids.shape[1], memory[0].shape[1] if memory else 0
        real = real_tokens(token_ids, mask if turns is None else are_real(turns), self.context_length)
        x = self.embedding(token_ids)
        places = predicted = None
        if turns is not None:
            places, predicted = predicted_places(turns)
            x = torch.cat([x, self.mask_vector.to(x.dtype).expand(*places.shape, -1)], dim=1)  # [B, length + queries, dim]
        elif torch.is_grad_enabled():  # without queries the vector has no effect, but other ranks wait for its gradient
            x = x + 0 * self.mask_vector
        relations = self._relations(token_ids, real if mask is not None else None, turns, places, types, before)
        x, kept = self.dropout(x), []
        for number, block in enumerate(self.blocks):
            content = x[:, :length]
            context = torch.cat([memory[number].to(x.dtype), content], dim=1) if memory else content  # [B, before + length, dim]
            kept.append(context[:, max(0, context.shape[1] - keep) :].detach())
            x = block(x, context, relations)
        tokens = _placed(self.dropout(x), length, places, predicted)
        return Encoded(tokens, self._pooled(tokens, real), real), kept

    def _relations(
        self,
        token_ids: Int[Tensor, "batch length"],
        real: Bool[Tensor, "batch length"] | None,
        turns: Turns | None,
        places: Int[Tensor, "batch queries"] | None,
        types: Int[Tensor, "batch length"] | None,
        before: int,
    ) -> Relations:
        """Return the relations of the tokens, and of the query stream at ``places`` behind them, to ``before`` kept and all own tokens."""
        length, device = token_ids.shape[1], token_ids.device
        types = self._types(token_ids) if types is None else types
        keys, queries = torch.arange(-before, length, device=device), torch.arange(length, device=device)[None]
        kinds, blind, allowed = types, None, None if real is None else attention_mask(real, length, causal=False)
        if turns is not None and places is not None:
            queries = torch.cat([queries.expand(len(places), -1), places], dim=1)  # [B, length + queries]
            kinds = torch.cat([types, types.expand(len(places), -1).gather(1, places)], dim=1)
            seen = torch.cat([seen_by_content(turns), seen_by_queries(turns, places)], dim=1)  # [B, length + queries, length]
            seen = F.pad(seen, (before, 0), value=True)
            blind = ~seen.any(-1, keepdim=True)
            allowed = (seen | blind)[:, None]  # a softmax over nothing would be NaN; the values are cleared afterwards
        elif allowed is not None and before:
            allowed = F.pad(allowed, (before, 0), value=True)
        differs = kinds[:, :, None] != F.pad(types, (before, 0))[:, None, :]
        rows = queries[:, :, None] - keys + (length - 1)  # from 0 (the first token sees the last) to before + 2 * length - 2
        return Relations(self._sinusoids(length, before), rows, differs, allowed, blind)

    def _types(self, token_ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        if self.separator_id is None:
            return torch.zeros_like(token_ids)
        ends = token_ids == self.separator_id
        return ends.cumsum(1) - ends.long()  # minus itself: a separator still belongs to the text that it ends

    def _sinusoids(self, length: int, before: int) -> Float[Tensor, "rows dim"]:
        """Return the table of relative positions: sines in the first half of the columns, cosines in the second."""
        weight = self.embedding.weight
        distances = torch.arange(1 - length, before + length, device=weight.device, dtype=torch.float32)
        steps = torch.arange(0, self.dim, 2, device=weight.device, dtype=torch.float32)
        angles = distances[:, None] / LONGEST_WAVE ** (steps / self.dim)  # [rows, dim / 2]
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(weight.dtype)  # [rows, dim]

    def _pooled(self, tokens: Float[Tensor, "batch length dim"], real: Bool[Tensor, "batch length"]) -> Float[Tensor, "batch dim"] | None:
        if not self.gives_pooled:
            return None
        pooled = POOLS[self.pool](tokens, real)
        return F.normalize(pooled, dim=-1) if self.normalise else pooled

    def _initialise(self) -> None:
        """Initialise everything from N(0, 0.02^2) but norms, and the biases of the two-layer perceptrons, which are 0."""
        for name, parameter in self.named_parameters():
            if ".mlp." in name and parameter.ndim == 1:
                nn.init.zeros_(parameter)
            elif ".norm" not in name:
                nn.init.normal_(parameter, std=0.02)


def _placed(
    x: Float[Tensor, "batch both dim"], length: int, places: Int[Tensor, "batch queries"] | None, predicted: Tensor | None
) -> Float[Tensor, "batch length dim"]:
    """Return the content stream, with the vectors of the query stream at the predicted positions."""
    if places is None or predicted is None:
        return x
    tokens, queries = x[:, :length], x[:, length:]
    index = places[..., None].expand_as(queries)
    return tokens.scatter(1, index, torch.where(predicted[..., None], queries, tokens.gather(1, index)))


def _refuse(dim: int, vocab_size: int, separator_id: int | None, pool: str) -> None:
    if pool not in (*POOLS, "none"):
        raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, (*POOLS, 'none'))}")
    if dim % 2:
        raise ConfigError(f"dim: got {dim}; allowed is an even number, because half of each relative position are sines and half cosines")
    if separator_id is not None and not 0 <= separator_id < vocab_size:
        raise ConfigError(f"separator_id: {separator_id}; allowed is 0 to {vocab_size - 1} (below vocab_size), or null")
