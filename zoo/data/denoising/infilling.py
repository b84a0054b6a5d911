"""BART's noises: text infilling, sentence permutation, token masking, token deletion and document rotation.

Paper: Lewis et al. 2019 (arXiv 1910.13461), section 2.2. The target is always the clean text. Where we differ from fairseq: spans are
counted in tokens, not in whole words, never overlap, and no token becomes a random one.
"""

from collections.abc import Collection, Sequence

import numpy as np

MEAN_SPAN = 3.0  # of the Poisson distribution of span lengths; mBART: 3.5


def infill(ids: Sequence[int], mask: int, generator: np.random.Generator, *, share: float = 0.3, mean_span: float = MEAN_SPAN) -> list[int]:
    """Replace spans by one mask token each; a span of length 0 inserts a mask token.

    Args:
        share: share of the tokens that are replaced.
        mean_span: mean of the Poisson distribution of the spans' lengths.
    """
    budget = round(share * len(ids))
    lengths: list[int] = []
    while sum(lengths) < budget:
        lengths.append(min(int(generator.poisson(mean_span)), budget - sum(lengths)))
    spans = [length for length in lengths if length]
    return _inserted(_replaced(ids, spans, mask, generator), len(lengths) - len(spans), mask, generator)


def _replaced(ids: Sequence[int], spans: Sequence[int], mask: int, generator: np.random.Generator) -> list[int]:
    """Replace spans of these lengths, in this order, at random places where they do not overlap."""
    free = len(ids) - sum(spans)
    # Places of the spans among the kept tokens; several may stand at one place, one behind the other.
    places = np.sort(generator.integers(0, free + 1, size=len(spans)))
    shown: list[int] = []
    place = kept = 0
    for span, before in zip(spans, places.tolist(), strict=True):
        shown += [*ids[place : place + before - kept], mask]
        place, kept = place + before - kept + span, before
    return shown + list(ids[place:])


def _inserted(ids: list[int], count: int, mask: int, generator: np.random.Generator) -> list[int]:
    for _ in range(count):
        ids.insert(int(generator.integers(len(ids) + 1)), mask)
    return ids


def sentences(ids: Sequence[int], ends: Collection[int]) -> list[list[int]]:
    """Cut a text behind each token that ends a sentence: with ``.`` as end, ``a . b c . d`` is ``a .``, ``b c .`` and ``d``."""
    found: list[list[int]] = [[]]
    for token in ids:
        found[-1].append(token)
        if token in ends:
            found.append([])
    return [each for each in found if each]


def permute_sentences(ids: Sequence[int], ends: Collection[int], generator: np.random.Generator) -> list[int]:
    """Put the sentences of a text into random order."""
    found = sentences(ids, ends)
    return [token for place in generator.permutation(len(found)) for token in found[place]]


def mask_tokens(ids: Sequence[int], mask: int, generator: np.random.Generator, *, share: float = 0.15) -> list[int]:
    """Replace a share of the tokens by the mask token."""
    chosen = set(generator.permutation(len(ids))[: round(share * len(ids))].tolist())
    return [mask if place in chosen else token for place, token in enumerate(ids)]


def delete_tokens(ids: Sequence[int], generator: np.random.Generator, *, share: float = 0.15) -> list[int]:
    """Remove a share of the tokens."""
    chosen = set(generator.permutation(len(ids))[: round(share * len(ids))].tolist())
    return [token for place, token in enumerate(ids) if place not in chosen]


def rotate(ids: Sequence[int], generator: np.random.Generator) -> list[int]:
    """Let a text begin at a random token; the tokens before it move to the end."""
    cut = int(generator.integers(len(ids))) if len(ids) else 0
    return [*ids[cut:], *ids[:cut]]
