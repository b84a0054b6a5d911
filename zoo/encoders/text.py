"""Pre-norm text transformer with learned positions: the text tower of CLIP (causal) and SigLIP (bidirectional).

Papers: Radford et al. 2021 (arXiv 2103.00020), section 2.4; Zhai et al. 2023 (arXiv 2303.15343). References: openai/CLIP
``model.py``, transformers ``SiglipTextModel``.

Where we differ: the projection to the shared space belongs to the head, not to the tower.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.mlp import hidden_width
from zoo.layers.packing import Packing, can_pack
from zoo.layers.pool import masked_mean, take_tokens
from zoo.layers.prefix import PrefixTree
from zoo.layers.text_encoder import TextEncoder
from zoo.layers.text_tokens import real_tokens
from zoo.layers.transformer import Block
from zoo.registry import register
from zoo.types import Encoded, follow, on_host

POOLS = ("eot", "argmax", "cls", "mean", "last", "none")


@register("encoder")
class TextTransformer(TextEncoder):
    """Text encoder that gives normalised tokens and one pooled vector.

    Args:
        context_length: maximum number of tokens of one text.
        causal: each token attends only to itself and to earlier tokens. Padding must then be on the right.
        pool: "eot" takes the token at the first ``eot_token_id`` of each row; "argmax" takes the token at the first occurrence of the
            row's largest id (open_clip, and old CLIP configs of transformers; this is the end symbol unless a token with a larger
            id is added); "cls" takes the first token; "last" the last position, even if it is padding (SigLIP); "mean" the mean
            over real tokens; "none" gives no pooled vector.
        eot_token_id: id of the end-of-text symbol, for the pool "eot".

    Raises:
        ConfigError: ``pool`` is unknown, or it is "eot" and ``eot_token_id`` is outside the vocabulary.
        DataError: (forward) a row is longer than ``context_length``.
    """

    context_length: int
    no_weight_decay = ("positions",)
    silent_keywords = ("num_heads", "activation", "causal", "eps", "pool", "eot_token_id")
    # digits, zero-shot (clip_vit_nano, both towers): 97.77 % as in fp32 (scripts/benchmarks/quality.py)
    low_precision = {"int8": ()}

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the end symbol by the largest id of a text if it is the last of the vocabulary: both pool at the same token."""
        pool, end = keywords["pool"], keywords["eot_token_id"]
        if pool == "eot" and end == keywords["vocab_size"] - 1:
            pool = "argmax"
        return {**keywords, "pool": pool, "eot_token_id": end if pool == "eot" else None}

    def __init__(
        self,
        *,
        vocab_size: int = 49408,
        context_length: int = 77,
        dim: int = 512,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        eps: float = 1e-5,
        causal: bool = True,
        pool: str = "eot",
        eot_token_id: int = 49407,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
        if pool == "eot" and not 0 <= eot_token_id < vocab_size:
            raise ConfigError(f"eot_token_id: {eot_token_id} is outside the vocabulary of vocab_size {vocab_size}")
        self.dim, self.vocab_size, self.context_length = dim, vocab_size, context_length
        self.causal, self.pool, self.eot_token_id = causal, pool, eot_token_id if pool == "eot" else None
        self.gives_pooled = pool != "none"
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = nn.Parameter(torch.empty(context_length, dim))
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, hidden_dim=hidden_width(dim, mlp_ratio), activation=activation, eps=eps)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        self._initialise()

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode token ids to tokens [batch, length, dim] and pooled vectors [batch, dim].

        Args:
            mask: True at real tokens; None if there is no padding.
            reads: "tokens" computes all tokens. "pooled" computes only the pooled vectors, equal up to rounding, and returns them as
                the only tokens [batch, 1, dim]; padding and positions after the pooled one are then skipped.
        """
        length, real = token_ids.shape[1], real_tokens(token_ids, mask, self.context_length)
        place = self._place(token_ids)
        if reads == "pooled" and self._can_pack(token_ids, real, place):
            return Encoded.of_pooled(self._pool_packed(token_ids, real, place))
        x = self.embedding(token_ids) + self.positions[:length]
        # In a causal tower no token attends to its right, so padding at the end needs no mask and the faster kernel is used.
        seen = None if self.causal else mask
        for block in self.blocks:
            x = block(x, seen, self.causal)
        x = self.norm(x)
        pooled = masked_mean(x, real) if self.pool == "mean" else None if place is None else take_tokens(x, place)
        return Encoded(x, pooled, real) if reads != "pooled" or pooled is None else Encoded.of_pooled(pooled)

    def _place(self, token_ids: Tensor) -> Int[Tensor, " batch"] | None:
        """Return the position of the pooled token in each row; None if the pool does not read a single token."""
        places: dict[str, Callable[[Tensor], Tensor]] = {
            "eot": lambda ids: (ids == self.eot_token_id).int().argmax(1),  # argmax gives the first of equal values; 0 if there is no end
            "argmax": lambda ids: ids.argmax(1),
            "cls": lambda ids: ids.new_zeros(ids.shape[0]),
            "last": lambda ids: ids.new_full((ids.shape[0],), ids.shape[1] - 1),
        }
        return follow(places[self.pool], token_ids) if self.pool in places else None

    def _can_pack(self, token_ids: Tensor, real: Tensor, place: Tensor | None) -> bool:
        """Return True if packed rows give the same pooled vectors as padded ones."""
        if not can_pack(token_ids) or not len(self.blocks) or self.pool == "none":
            return False
        # Packing drops padding, so a pooled token must be real; a causal tower packs up to the pooled position and needs no check.
        return self.causal or place is None or bool(on_host(real).gather(1, on_host(place)[:, None]).all())

    def _pool_packed(self, token_ids: Tensor, real: Tensor, place: Tensor | None) -> Float[Tensor, "batch dim"]:
        """Compute pooled vectors without padding; in a causal tower also without the tokens after the pooled one."""
        length = token_ids.shape[1]
        if self.causal:

            def counted(like: Tensor) -> Tensor:
                return torch.arange(1, length + 1, device=like.device)

            ends = follow(lambda real: (real * counted(real)).amax(1), real) if place is None else follow(lambda place: place + 1, place)
            sharing = not torch.is_grad_enabled()  # a PrefixTree computes common beginnings of texts once; used for inference only
            if sharing:
                layout = PrefixTree(token_ids, ends)
            else:
                layout = Packing(follow(lambda ends: counted(ends) <= ends[:, None], ends), causal=True)
        else:
            layout = Packing(real)
        # index % length is the position inside the row, because index counts in the flat [batch * length].
        # F.embedding and not indexing: threads add up the gradient of an index in an order that differs from run to run.
        x = self.embedding(token_ids.flatten()[layout.index]) + F.embedding(layout.index % length, self.positions)  # [total, dim]
        # The last block needs only one query per row, since nothing after it reads the other tokens.
        last = layout if place is None else layout.only(place)
        for i, block in enumerate(self.blocks, 1):
            x = block(x, layout=layout if i < len(self.blocks) else last)
        x = self.norm(x)
        return masked_mean(layout.unpack(x), real) if place is None else last.restore(x)

    def _initialise(self) -> None:
        """Initialise as openai/CLIP ``initialize_parameters`` does: the outputs of residual branches shrink with depth."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        residual = self.dim**-0.5 * (2 * len(self.blocks)) ** -0.5
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attention.qkv.weight, std=self.dim**-0.5)
            nn.init.normal_(block.attention.out.weight, std=residual)
            nn.init.normal_(block.mlp.fc1.weight, std=(2 * self.dim) ** -0.5)
            nn.init.normal_(block.mlp.fc2.weight, std=residual)
            nn.init.zeros_(block.attention.qkv.bias)
            nn.init.zeros_(block.attention.out.bias)
