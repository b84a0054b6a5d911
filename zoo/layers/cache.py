"""Keys and values of what a decoder has read, in memory that is taken once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError


class Cache:
    """Keys and values of each layer, and which of them are of real tokens.

    A call of the model first takes places with ``extend``, then each layer fills them with ``append``::

        cache = model.new_cache(batch_size=2, length=100)
        hidden = model(prompt_ids, mask, cache=cache)    # padding on either side
        hidden = model(next_ids, cache=cache)            # [2, 1]; one more token for each row

    Args:
        num_heads: of keys and values.
        length: how many tokens of a row, padding among them, have room.

    Attributes:
        keys: [depth, batch, num_heads, room, head_dim]; likewise ``values``.
        length: how many places of each row are filled.
        padded: whether there is padding among them.
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
        shape = (depth, batch_size, num_heads, length, head_dim)
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        self.real = torch.ones(batch_size, length, dtype=torch.bool, device=device)
        self.length = 0
        self.padded = False

    @property
    def batch_size(self) -> int:
        """How many rows."""
        return self.keys.shape[1]

    @property
    def room(self) -> int:
        """How many places each row has."""
        return self.keys.shape[3]

    @property
    def mask(self) -> Bool[Tensor, "batch filled"]:
        """True at real tokens."""
        return self.real[:, : self.length]

    def extend(self, count: int, mask: Bool[Tensor, "batch count"] | None = None) -> None:
        """Take the next places.

        Args:
            mask: True at real tokens; None: all are.

        Raises:
            DataError: there are not so many left.
        """
        start, end = self.length, self.length + count
        if end > self.room:
            raise DataError(f"the cache has room for {self.room} tokens a row, and {end} were given; make a longer one, or reserve({end})")
        self.real[:, start:end] = True if mask is None else mask
        self.length, self.padded = end, self.padded or mask is not None

    def append(
        self, layer: int, keys: Float[Tensor, "batch num_heads count head_dim"], values: Float[Tensor, "batch num_heads count head_dim"]
    ) -> tuple[Float[Tensor, "batch num_heads filled head_dim"], Float[Tensor, "batch num_heads filled head_dim"]]:
        """Fill the places taken last, and return the layer's whole keys and values, which are views."""
        end, start = self.length, self.length - keys.shape[2]
        own_keys, own_values = self.keys[layer], self.values[layer]
        own_keys[:, :, start:end] = keys
        own_values[:, :, start:end] = values
        return own_keys[:, :, :end], own_values[:, :, :end]

    def select(self, rows: Int[Tensor, " rows"]) -> "Cache":
        """Keep these rows in this order, in place; a row may be named again (beams) or left out (a text that has ended)."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(old.shape[0], len(rows), *old.shape[2:])
            new[..., : self.length, :] = old[..., : self.length, :].index_select(1, rows)
            setattr(self, name, new)
        self.real = self.real.index_select(0, rows)
        return self

    def crop(self, length: int) -> "Cache":
        """Keep the first ``length`` places, in place.

        Raises:
            DataError: there are not so many.
        """
        if not 0 <= length <= self.length:
            raise DataError(f"the cache holds {self.length} tokens a row; it cannot keep the first {length}")
        self.length = length
        self.padded = self.padded and not bool(self.mask.all())
        return self

    def reserve(self, length: int) -> "Cache":
        """Make room for ``length`` tokens a row where there is less, in place."""
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
