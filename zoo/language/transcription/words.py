"""Grouping of tokens into words, and word timestamps.

Reference: openai-whisper ``tokenizer.py``, ``split_to_word_tokens``, and ``timing.py``, ``add_word_timestamps``. The times equal the
reference's.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.language.transcription.alignment import TokenTimes
from zoo.types import Segment, Word

WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")  # languages written without spaces: each character counts as a word
PREPENDED = "\"'\u201c\u00bf([{-"  # punctuation joined to the next word
APPENDED = "\"'.\u3002,\uff0c!\uff01?\uff1f:\uff1a\u201d)]}\u3001"  # punctuation joined to the previous word
SENTENCE_ENDS = ".\u3002!\uff01?\uff1f"
BROKEN = "\ufffd"  # decoders write it for bytes that are not a whole character
# The next three numbers are the reference's.
LONGEST_MEDIAN_S = 0.7  # upper limit of the median duration of a word, in seconds
LONG_PAUSE = 4  # duration of a long pause, in medians of the word duration
NEAR_S = 0.5  # seconds by which a segment's time and its words' times may differ


@dataclass
class Timed:
    """A word with times that may still change, in seconds of the window; empty text means it was joined to a neighbour."""

    text: str
    token_ids: list[int]
    start: float
    end: float
    probability: float


def split_words(ids: Sequence[int], decode: Callable[[Sequence[int]], str], language: str) -> list[tuple[str, list[int]]]:
    """Group token ids into words; returns the text and token ids of each word. Punctuation marks are separate words.

    Args:
        ids: text token ids, without special tokens.
        decode: the tokenizer's function from token ids to text.
        language: language code; languages without spaces are split into characters.
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
    """Split token ids into the shortest runs that decode to whole characters."""
    whole, offset = decode(ids), 0
    found: list[tuple[str, list[int]]] = []
    run: list[int] = []
    for token in ids:
        run = [*run, token]
        text = decode(run)
        place = text.find(BROKEN)
        if place < 0 or whole[offset + place : offset + place + 1] == BROKEN:  # the text itself may contain U+FFFD
            found.append((text, run))
            run, offset = [], offset + len(text)
    return [*found, (decode(run), run)] if run else found


def time_words(words: Sequence[tuple[str, list[int]]], times: TokenTimes) -> list[Timed]:
    """Return each word with its start, end (seconds of the window) and mean token probability."""
    borders = np.cumsum([0, *(len(tokens) for _, tokens in words)])
    return [
        Timed(text, tokens, float(times.seconds[a]), float(times.seconds[b]), float(np.mean(times.probabilities[a:b])))
        for (text, tokens), a, b in zip(words, borders, borders[1:], strict=False)
    ]


def place_words(segments: Sequence[Segment], words: list[Timed], *, offset_s: float, last_end_s: float, eot: int) -> list[Segment]:
    """Assign words to the segments of a window; returns new segments with words.

    Words that are too long are shortened, and the times of segments and words are adjusted to each other.

    Args:
        words: words of all segments, in seconds of the window; changed in place.
        offset_s: beginning of the window, in seconds of the recording.
        last_end_s: end of the last word before the window, in seconds of the recording.
        eot: id of the end token; smaller ids are text.
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
    """Limit the duration of words at sentence ends, so that a pause between sentences is not part of a word."""
    for before, word in zip(words, words[1:], strict=False):
        if word.end - word.start > longest:
            if word.text in SENTENCE_ENDS:
                word.end = word.start + longest
            elif before.text in SENTENCE_ENDS:
                word.start = word.end - longest


def join_punctuation(words: Sequence[Timed]) -> None:
    """Join punctuation marks to words, in place.

    First opening marks are joined to the next word, from last to first; then closing marks to the previous word, from first to last.
    """
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
    """Adjust the times of a segment and its words to each other.

    After a long pause, each of the first two words lasts at most twice the median. If the times of the segment and its first or last
    word differ by more than ``NEAR_S``, the word follows the segment; otherwise the segment follows the word.

    Args:
        median: median duration of the window's words, in seconds.
        last_end_s: end of the previous word, in seconds of the recording.
    """
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
    """Return the end of the last word, or of the last segment if there are no words; None without segments."""
    ends: list[Any] = [word.end for segment in segments for word in segment.words or ()]
    return ends[-1] if ends else segments[-1].end if segments else None
