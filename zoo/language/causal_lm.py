"""Decoder-only language model: the LLaMA family (LLaMA, Mistral, SmolLM2) and the GPT family (GPT-2).

Papers: Radford et al. 2019 (GPT-2); Touvron et al. 2023 (LLaMA, arXiv 2302.13971, and LLaMA 2, arXiv 2307.09288); Jiang et al. 2023
(Mistral, arXiv 2310.06825). References: transformers 5.17 ``GPT2LMHeadModel``, ``LlamaForCausalLM``, ``MistralForCausalLM``.

Where we differ: queries, keys and values come from one matrix, and so do gate and value of the feed-forward part; there is no dropout;
residual outputs start smaller with depth (GPT-2) in both families; the window counts real tokens, so that padding changes nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.cache import Cache
from zoo.layers.decoder import Call, DecoderBlock, seen_keys
from zoo.layers.linear import Linear, fast_linear, lay_out
from zoo.layers.norm import build_norm
from zoo.layers.packing import Packing
from zoo.layers.rope import Rotary
from zoo.registry import register

POSITIONS = ("rotary", "learned")


@register("language")
class CausalLM(nn.Module):
    """Token ids, or their vectors, to hidden states, from which ``logits`` makes scores of the next token.

    Args:
        context_length: the most tokens of a text, and of learned positions the size of their table.
        num_kv_heads: heads of keys and values; None: as many as of queries.
        head_dim: None: ``dim / num_heads``.
        hidden_dim: of the feed-forward part; None: four times ``dim``.
        norm: "rms" or "layer".
        positions: "rotary" or "learned".
        rope_scaling: see ``zoo.layers.rope.Rotary``.
        activation: "swiglu" gates with a third matrix; every other stands between two.
        bias: of every linear layer but the last.
        window: a token sees so many tokens at most, itself among them; None: all before it.
        tied: the table of token vectors also scores the next token.

    Raises:
        ConfigError: unknown words, or widths and heads that do not fit.
        DataError: (forward) a text longer than ``context_length``.
    """

    no_weight_decay = ("positions",)

    def __init__(
        self,
        *,
        vocab_size: int = 32_000,
        context_length: int = 2048,
        dim: int = 4096,
        depth: int = 32,
        num_heads: int = 32,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        hidden_dim: int | None = None,
        norm: str = "rms",
        eps: float = 1e-5,
        positions: str = "rotary",
        rope_theta: float = 10_000.0,
        rope_scaling: Mapping[str, Any] | None = None,
        activation: str = "swiglu",
        bias: bool = False,
        window: int | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__()
        _refuse_sizes(dim, num_heads, head_dim, positions, window)
        self.dim, self.vocab_size, self.context_length, self.window = dim, vocab_size, context_length, window
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        sizes = {"num_heads": num_heads, "num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim, "hidden_dim": hidden_dim or 4 * dim}
        self.embedding = nn.Embedding(vocab_size, dim)
        learned = positions == "learned"
        self.positions = nn.Parameter(torch.empty(context_length, dim)) if learned else None
        self.rotary = None if learned else Rotary(head_dim=self.head_dim, theta=rope_theta, scaling=rope_scaling)
        self.blocks = nn.ModuleList(
            DecoderBlock(dim=dim, **sizes, activation=activation, norm=norm, eps=eps, bias=bias) for _ in range(depth)
        )
        self.norm = build_norm(norm, dim, eps)
        self.lm_head = None if tied else Linear(dim, vocab_size, bias=False)
        self._initialise()

    def forward(
        self,
        x: Int[Tensor, "*tokens"] | Float[Tensor, "*tokens dim"],
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        cache: Cache | None = None,
        layout: Packing | None = None,
    ) -> Float[Tensor, "*tokens dim"]:
        """Hidden states after the last norm.

        Args:
            x: ids [batch, length] or vectors [batch, length, dim]; with a layout a list, [total] or [total, dim].
            mask: True at real tokens of this call; padding may lie on either side.
            positions: None counts real tokens, those of the cache first.
            cache: holds what came before, and then this call's tokens too.
            layout: which tokens of a list belong together.
        """
        x = x if x.is_floating_point() else self.embed(x)
        places, call = self._list_call(layout, positions) if layout is not None else self._batch_call(x, mask, positions, cache)
        if self.positions is not None:
            x = x + self.positions[places]
        for layer, block in enumerate(self.blocks):
            x = block(x, call, layer)
        return self.norm(x)

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Vectors of token ids; negative ones, where something else goes, are zeros."""
        vectors = self.embedding(token_ids.clamp(min=0))
        return vectors.masked_fill((token_ids < 0)[..., None], 0.0)

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Scores of each token of the vocabulary as the next one."""
        if self.lm_head is not None:
            return self.lm_head(hidden)
        return fast_linear(hidden, self.embedding.weight, None)

    def new_cache(self, batch_size: int, length: int) -> Cache:
        """An empty cache for so many tokens a row, padding among them; in evaluation the weights are laid out for what follows."""
        if not self.training:
            lay_out(self._matrices(), by_columns=True)
        weight = self.embedding.weight
        shape = {"depth": len(self.blocks), "num_heads": self.num_kv_heads, "head_dim": self.head_dim}
        return Cache(batch_size=batch_size, length=length, dtype=weight.dtype, device=weight.device, **shape)

    def train(self, mode: bool = True) -> "CausalLM":
        """Training or evaluation, as ``torch.nn.Module`` has it."""
        if mode:
            lay_out(self._matrices(), by_columns=False)
        return super().train(mode)

    def _matrices(self) -> Iterator[Tensor]:
        """What multiplies tokens."""
        yield from (module.weight for module in self.modules() if isinstance(module, nn.Linear))
        if self.lm_head is None:
            yield self.embedding.weight

    def _batch_call(self, x: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Cache | None) -> tuple[Tensor, Call]:
        """Positions, and what the blocks share, of a padded batch."""
        past, length, device = 0 if cache is None else cache.length, x.shape[1], x.device
        keys = past + length
        side = _padding_side(mask)
        mask = None if side == "none" else mask
        if cache is not None:
            cache.extend(length, mask)
        real = mask if past == 0 else cache.mask if cache is not None and cache.padded else None
        places = _counted(real, past, keys, device) if positions is None else positions
        if past == 0 and side == "right":
            real = None  # a token never sees what stands after it
        self._refuse_long(places, keys)
        single = length == 1 and real is None  # sees all that its window reaches
        call = Call(
            rotation=None if self.rotary is None else self.rotary.tables(places),
            allowed=None if single else seen_keys(real, length, keys, self.window, device),
            first_key=max(0, keys - self.window) if single and self.window is not None else 0,
            cache=cache,
        )
        return places, call

    def _list_call(self, layout: Packing, positions: Tensor | None) -> tuple[Tensor, Call]:
        assert layout.asked is None, "every token of the list is asked for"
        positions = layout.positions if positions is None else positions
        self._refuse_long(positions, layout.shape[1])
        rotation = None if self.rotary is None else self.rotary.tables(positions)
        return positions, Call(rotation=rotation, layout=layout, window=self.window)

    def _refuse_long(self, positions: Tensor, keys: int) -> None:
        if keys <= self.context_length or positions.is_meta or not positions.numel():
            return
        longest = int(positions.max()) + 1
        if longest > self.context_length:
            raise DataError(f"texts have {longest} tokens; context_length allows {self.context_length}: shorten them")

    def _initialise(self) -> None:
        """GPT-2's: residual outputs shrink with depth."""
        residual = 0.02 * (2 * max(len(self.blocks), 1)) ** -0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                shrinks = name.endswith((".attention.out", ".mlp.fc2"))
                nn.init.normal_(module.weight, std=residual if shrinks else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)


def _counted(real: Tensor | None, past: int, keys: int, device: torch.device) -> Int[Tensor, "rows length"]:
    """Positions of the last keys among the real ones; one row stands for all where there is no padding."""
    if real is None:
        return torch.arange(past, keys, device=device)[None]
    return (real.cumsum(1) - 1).clamp(min=0)[:, past:]


def _padding_side(mask: Tensor | None) -> str:
    """Where padding lies: "none", "right", or "left" for anything else; unknown sizes count as "left"."""
    if mask is None:
        return "none"
    if mask.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return "left"
    if bool(mask.all()):
        return "none"
    return "left" if bool((mask[:, 1:] & ~mask[:, :-1]).any()) else "right"


def _refuse_sizes(dim: int, num_heads: int, head_dim: int | None, positions: str, window: int | None) -> None:
    if positions not in POSITIONS:
        raise ConfigError(f"positions: there is no {positions!r}; {name_choices(positions, POSITIONS)}")
    if num_heads < 1 or (head_dim is None and dim % num_heads):
        legal = [n for n in range(1, dim + 1) if dim % n == 0 and dim // n >= 8]
        raise ConfigError(f"num_heads: {num_heads} does not divide dim {dim}; divisors: {legal}, or set head_dim")
    if head_dim is not None and head_dim < 1:
        raise ConfigError(f"head_dim: got {head_dim}; allowed is a whole number above 0")
    if window is not None and window < 1:
        raise ConfigError(f"window: got {window}; allowed is a whole number above 0, or null for none")
