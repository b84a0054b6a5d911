"""What decoder-only language models have in common: padding, positions, cache and packed lists around a stack of blocks."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.layers.cache import Cache
from zoo.layers.decoder import Call, Rotation, seen_keys
from zoo.layers.linear import Linear, fast_linear, lay_out, pack, unpack
from zoo.layers.packing import Packing


class DecoderOnly(nn.Module):
    """Token ids, or their vectors, to hidden states, from which ``logits`` makes scores of the next token.

    A subclass sets the attributes, and says in ``place`` what positions add to vectors and in ``rotation`` how they turn queries and
    keys.

    Attributes:
        lm_head: None where the table of token vectors also scores the next token.
        window: a token sees so many tokens at most, itself among them; None: all before it.
    """

    dim: int
    vocab_size: int
    context_length: int
    num_kv_heads: int
    head_dim: int
    window: int | None
    embedding: nn.Embedding
    blocks: nn.ModuleList
    norm: nn.Module
    lm_head: Linear | None

    def place(self, x: Float[Tensor, "*tokens dim"], places: Int[Tensor, "*#tokens"]) -> Float[Tensor, "*tokens dim"]:
        """What the first block is given of these vectors at these positions."""
        return x

    def rotation(self, places: Int[Tensor, "*#tokens"]) -> Rotation | None:
        """How positions turn queries and keys; None: not at all."""
        return None

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
        x = self.place(x, places)
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
            if batch_size > 1:
                pack(self._matrices())
        weight = self.embedding.weight
        shape = {"depth": len(self.blocks), "num_heads": self.num_kv_heads, "head_dim": self.head_dim}
        return Cache(batch_size=batch_size, length=length, dtype=weight.dtype, device=weight.device, **shape)

    def train(self, mode: bool = True) -> "DecoderOnly":
        """Training or evaluation, as ``torch.nn.Module`` has it."""
        if mode:
            unpack(self._matrices())
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
            rotation=self.rotation(places),
            allowed=None if single else seen_keys(real, length, keys, self.window, device),
            first_key=max(0, keys - self.window) if single and self.window is not None else 0,
            cache=cache,
        )
        return places, call

    def _list_call(self, layout: Packing, positions: Tensor | None) -> tuple[Tensor, Call]:
        assert layout.asked is None, "every token of the list is asked for"
        positions = layout.positions if positions is None else positions
        self._refuse_long(positions, layout.shape[1])
        return positions, Call(rotation=self.rotation(positions), layout=layout, window=self.window)

    def _refuse_long(self, positions: Tensor, keys: int) -> None:
        if keys <= self.context_length or positions.is_meta or not positions.numel():
            return
        longest = int(positions.max()) + 1
        if longest > self.context_length:
            raise DataError(f"texts have {longest} tokens; context_length allows {self.context_length}: shorten them")


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
