"""Pre-norm text transformer with learned positions: the text tower of CLIP (causal) and SigLIP (bidirectional).

Papers: Radford et al. 2021 (arXiv 2103.00020), section 2.4; Zhai et al. 2023 (arXiv 2303.15343). References: openai/CLIP
``model.py``, transformers ``SiglipTextModel``.

Where we differ: the projection to the shared space belongs to the head, not to the tower.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.pool import masked_mean, take_tokens
from zoo.layers.transformer import Block
from zoo.registry import register
from zoo.types import Encoded

POOLS = ("eot", "cls", "mean", "last", "none")


@register("encoder")
class TextTransformer(nn.Module):
    """Token ids to normalised tokens and one pooled vector.

    Args:
        context_length: the most tokens that one text may have.
        causal: each token sees only itself and what comes before. Padding must then lie to the right.
        pool: "eot" takes the first ``eot_token_id`` of each row, "cls" the first token, "last" the last position whatever
            it holds (SigLIP), "mean" the mean over real tokens, "none" gives no pooled vector.

    Raises:
        ConfigError: an unknown pool, or "eot" without an ``eot_token_id`` inside the vocabulary.
        DataError: (forward) a row longer than ``context_length``.
    """

    modality = "text"
    no_weight_decay = ("positions",)

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
        self.causal, self.pool, self.eot_token_id = causal, pool, eot_token_id
        self.gives_pooled = pool != "none"
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = nn.Parameter(torch.empty(context_length, dim))
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, hidden_dim=int(dim * mlp_ratio), activation=activation, eps=eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        self._initialise()

    def forward(self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None) -> Encoded:
        """``mask`` is True at real tokens; without one every position is real."""
        length = token_ids.shape[1]
        if length > self.context_length:
            raise DataError(f"texts have {length} tokens; context_length allows {self.context_length}: truncate or split them")
        x = self.embedding(token_ids) + self.positions[:length]
        # A causal tower never looks right, so that padding at the end needs no mask and takes the faster kernel.
        seen = None if self.causal else mask
        for block in self.blocks:
            x = block(x, seen, self.causal)
        x = self.norm(x)
        real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
        return Encoded(x, self._pooled(x, token_ids, real), real)

    def _pooled(self, x: Tensor, token_ids: Tensor, mask: Tensor) -> Float[Tensor, "batch dim"] | None:
        if self.pool == "eot":
            return take_tokens(x, (token_ids == self.eot_token_id).int().argmax(1))
        if self.pool == "mean":
            return masked_mean(x, mask)
        return {"cls": x[:, 0], "last": x[:, -1], "none": None}[self.pool]

    def _initialise(self) -> None:
        """openai/CLIP ``initialize_parameters``: residual outputs shrink with depth."""
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
