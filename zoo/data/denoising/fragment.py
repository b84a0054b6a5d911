"""MASS: the encoder sees a sentence with a masked fragment, and the decoder writes the fragment at its own positions.

Paper: Song et al. 2019 (arXiv 1905.02450), sections 3.2 and 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fragment:
    """One example.

    Attributes:
        shown: the sentence with its fragment masked.
        target: the mask token, and behind it the fragment; token i predicts token i + 1.
        positions: position of each target token in the sentence, as an input of the decoder.
    """

    shown: list[int]
    target: list[int]
    positions: list[int]


def mask_fragment(
    ids: Sequence[int],
    mask: int,
    plain: Sequence[int] | np.ndarray,
    generator: np.random.Generator,
    *,
    share: float = 0.5,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> Fragment:
    """Mask a fragment of consecutive tokens.

    Of ``x1 ... x8`` with the fragment ``x3 x4 x5 x6``, the encoder sees ``x1 x2 _ _ _ _ x7 x8``; the decoder reads ``_ x3 x4 x5`` at the
    positions of ``x3 x4 x5 x6`` and writes these.

    Args:
        mask: id of the mask token.
        plain: ids of which random tokens are drawn.
        share: length of the fragment as a share of the sentence; one token is BERT's task, all tokens are GPT's.
        mask_share: share of the fragment's tokens that the encoder sees as the mask token.
        random_share: share that it sees as a random token; the rest stays.
    """
    length = min(max(round(share * len(ids)), 1), len(ids))
    first = int(generator.integers(len(ids) - length + 1))
    draw = generator.random(length)
    fragment = list(ids[first : first + length])
    others = np.asarray(plain)[generator.integers(len(plain), size=length)].tolist()
    hidden = [
        mask if d < mask_share else other if d < mask_share + random_share else token
        for d, other, token in zip(draw, others, fragment, strict=True)
    ]
    shown = [*ids[:first], *hidden, *ids[first + length :]]
    return Fragment(shown, [mask, *fragment], list(range(first, first + length + 1)))
