"""Key-value cache of a decoder, in memory that is allocated once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError


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
        self.length, self.padded = end, self.padded or mask is not None

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
        return self
