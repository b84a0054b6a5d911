"""Packing of rows of different lengths into one list of tokens, so that nothing is computed for padding.

Layers that treat every token alike (norms, linear layers, feed-forward blocks) run over the list [total, dim]. Only attention needs to know
which tokens belong together; a ``Layout`` tells it. Outputs equal those of the padded batch up to rounding::

    packing = Packing(mask)                          # [batch, length], True at real tokens
    x = packing.pack(x)                              # [batch, length, dim] -> [total, dim]
    for block in blocks:
        x = block(x, layout=packing)                 # the block calls ``Attention(x, layout=packing)``
    tokens = packing.unpack(x)                       # [total, dim] -> [batch, length, dim], zeros at padding

If only one token of each row is needed (pooling), the last block computes only that one::

    single = packing.only(positions)                 # positions [batch]: the needed token of each row
    pooled = single.restore(last_block(x, layout=single))    # [batch, dim]; the block selects ``single.asking(x)``

In this module, tokens that "ask" are the query tokens, for which a block computes outputs; ``asked`` holds their positions in the list.

Source: sequence packing, Krell et al. 2021 (arXiv 2107.02027); unlike there, rows are attended to separately, so no mask is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from zoo.layers.attention import attend
from zoo.layers.recorded import is_recorded
from zoo.types import on_host, send

ROUNDING = {"cuda": 8}  # by type of device: on a GPU, fewer different lengths save more time than a few unused tokens cost


def can_pack(token_ids: Shaped[Tensor, "batch length"]) -> bool:
    """True if rows can be packed: the batch is not empty, and its values are known (no meta tensors, tracing or compilation)."""
    return not (token_ids.is_meta or is_recorded()) and token_ids.numel() > 0


@dataclass(frozen=True)
class Group:
    """Rows of equal length, which are attended to in one call.

    Attributes:
        rows: number of rows.
        queries: query tokens per row: the last of its keys, or any single one.
        keys: key tokens per row.
        where: positions of the keys in the list, row after row; None if the keys of all groups are the whole list, in order.
        mask: True at keys that may be attended to; None allows all.
        prefix: number of first keys of each row that every query sees, also the causal ones before them; None: of no row.
    """

    rows: int
    queries: int
    keys: int
    where: Int[Tensor, " rows_times_keys"] | None = None
    mask: Bool[Tensor, "rows keys"] | None = None
    prefix: Int[Tensor, " rows"] | None = None


class Layout:
    """Attention pattern of a list of tokens.

    Args:
        groups: rows grouped by length, in the order of the query tokens.
        causal: True lets a token attend only to itself and earlier tokens of its row.
        asked: positions of the query tokens in the list; None: all tokens, in order.
        order: row of the batch of each query token, if there is one per row.
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
        """Return the query tokens, for which a block computes outputs."""
        return x if self.asked is None else x[self.asked]

    def attend(
        self,
        q: Float[Tensor, "asked dim"],
        k: Float[Tensor, "total kv_dim"],
        v: Float[Tensor, "total kv_dim"],
        *,
        num_heads: int,
        window: int | None = None,
        scale: float | None = None,
        cap: float | None = None,
        dropout: float = 0.0,
        before: tuple[Float[Tensor, "added kv_dim"], Float[Tensor, "added kv_dim"]] | None = None,
    ) -> Float[Tensor, "asked dim"]:
        """Attend from the query tokens to the tokens of their rows; if causal, to the last ``window`` of them.

        Args:
            q: queries of the query tokens.
            k: keys of all tokens of the list.
            v: values of all tokens of the list.
            num_heads: heads of the queries.
            window: maximum number of keys per query; None: no limit.
            scale: factor on the scores; None takes head_dim ** -0.5.
            cap: soft limit of the scores; None: no limit.
            dropout: share of the attention weights that are set to zero.
            before: keys and values of a learned prefix, inserted before every row; not possible for groups with masks.
        """
        found = []
        queries = q.split([group.rows * group.queries for group in self.groups])
        for group, part, keys, values in zip(self.groups, queries, self._by_group(k), self._by_group(v), strict=True):
            rows = [x.unflatten(0, (group.rows, -1)) for x in (part, keys, values)]  # [rows, queries or keys, dim]
            if before is not None:
                assert group.mask is None
                rows[1:] = [torch.cat([x.to(y.dtype).expand(len(y), -1, -1), y], dim=1) for x, y in zip(before, rows[1:], strict=True)]
            causal = self.causal and (group.queries > 1 or window is not None)  # a single query is its row's last token and sees all
            settings = {"window": window, "scale": scale, "cap": cap, "dropout": dropout}
            seen = group.prefix if causal else None
            if seen is not None and before is not None:
                seen = seen + before[0].shape[0]
            answers = attend(*rows, num_heads=num_heads, mask=group.mask, causal=causal, prefix=seen, **settings)
            found.append(answers.flatten(0, 1))
        return torch.cat(found) if found else q

    def _by_group(self, x: Tensor) -> Sequence[Tensor]:
        """Return the keys or values of each group.

        A single ``split`` is used because each separate slice would allocate a gradient of the size of the whole list.
        """
        if any(group.where is not None for group in self.groups):
            return [x[group.where] for group in self.groups]
        return x.split([group.rows * group.keys for group in self.groups])

    def restore(self, x: Float[Tensor, "asked dim"]) -> Float[Tensor, "asked dim"]:
        """Return outputs in the order of the batch, for a layout with one query token per row."""
        assert self.order is not None
        return x[self.order.argsort()]


class Packing(Layout):
    """The real tokens of a padded batch as a list, with rows ordered by length.

    Rows of equal length are attended to together, without a mask. ``[1 1 0], [1 1 1], [0 1 0]`` gives the rows 2, 0, 1, whose tokens are at
    the positions 7, 0, 1, 3, 4, 5 of the flat batch.

    Args:
        real: True at real tokens; a causal layout needs rows of the form ``1 .. 1 0 .. 0``.
        causal: as in ``Layout``.
        rounding: lengths are rounded up to multiples of this number, by padding to which no real token attends; None chooses it by device.
        prefix_lengths: of a causal layout, the number of first tokens of each row that see each other (a prefix language model).

    Attributes:
        index: positions of the list's tokens in the flat batch [batch * length].
        by_length: rows of the batch, ordered by (rounded) length, on the CPU.
    """

    def __init__(
        self,
        real: Bool[Tensor, "batch length"],
        *,
        causal: bool = False,
        rounding: int | None = None,
        prefix_lengths: Int[Tensor, " batch"] | None = None,
    ) -> None:
        assert causal or prefix_lengths is None
        (batch, length), self.device = real.shape, real.device
        step = ROUNDING.get(self.device.type, 1) if rounding is None else rounding
        # Indices are computed on the CPU and sent to the device, because the number of tokens must be known to the host.
        real = on_host(real)
        lengths = real.sum(1)
        rounded = ((lengths + step - 1) // step * step).clamp(max=length)
        self.by_length = rounded.argsort(stable=True)
        places = (~real).int().argsort(dim=1, stable=True)  # real tokens first in each row; stable, so they keep their order
        places = places + torch.arange(batch)[:, None] * length  # [B, L]
        taken = torch.arange(length) < rounded[:, None]  # [B, L]
        self.shape, self._index = real.shape, places[self.by_length][taken[self.by_length]]
        self.index = send(self._index, self.device)
        self.lengths = lengths if step > 1 else None
        groups, start = [], 0
        for keys, same in groupby(rounded[self.by_length].tolist()):
            rows = len(list(same))
            if keys:  # rows without a real token are not in the list
                chosen = self.by_length[start : start + rows]
                prefix = None if prefix_lengths is None else send(on_host(prefix_lengths)[chosen], self.device)
                groups.append(Group(rows, keys, keys, mask=None if causal else self._mask(start, rows, keys), prefix=prefix))
            start += rows
        super().__init__(groups, causal=causal)

    @property
    def positions(self) -> Int[Tensor, " total"]:
        """Position of each of the list's tokens in its row of the batch."""
        return self.index % self.shape[1]

    def _mask(self, start: int, rows: int, keys: int) -> Bool[Tensor, "rows keys"] | None:
        """Return the mask of real keys of some rows, or None if lengths were not rounded."""
        if self.lengths is None:
            return None
        return send(torch.arange(keys) < self.lengths[self.by_length[start : start + rows], None], self.device)

    def only(self, positions: Int[Tensor, " batch"]) -> Layout:
        """Return the layout in which one token of each row is a query.

        Args:
            positions: position in its row of one real token per row; in a causal layout, the last real token.
        """
        place = self._index.new_empty(self.shape.numel())
        place[self._index] = torch.arange(len(self._index))
        asked = place[self.by_length * self.shape[1] + on_host(positions)[self.by_length]]
        groups, start = [], 0
        for group in self.groups:
            groups.append(Group(group.rows, 1, group.keys, mask=self._mask(start, group.rows, group.keys)))
            start += group.rows
        return Layout(groups, causal=self.causal, asked=send(asked, self.device), order=send(self.by_length, self.device))

    def pack(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "total dim"]:
        """Return the list of tokens of a padded batch."""
        return x.flatten(0, 1)[self.index]

    def unpack(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "batch length dim"]:
        """Return the padded batch of a list, with zeros at padding (tokens that rounding added keep their outputs)."""
        flat = x.new_zeros(self.shape.numel(), x.shape[1])
        return flat.index_copy(0, self.index, x).unflatten(0, self.shape)
