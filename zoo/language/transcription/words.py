"""Tokens to words with their times.

Reference: openai-whisper ``tokenizer.py``, ``split_to_word_tokens``, and ``timing.py``, ``add_word_timestamps``, whose times these are.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.language.transcription.alignment import TokenTimes
from zoo.language.transcription.transcript import Segment, Word

WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")  # languages in which every character counts as a word
PREPENDED = "\"'\u201c\u00bf([{-"  # belong to the word behind them
APPENDED = "\"'.\u3002,\uff0c!\uff01?\uff1f:\uff1a\u201d)]}\u3001"  # belong to the word before them
SENTENCE_ENDS = ".\u3002!\uff01?\uff1f"
BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character
LONGEST_MEDIAN_S = 0.7  # of a word
LONG_PAUSE = 4  # in median words
NEAR_S = 0.5  # how far a segment's times may lie from its words'


@dataclass
class Timed:
    """A word whose time may still change; one that was joined to its neighbour has no text left."""

    text: str
    token_ids: list[int]
    start: float
    end: float
    probability: float


def split_words(ids: Sequence[int], decode: Callable[[Sequence[int]], str], language: str) -> list[tuple[str, list[int]]]:
    """Texts and token ids of words; punctuation stands alone.

    Args:
        ids: of text alone.
        decode: a tokenizer's.
    """
    pieces = _characters(ids, decode)
    if language in WITHOUT_SPACES:
        return pieces
    words: list[tuple[str, list[int]]] = []
    for text, tokens in pieces:
        if text.startswith(" ") or text.strip() in string.punctuation or not words:
            words.append((text, list(tokens)))
        else:
            words[-1] = (words[-1][0] + text, words[-1][1] + tokens)
    return words


def _characters(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[tuple[str, list[int]]]:
    """The smallest runs of tokens that are whole characters."""
    whole, offset = decode(ids), 0
    found: list[tuple[str, list[int]]] = []
    run: list[int] = []
    for token in ids:
        run = [*run, token]
        text = decode(run)
        place = text.find(BROKEN)
        if place < 0 or whole[offset + place : offset + place + 1] == BROKEN:  # a text may hold that sign itself
            found.append((text, run))
            run, offset = [], offset + len(text)
    return [*found, (decode(run), run)] if run else found


def time_words(words: Sequence[tuple[str, list[int]]], times: TokenTimes) -> list[Timed]:
    """When each word was said, in seconds of the window."""
    borders = np.cumsum([0, *(len(tokens) for _, tokens in words)])
    return [
        Timed(text, tokens, float(times.seconds[a]), float(times.seconds[b]), float(np.mean(times.probabilities[a:b])))
        for (text, tokens), a, b in zip(words, borders, borders[1:], strict=False)
    ]


def place_words(segments: Sequence[Segment], words: list[Timed], *, offset_s: float, last_end_s: float, eot: int) -> list[Segment]:
    """Segments of a window with their words; times of both give way to each other where a word is too long.

    Args:
        words: of all segments, in seconds of the window; they are changed.
        offset_s: where the window begins.
        last_end_s: where the words before it ended.
    """
    lengths = np.array([word.end - word.start for word in words])
    lengths = lengths[lengths.nonzero()]
    median = min(LONGEST_MEDIAN_S, float(np.median(lengths))) if len(lengths) else 0.0
    if len(lengths):
        _shorten_at_sentences(words, 2 * median)
    join_punctuation(words)
    found, waiting = [], list(words)
    for segment in segments:
        count, spoken = sum(token < eot for token in segment.token_ids), []
        while waiting and count > 0:
            word = waiting.pop(0)
            count -= len(word.token_ids)
            if word.text:
                start, end = (round(offset_s + second, 2) for second in (word.start, word.end))
                spoken.append(Word(word.text, start, end, word.probability))
        if spoken:
            segment, spoken = _fitted(segment, spoken, median, last_end_s)
            last_end_s = segment.end
        found.append(replace(segment, words=spoken))
    return found


def _shorten_at_sentences(words: Sequence[Timed], longest: float) -> None:
    """A pause between sentences belongs to no word."""
    for before, word in zip(words, words[1:], strict=False):
        if word.end - word.start > longest:
            if word.text in SENTENCE_ENDS:
                word.end = word.start + longest
            elif before.text in SENTENCE_ENDS:
                word.start = word.end - longest


def join_punctuation(words: Sequence[Timed]) -> None:
    """Put punctuation to the word it belongs to: the next one from the end, then the one before."""
    following = len(words) - 1
    for place in range(len(words) - 2, -1, -1):
        word, after = words[place], words[following]
        if word.text.startswith(" ") and word.text.strip() in PREPENDED:
            after.text, after.token_ids = word.text + after.text, word.token_ids + after.token_ids
            word.text, word.token_ids = "", []
        else:
            following = place
    previous = 0
    for place in range(1, len(words)):
        word, before = words[place], words[previous]
        if not before.text.endswith(" ") and word.text in APPENDED:
            before.text, before.token_ids = before.text + word.text, before.token_ids + word.token_ids
            word.text, word.token_ids = "", []
        else:
            previous = place


def _fitted(segment: Segment, words: list[Word], median: float, last_end_s: float) -> tuple[Segment, list[Word]]:
    """The first words after a pause are no longer than twice the median; a segment begins and ends with its words, or they with it."""
    longest, words = 2 * median, list(words)
    first, second = words[0], words[1] if len(words) > 1 else None
    long_start = first.end - first.start > longest or (second is not None and second.end - first.start > 2 * longest)
    if first.end - last_end_s > LONG_PAUSE * median and long_start:
        if second is not None and second.end - second.start > longest:
            border = max(second.end / 2, second.end - longest)
            first, words[1] = replace(first, end=border), replace(second, start=border)
        first = replace(first, start=max(0.0, first.end - longest))
    if segment.start < first.end and segment.start - NEAR_S > first.start:
        first = replace(first, start=max(0.0, min(first.end - median, segment.start)))
    else:
        segment = replace(segment, start=first.start)
    words[0] = first
    last = words[-1]
    if segment.end > last.start and segment.end + NEAR_S < last.end:
        words[-1] = replace(last, end=max(last.start + median, segment.end))
    else:
        segment = replace(segment, end=last.end)
    return segment, words


def end_of(segments: Sequence[Segment]) -> float | None:
    """Where the last word ends, or the last segment."""
    ends: list[Any] = [word.end for segment in segments for word in segment.words or ()]
    return ends[-1] if ends else segments[-1].end if segments else None
