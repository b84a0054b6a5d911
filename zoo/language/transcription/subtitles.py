"""Subtitles of a transcript: which words stand together on the screen, in which lines, from when to when.

Reference: openai-whisper ``utils.py``, ``SubtitlesWriter``, whose options have the same names and meanings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zoo.errors import ConfigError
from zoo.types import Segment, Transcript, Word

LONG_PAUSE_S = 3.0  # after it a new subtitle begins
NO_LIMIT = 1000


@dataclass(frozen=True)
class Layout:
    """Limits of subtitles; without any, each segment is one subtitle of one line.

    Args:
        max_line_width: most characters of a line; a longer word stands in a line of its own.
        max_line_count: most lines of a subtitle. With it, subtitles need not end with segments.
        max_words_per_line: most words of a subtitle.

    Raises:
        ConfigError: a limit is below 1, or has no effect beside the others.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None

    def __post_init__(self) -> None:
        for key in self.__dataclass_fields__:
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{key}: {value!r}; allowed is 1 or more")
        if self.max_line_count is not None and self.max_line_width is None:
            raise ConfigError(f"max_line_count: {self.max_line_count} has no effect without a line width; set max_line_width as well")
        if self.max_words_per_line is not None and self.max_line_width is not None:
            raise ConfigError(
                f"max_words_per_line: {self.max_words_per_line} has no effect beside max_line_width; set one of them, not both"
            )

    @property
    def is_plain(self) -> bool:
        """True without any limit."""
        return self == Layout()


@dataclass(frozen=True)
class Cue:
    """One subtitle; its text may have several lines."""

    start: float
    end: float
    text: str


def spoken(transcript: Transcript) -> Iterator[Segment]:
    """Yield the segments that have a text."""
    return (segment for segment in transcript.segments if segment.text.strip())


def cues(transcript: Transcript, layout: Layout) -> Iterator[Cue]:
    """Yield the subtitles; segments without word times are subtitles as they are."""
    if layout.is_plain:
        for segment in spoken(transcript):
            words = segment.words or [segment]
            yield Cue(words[0].start, words[-1].end, segment.text.strip())
        return
    for words in _grouped([segment for segment in spoken(transcript) if segment.words], layout):
        yield Cue(words[0].start, words[-1].end, "".join(word.text for word in words))


def _grouped(segments: Sequence[Segment], layout: Layout) -> Iterator[list[Word]]:
    """Yield the words of each subtitle; a word that begins a further line begins with a line break."""
    by_segments = layout.max_line_count is None  # then a subtitle has no words of two segments
    line, lines, last_start = 0, 1, segments[0].start if segments else 0.0  # characters of the line, and lines so far
    cue: list[Word] = []
    for segment in segments:
        for group in _groups(segment.words or (), layout.max_words_per_line or NO_LIMIT):
            for place, word in enumerate(group):
                paused = not by_segments and word.start - last_start > LONG_PAUSE_S
                ends = bool(cue) and by_segments and place == 0
                if not line or paused or ends or line + len(word.text) > (layout.max_line_width or NO_LIMIT):
                    text = word.text.strip()
                    full = layout.max_line_count is not None and (paused or lines >= layout.max_line_count)
                    if ends or (cue and full):
                        yield cue
                        cue, lines = [], 1
                    elif line:
                        lines, text = lines + 1, "\n" + text
                    word, line = Word(text, word.start, word.end, word.probability), len(text.strip())
                else:
                    line += len(word.text)
                cue.append(word)
                last_start = word.start
    if cue:
        yield cue


def _groups(words: Sequence[Word], size: int) -> Iterator[Sequence[Word]]:
    return (words[place : place + size] for place in range(0, len(words), size))
