"""State of a recurrent language model: the interface of a key-value cache, but with a size that does not grow with the text."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import DataError


class RecurrentState:
    """State of each layer of an RWKV model after the tokens read so far; a drop-in for ``zoo.layers.cache.Cache``.

    It can be continued, copied to other rows and cleared, but not taken back to an earlier token.

    Args:
        depth: number of layers.
        batch_size: number of rows.
        num_heads: heads of each layer.
        head_dim: width of each head.
        dtype: of the previous tokens; the matrices are always float32.
        device: of all tensors.
        memory: shape of the state of a row in one layer, if it is not the matrices of RWKV-7 (RWKV-4: three sums of each channel).

    Attributes:
        shifted: [2, depth, batch, dim], the last input of the time mix and of the channel mix of each layer.
        matrices: [depth, batch, num_heads, head_dim, head_dim], values by keys; or [depth, batch, *memory].
        length: number of tokens read, padding included.
    """

    def __init__(
        self,
        *,
        depth: int,
        batch_size: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
        memory: Sequence[int] | None = None,
    ) -> None:
        self.shifted = torch.zeros(2, depth, batch_size, num_heads * head_dim, dtype=dtype, device=device)
        self.matrices = torch.zeros(depth, batch_size, *(memory or (num_heads, head_dim, head_dim)), device=device)
        self.length = 0

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.matrices.shape[1]

    def extend(self, count: int) -> None:
        """Count the tokens of a call."""
        self.length += count

    def keep(
        self,
        layer: int,
        *,
        time: Float[Tensor, "batch dim"],
        channel: Float[Tensor, "batch dim"],
        matrices: Float[Tensor, "batch ..."],
    ) -> None:
        """Replace the state of a layer."""
        self.shifted[0, layer], self.shifted[1, layer], self.matrices[layer] = time, channel, matrices

    def select(self, rows: Int[Tensor, " rows"]) -> "RecurrentState":
        """Keep the given rows in the given order, in place; a row may occur several times (beams) or not at all (a finished text)."""
        self.shifted, self.matrices = self.shifted.index_select(2, rows), self.matrices.index_select(1, rows)
        return self

    def crop(self, length: int) -> "RecurrentState":
        """Keep the state if it has read ``length`` tokens; otherwise clear it, because a state cannot go back.

        Raises:
            DataError: fewer tokens were read.
        """
        if not 0 <= length <= self.length:
            raise DataError(f"the state has read {self.length} tokens per row and cannot keep the first {length}")
        if length < self.length:
            self.shifted, self.matrices = torch.zeros_like(self.shifted), torch.zeros_like(self.matrices)
            self.length = 0
        return self

    def reserve(self, length: int) -> "RecurrentState":
        """Do nothing: a state has room for any number of tokens."""
        return self


def previous_real(
    x: Float[Tensor, "batch length dim"], before: Float[Tensor, "batch dim"], real: Bool[Tensor, "batch length"] | None
) -> tuple[Float[Tensor, "batch length dim"], Float[Tensor, "batch dim"]]:
    """Return for each token the real token before it, and the last real token of each row; ``before`` stands before the first one.

    With the mask ``[0 1 1 0]``, the tokens before are ``before before x1 x2``, and the last one is x2.
    """
    if real is None:
        return torch.cat([before[:, None], x[:, :-1]], dim=1), x[:, -1] if x.shape[1] else before
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    last = (places * real).cummax(1).values  # index of the last real token up to each place in [before, x]; 0 is ``before``
    everything = torch.cat([before[:, None], x], dim=1)
    index = torch.cat([torch.zeros_like(last[:, :1]), last], dim=1)[..., None].expand(-1, -1, x.shape[-1])  # [B, L + 1, dim]
    found = everything.gather(1, index)
    return found[:, :-1], found[:, -1]
