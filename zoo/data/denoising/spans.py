"""Span corruption: spans of a text are replaced by sentinels in the input, and the target holds the spans between the same sentinels.

Paper: Raffel et al. 2019 (T5, arXiv 1910.10683), sections 3.1.4 and 3.3; Tay et al. 2022 (UL2, arXiv 2205.05131), section 3.1. Reference:
google-research/text-to-text-transfer-transformer, ``preprocessors.py``, ``random_spans_noise_mask``. As there, the target has no closing
sentinel, which the paper's figure 2 shows.
"""

from collections.abc import Callable, Sequence

import numpy as np

Noised = tuple[list[int], list[int]]  # input and target, without start and end symbols


def noise_counts(length: int, *, share: float, mean_span: float) -> tuple[int, int]:
    """Return the numbers of noise tokens and of spans in a text; Python's ``round`` rounds halves to even, as the reference does.

    568 tokens with a share of 0.15 and a mean of 3 have 85 noise tokens in 28 spans.
    """
    noise = min(max(round(length * share), 1), length - 1)
    return noise, max(1, min(round(noise / mean_span), noise, length - noise))


def composition(total: int, parts: int, generator: np.random.Generator) -> list[int]:
    """Divide a number into so many positive parts; all ways are equally likely."""
    cuts = np.sort(generator.choice(total - 1, size=parts - 1, replace=False)) + 1
    return np.diff([0, *cuts, total]).astype(int).tolist()


def span_lengths(length: int, *, share: float, mean_span: float, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Return the lengths of alternating stretches, each of kept tokens and then of noise; a text always ends in noise."""
    noise, spans = noise_counts(length, share=share, mean_span=mean_span)
    noises = composition(noise, spans, generator)
    return list(zip(composition(length - noise, spans, generator), noises, strict=True))


def with_sentinels(ids: Sequence[int], stretches: Sequence[tuple[int, int]], sentinel: Callable[[int], int]) -> Noised:
    """Replace each noise span by its sentinel in the input, and each other stretch by the same sentinel in the target.

    ``a b c d e f g h`` with the stretches (2, 2) and (3, 1) gives ``a b S0 e f g S1`` and ``S0 c d S1 h``.
    """
    shown: list[int] = []
    target: list[int] = []
    place = 0
    for number, (kept, noise) in enumerate(stretches):
        shown += [*ids[place : place + kept], sentinel(number)]
        target += [sentinel(number), *ids[place + kept : place + kept + noise]]
        place += kept + noise
    return shown + list(ids[place:]), target


def corrupt_spans(
    ids: Sequence[int], sentinel: Callable[[int], int], generator: np.random.Generator, *, share: float = 0.15, mean_span: float = 3.0
) -> Noised:
    """Apply T5's span corruption; a text of one token is its own target behind a sentinel."""
    if len(ids) < 2:
        return [sentinel(0)], [sentinel(0), *ids]
    return with_sentinels(ids, span_lengths(len(ids), share=share, mean_span=mean_span, generator=generator), sentinel)


def corrupt_tokens(ids: Sequence[int], sentinel: Callable[[int], int], generator: np.random.Generator, *, share: float = 0.15) -> Noised:
    """Choose each token independently; neighbouring ones share a sentinel. Source: Raffel et al. 2019, section 3.3.2."""
    chosen = generator.random(len(ids)) < share
    chosen[generator.integers(len(ids))] |= not chosen.any()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(int)))  # starts and ends of spans in turn
    starts, ends = edges[::2], edges[1::2]
    before = np.concatenate([[0], ends[:-1]])
    return with_sentinels(ids, [(int(s - b), int(e - s)) for b, s, e in zip(before, starts, ends, strict=True)], sentinel)


def split_prefix(ids: Sequence[int], generator: np.random.Generator, *, suffix_share: float | None = None) -> Noised:
    """Give the first part of a text as input and the rest as target (prefix language modelling).

    Args:
        suffix_share: share of the target; None draws the place of the cut uniformly.
    """
    if len(ids) < 2:
        return [], list(ids)
    if suffix_share is None:
        cut = int(generator.integers(1, len(ids)))
    else:
        cut = min(max(len(ids) - round(suffix_share * len(ids)), 1), len(ids) - 1)
    return list(ids[:cut]), list(ids[cut:])


def text_length(input_length: int, *, share: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """Return the longest text whose corrupted input, with its end symbol, fits ``input_length``, and the length of its target.

    512 gives 568 and 114. Source: ``random_spans_helper`` of the reference, which at a share of a half keeps targets as short
    as inputs.
    """
    length = input_length
    while _lengths(length + 1, share, mean_span)[0] <= input_length:
        length += 1
    target_length = _lengths(length, share, mean_span)[1]
    return (length - 1, target_length - 1) if share == 0.5 and target_length > input_length else (length, target_length)


def _lengths(length: int, share: float, mean_span: float) -> tuple[int, int]:
    noise, spans = noise_counts(length, share=share, mean_span=mean_span)
    return length - noise + spans + 1, noise + spans + 1


# UL2's mixture of denoisers, drawn with equal probability: mode, mean length of a span, share of noise (Tay et al. 2022, table 1).
UL2: tuple[tuple[str, float | None, float], ...] = (
    ("NLU", 3.0, 0.15),
    ("NLU", 8.0, 0.15),
    ("S2S", None, 0.25),
    ("NLG", 3.0, 0.5),
    ("NLG", 8.0, 0.5),
    ("NLG", 64.0, 0.15),
    ("NLG", 64.0, 0.5),
)
MODES = ("NLU", "S2S", "NLG")


def mixture_of_denoisers(
    ids: Sequence[int], sentinel: Callable[[int], int], modes: Sequence[int], generator: np.random.Generator
) -> Noised:
    """Apply one of UL2's seven denoisers; the input begins with the token of its mode.

    Where we differ: the target of the sequential denoiser is the suffix without a sentinel.

    Args:
        modes: ids of the tokens [NLU], [S2S] and [NLG].
    """
    mode, mean_span, share = UL2[int(generator.integers(len(UL2)))]
    if mean_span is None:
        shown, target = split_prefix(ids, generator, suffix_share=share)
    else:
        shown, target = corrupt_spans(ids, sentinel, generator, share=share, mean_span=mean_span)
    return [modes[MODES.index(mode)], *shown], target
