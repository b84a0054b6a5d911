"""Rows of different lengths as one list of tokens, so that nothing is computed for padding.

Layers that treat every token alike (norms, linear layers, feed-forward blocks) run over the list [total, dim]; only attention
asks which tokens belong together, and asks the layout. Outputs are those of the padded batch up to rounding::

    packing = Packing(mask)                          # [batch, length], True at real tokens
    x = packing.pack(x)                              # [batch, length, dim] -> [total, dim]
    for block in blocks:
        x = block(x, layout=packing)                 # which hands it to ``Attention(x, layout=packing)``
    tokens = packing.unpack(x)                       # [total, dim] -> [batch, length, dim], zeros at padding

Where one token of each row is all that is wanted, the last block computes no other::

    single = packing.only(positions)                 # [batch], the token of each row
    pooled = single.restore(last_block(x, layout=single))    # [batch, dim]; the block picks ``single.asking(x)``

Source: sequence packing, Krell et al. 2021 (arXiv 2107.02027); here without a mask over several rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from zoo.layers.attention import attend

ROUNDING = {"cuda": 8}  # by type of device: there fewer calls are worth a few tokens that nobody reads


def can_pack(token_ids: Shaped[Tensor, "batch length"]) -> bool:
    """Whether lengths can be known: there is something, and nobody traces or compiles."""
    traced = token_ids.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return not traced and token_ids.numel() > 0


@dataclass(frozen=True)
class Group:
    """Rows of equal lengths, which attend in one call.

    Attributes:
        queries: how many tokens of each row ask: the last of its keys, or any single one.
        keys: how many tokens of each row are asked.
        where: places of the keys in the list, row after row; None where the groups' keys are the whole list, in order.
        mask: True at keys that may be attended to; None allows all.
    """

    rows: int
    queries: int
    keys: int
    where: Int[Tensor, " rows_times_keys"] | None = None
    mask: Bool[Tensor, "rows keys"] | None = None


class Layout:
    """Which tokens of a list attend to which.

    Args:
        groups: in the order of the tokens that ask.
        causal: a token sees only itself and what comes before it in its row.
        asked: places of the tokens that ask; None: all of the list, in order.
        order: the row of the batch that each asking token stands for, where one of each row asks.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        causal: bool = False,
        asked: Int[Tensor, " asked"] | None = None,
        order: Int[Tensor, " asked"] | None = None,
    ) -> None:
        self.groups, self.causal, self.asked, self.order = groups, causal, asked, order

    def asking(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "asked dim"]:
        """The tokens that ask, for which a block computes outputs."""
        return x if self.asked is None else x[self.asked]

    def attend(
        self,
        q: Float[Tensor, "asked dim"],
        k: Float[Tensor, "total kv_dim"],
        v: Float[Tensor, "total kv_dim"],
        *,
        num_heads: int,
        window: int | None = None,
        dropout: float = 0.0,
        before: tuple[Float[Tensor, "added kv_dim"], Float[Tensor, "added kv_dim"]] | None = None,
    ) -> Float[Tensor, "asked dim"]:
        """Attention of the asking tokens to those of their rows; of causal ones to the last ``window``.

        Args:
            before: further keys and values, which stand before every row; groups with masks take none.
        """
        found = []
        queries = q.split([group.rows * group.queries for group in self.groups])
        for group, part, keys, values in zip(self.groups, queries, self._by_group(k), self._by_group(v), strict=True):
            rows = [x.unflatten(0, (group.rows, -1)) for x in (part, keys, values)]  # [rows, queries or keys, dim]
            if before is not None:
                assert group.mask is None
                rows[1:] = [torch.cat([x.to(y.dtype).expand(len(y), -1, -1), y], dim=1) for x, y in zip(before, rows[1:], strict=True)]
            causal = self.causal and (group.queries > 1 or window is not None)  # a single one is the last of its row, and sees all
            answers = attend(*rows, num_heads=num_heads, mask=group.mask, causal=causal, window=window, dropout=dropout)
            found.append(answers.flatten(0, 1))
        return torch.cat(found) if found else q

    def _by_group(self, x: Tensor) -> Sequence[Tensor]:
        """Keys or values of each group. One split: a slice for each would fill as many whole lists with gradients."""
        if any(group.where is not None for group in self.groups):
            return [x[group.where] for group in self.groups]
        return x.split([group.rows * group.keys for group in self.groups])

    def restore(self, x: Float[Tensor, "asked dim"]) -> Float[Tensor, "asked dim"]:
        """Answers in the order of the batch, where one token of each row asked."""
        assert self.order is not None
        return x[self.order.argsort()]


class Packing(Layout):
    """The real tokens of a padded batch, rows ordered by length.

    Rows of equal length attend together, without a mask. ``[1 1 0], [1 1 1], [0 1 0]`` gives the rows 2, 0, 1 and with them the
    places 7, 0, 1, 3, 4, 5 of the flat batch.

    Args:
        real: True at real tokens; a causal layout takes only rows of the form ``1 .. 1 0 .. 0``.
        causal: as ``Layout`` has it.
        rounding: round lengths up to multiples of it, by tokens that nobody attends to; None chooses by the device.

    Attributes:
        index: places of the list's tokens in the flat batch [batch * length].
    """

    def __init__(self, real: Bool[Tensor, "batch length"], *, causal: bool = False, rounding: int | None = None) -> None:
        (batch, length), device = real.shape, real.device
        step = ROUNDING.get(device.type, 1) if rounding is None else rounding
        lengths = real.sum(1)
        rounded = ((lengths + step - 1) // step * step).clamp(max=length)
        self.by_length = rounded.argsort(stable=True)
        places = (~real).int().argsort(dim=1, stable=True)  # in each row the real ones first
        places = places + torch.arange(batch, device=device)[:, None] * length  # [B, L]
        taken = torch.arange(length, device=device) < rounded[:, None]  # [B, L]
        self.shape, self.index = real.shape, places[self.by_length][taken[self.by_length]]
        self.lengths = lengths if step > 1 else None
        groups, start = [], 0
        for keys, same in groupby(rounded[self.by_length].tolist()):
            rows = len(list(same))
            if keys:  # rows without a real token have nothing to attend to
                groups.append(Group(rows, keys, keys, mask=None if causal else self._mask(start, rows, keys)))
            start += rows
        super().__init__(groups, causal=causal)

    @property
    def positions(self) -> Int[Tensor, " total"]:
        """The place of each of the list's tokens in its row."""
        return self.index % self.shape[1]

    def _mask(self, start: int, rows: int, keys: int) -> Bool[Tensor, "rows keys"] | None:
        """Real ones among the keys of some rows, where rounding may have added others."""
        if self.lengths is None:
            return None
        return torch.arange(keys, device=self.lengths.device) < self.lengths[self.by_length[start : start + rows], None]

    def only(self, positions: Int[Tensor, " batch"]) -> Layout:
        """The layout in which one token of each row asks.

        Args:
            positions: of a real token in each row; in a causal layout that of the last.
        """
        place = self.index.new_empty(self.shape.numel())
        place[self.index] = torch.arange(len(self.index), device=self.index.device)
        asked = place[self.by_length * self.shape[1] + positions[self.by_length]]
        groups, start = [], 0
        for group in self.groups:
            groups.append(Group(group.rows, 1, group.keys, mask=self._mask(start, group.rows, group.keys)))
            start += group.rows
        return Layout(groups, causal=self.causal, asked=asked, order=self.by_length)

    def pack(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "total dim"]:
        """The list's tokens."""
        return x.flatten(0, 1)[self.index]

    def unpack(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "batch length dim"]:
        """The padded batch, with zeros at padding (tokens that rounding added keep what they got)."""
        flat = x.new_zeros(self.shape.numel(), x.shape[1])
        return flat.index_copy(0, self.index, x).unflatten(0, self.shape)
