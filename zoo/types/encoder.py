"""Encoders: one modality to tokens."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from zoo.types.batch import Encoded


@dataclass(frozen=True)
class EncoderSpec:
    """What a head must know of an encoder before it can be built.

    Attributes:
        dim: width of its tokens.
        pooled: whether it gives a pooled vector.
        num_tokens: of each item, where the head reads patches and every item has as many; None where that is not known.
        vocab_size: rows of its table of words, where it has one.
        word_dim: width of that table, where a head may share it (``encoder.word_logits``).
    """

    modality: str
    dim: int
    pooled: bool = True
    num_tokens: int | None = None
    vocab_size: int | None = None
    word_dim: int | None = None

    @classmethod
    def of(cls, encoder: "Encoder") -> "EncoderSpec":
        """Read the specification off an encoder."""
        words = {name: getattr(encoder, name, None) for name in ("vocab_size", "word_dim")}
        return cls(encoder.modality, encoder.dim, getattr(encoder, "gives_pooled", True), **words)


@runtime_checkable
class Encoder(Protocol):
    """One modality to tokens.

    One with the attribute ``pools_alone = True`` takes a third argument ``reads`` ("tokens" or "pooled"); for "pooled" it may give
    the pooled vectors as its only tokens [batch, 1, dim].
    """

    modality: str
    dim: int

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Encoded: ...


def encode(
    encoder: Encoder,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    reads: str = "tokens",
    layer: int | None = None,
    class_token: bool = False,
) -> Encoded:
    """Ask an encoder; one that can leave out what is not read is told what is.

    Args:
        reads: "tokens", "pooled", or "patches": of an encoder that has a method ``patches`` the tokens of places alone, without
            registers; of others their usual tokens.
        layer: of patches, counted as transformers' ``hidden_states``: -1 is the last block's output before the final norm, -2 the one
            before; None: the last, normalised. Encoders whose layers differ in width or in number of tokens give their last.
        class_token: before the patches the class token, of encoders that have one.
    """
    if reads == "patches":
        patches: Any = getattr(encoder, "patches", None)
        return encoder(x, mask) if patches is None else patches(x, mask, layer=layer, class_token=class_token)
    if getattr(encoder, "pools_alone", False):
        return encoder(x, mask, reads=reads)  # type: ignore[call-arg]
    return encoder(x, mask)
