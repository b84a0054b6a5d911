"""Key-value cache of a decoder, in memory that is allocated once."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError
from zoo.layers.picture_positions import WORD, picture_positions


class Cache:
    """Keys and values of each layer, and a mask of the real tokens among them.

    A call of the model first reserves positions with ``extend``; each layer then fills them with ``append``::

        cache = model.new_cache(batch_size=2, length=100)
        hidden = model(prompt_ids, mask, cache=cache)    # padding on either side
        hidden = model(next_ids, cache=cache)            # [2, 1]; one more token for each row

    Args:
        depth: number of layers.
        batch_size: number of rows.
        num_heads: heads of keys and values.
        length: capacity of each row in tokens, padding included.
        head_dim: width of each head.
        dtype: of keys and values; None: torch's default.
        device: of keys and values; None: torch's default.

    Attributes:
        keys: [depth, batch, num_heads, room, head_dim]; ``values`` has the same shape.
        real: [batch, room], True at real tokens.
        length: number of filled positions of each row.
        padded: True if there is padding among the filled positions.
        marks: [batch, room], marks of the tokens of pictures (``zoo.layers.picture_positions``); None if there was no picture so far.
        delta: [batch], what has to be added to the number of real tokens to get the next position, because a picture takes fewer
            positions than it has tokens; None: nothing.
    """

    def __init__(
        self,
        *,
        depth: int,
        batch_size: int,
        num_heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        # torch.empty: positions from ``length`` on are never read, so they need no values.
        shape = (depth, batch_size, num_heads, length, head_dim)
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        self.real = torch.ones(batch_size, length, dtype=torch.bool, device=device)
        self.length = 0
        self.padded = False
        self.marks: Tensor | None = None
        self.delta: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.keys.shape[1]

    @property
    def room(self) -> int:
        """Capacity of each row, in tokens."""
        return self.keys.shape[3]

    @property
    def mask(self) -> Bool[Tensor, "batch filled"]:
        """Mask of the filled positions, True at real tokens."""
        return self.real[:, : self.length]

    def extend(self, count: int, mask: Bool[Tensor, "batch count"] | None = None) -> None:
        """Reserve the next positions.

        Args:
            count: number of positions per row.
            mask: True at real tokens; None: all are real.

        Raises:
            DataError: fewer than ``count`` positions are left.
        """
        # Once per call and not per layer: all layers write to the same positions.
        start, end = self.length, self.length + count
        if end > self.room:
            raise DataError(
                f"the cache has room for {self.room} tokens per row, but needs {end}; create a longer one, or call reserve({end})"
            )
        self.real[:, start:end] = True if mask is None else mask
        if self.marks is not None:
            self.marks[:, start:end] = WORD
        self.length, self.padded = end, self.padded or mask is not None

    def mark(self, marks: Int[Tensor, "batch count"]) -> Int[Tensor, "3 batch count"]:
        """Keep the marks of the positions reserved last, update ``delta``, and return the positions on three axes of their tokens."""
        if self.marks is None:
            self.marks = torch.zeros_like(self.real, dtype=torch.int32)
        start = self.length - marks.shape[1]
        self.marks[:, start : self.length] = marks
        return self._located()[..., start:]

    def _located(self) -> Int[Tensor, "3 batch filled"]:
        assert self.marks is not None
        positions, ends = picture_positions(self.marks[:, : self.length].long(), self.mask)
        self.delta = ends - self.mask.sum(1)
        return positions

    def append(
        self, layer: int, keys: Float[Tensor, "batch num_heads count head_dim"], values: Float[Tensor, "batch num_heads count head_dim"]
    ) -> tuple[Float[Tensor, "batch num_heads filled head_dim"], Float[Tensor, "batch num_heads filled head_dim"]]:
        """Write a layer's keys and values to the positions reserved last; return views of all its filled keys and values."""
        end, start = self.length, self.length - keys.shape[2]
        own_keys, own_values = self.keys[layer], self.values[layer]
        own_keys[:, :, start:end] = keys
        own_values[:, :, start:end] = values
        return own_keys[:, :, :end], own_values[:, :, :end]

    def select(self, rows: Int[Tensor, " rows"]) -> "Cache":
        """Keep the given rows in the given order, in place; a row may occur several times (beams) or not at all (a finished text)."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(old.shape[0], len(rows), *old.shape[2:])  # only the filled part is copied
            new[..., : self.length, :] = old[..., : self.length, :].index_select(1, rows)
            setattr(self, name, new)
        self.real = self.real.index_select(0, rows)
        self.marks = None if self.marks is None else self.marks.index_select(0, rows)
        self.delta = None if self.delta is None else self.delta.index_select(0, rows)
        return self

    def crop(self, length: int) -> "Cache":
        """Keep the first ``length`` positions of each row, in place.

        Raises:
            DataError: fewer positions are filled.
        """
        if not 0 <= length <= self.length:
            raise DataError(f"the cache holds {self.length} tokens per row and cannot keep the first {length}")
        self.length = length
        self.padded = self.padded and not bool(self.mask.all())
        if self.marks is not None and length:
            self._located()
        elif not length:
            self.marks = self.delta = None
        return self

    def reserve(self, length: int) -> "Cache":
        """Enlarge the capacity to at least ``length`` tokens per row, in place."""
        if length > self.room:
            for name in ("keys", "values"):
                old = getattr(self, name)
                new = old.new_empty(*old.shape[:3], length, old.shape[4])
                new[..., : self.length, :] = old[..., : self.length, :]
                setattr(self, name, new)
            real = self.real.new_ones(len(self.real), length)
            real[:, : self.length] = self.mask
            self.real = real
            if self.marks is not None:
                self.marks = F.pad(self.marks, (0, length - self.marks.shape[1]))
        return self
