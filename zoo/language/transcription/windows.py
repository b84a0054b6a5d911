"""Transcription of recordings of any length, window by window, in batches of recordings.

Reference: openai-whisper ``transcribe.py``. Each window begins where the last complete segment of the previous window ends, and gets
the previous text as prompt. Where we differ: windows of several recordings form one batch; a long recording is never in memory as a
whole; special tokens, which an untrained model may write, are removed from the text.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoo.errors import ConfigError, DataError
from zoo.language.transcription.alignment import align
from zoo.language.transcription.decoding import Decoded, Recogniser, Window
from zoo.language.transcription.mels import FRAMES_PER_SECOND, RecordingMels
from zoo.language.transcription.rules import TOKENS_PER_SECOND
from zoo.language.transcription.words import end_of, place_words, split_words, time_words
from zoo.types import Segment, Transcript

OnProgress = Callable[[int, float, float], None]
Work = Generator[list[Window], list[Decoded], Transcript]
FRAMES_PER_TOKEN = FRAMES_PER_SECOND // TOKENS_PER_SECOND
WARM = 0.5  # text decoded at a higher temperature is unreliable and not used as prompt of the next window


@dataclass(frozen=True)
class Span:
    """Tokens of a window between two timestamps; ``start`` and ``end`` are seconds from the beginning of the window."""

    token_ids: list[int]
    start: float
    end: float


def ends_single(ids: Sequence[int], first_time: int) -> bool:
    """Return True if the tokens end with text and a single timestamp, which means that there is no speech after it."""
    return [token >= first_time for token in ids[-2:]] == [False, True]


def split_spans(ids: Sequence[int], first_time: int, *, frames: int) -> tuple[list[Span], int]:
    """Split a window's tokens into segments; returns them and the number of frames to the beginning of the next window.

    ``<0.00> a <1.00><1.20> b <2.00><2.00> c`` gives the segments a and b, and the next window begins at 2.00 s to decode c again. If the
    tokens end with a single timestamp (no speech after it), the next window begins after this whole window.

    Args:
        first_time: token id of ``<|0.00|>``.
        frames: frames of the recording in the window, without padding.
    """
    is_time = [token >= first_time for token in ids]
    borders = [place for place in range(1, len(ids)) if is_time[place - 1] and is_time[place]]
    single = ends_single(ids, first_time)
    if not borders:
        last = next((token - first_time for token in reversed(ids) if token >= first_time), 0)
        return [Span(list(ids), 0.0, last / TOKENS_PER_SECOND if last else frames / FRAMES_PER_SECOND)], frames
    borders = [*borders, len(ids)] if single else borders
    spans = []
    for begin, end in zip([0, *borders], borders, strict=False):
        part = list(ids[begin:end])
        spans.append(Span(part, (part[0] - first_time) / TOKENS_PER_SECOND, (part[-1] - first_time) / TOKENS_PER_SECOND))
    return spans, frames if single else (ids[borders[-1] - 1] - first_time) * FRAMES_PER_TOKEN


class Listening:
    """Transcription of one recording as a generator of windows to decode."""

    def __init__(self, recogniser: Recogniser, mels: RecordingMels, number: int, on_progress: OnProgress | None) -> None:
        self.recogniser, self.mels, self.number, self.on_progress = recogniser, mels, number, on_progress
        self.settings, self.symbols = recogniser.settings, recogniser.symbols
        self.segments: list[Segment] = []
        self.last_end_s = 0.0  # end of the last word of the previous window
        prompt = self.settings.initial_prompt
        # Leading space as in the reference: words within a text are tokenised with the space before them.
        self.prompt = [] if prompt is None else self.symbols.encode(" " + prompt.strip())
        self.language = self.settings.language or "en"

    def work(self, at_once: int) -> Work:
        """Yield lists of windows, receive their decoded texts, and return the transcript.

        Args:
            at_once: maximum number of windows per list; only windows="fixed" yields more than one, because they are independent.
        """
        self._tell(0)
        if self.settings.language is None and self.symbols.languages and self.mels.num_frames:
            self.language = self.recogniser.identify(self.mels.window(0, self.recogniser.window_frames))
        yield from self._fixed(at_once) if self.settings.windows == "fixed" else self._seek()
        self._tell(self.mels.num_frames)
        text_ids = [token for segment in self.segments for token in segment.token_ids if token < self.symbols.eot]
        return Transcript(self.symbols.decode(text_ids), self.segments, self.language, self.mels.duration_s)

    def _seek(self) -> Generator[list[Window], list[Decoded], None]:
        """Yield windows one by one; each begins at the end of the last segment and has the previous text as prompt."""
        previous, prompt_from, seek = list(self.prompt), 0, 0
        while seek < self.mels.num_frames:
            window = self._window(seek, previous[prompt_from:])
            (decoded,) = yield [window]
            segments, step = self._taken(window, decoded)
            self.segments += segments
            previous += [token for segment in segments for token in segment.token_ids]
            if segments and (not self.settings.condition_on_previous_text or decoded.temperature > WARM):
                prompt_from = len(previous)
            seek += step
            self._tell(seek)

    def _fixed(self, at_once: int) -> Generator[list[Window], list[Decoded], None]:
        """Yield full windows side by side, each with the initial prompt only."""
        length = self.recogniser.window_frames
        starts = range(0, self.mels.num_frames, length)
        for first in range(0, len(starts), at_once):
            windows = [self._window(start, self.prompt) for start in starts[first : first + at_once]]
            for window, decoded in zip(windows, (yield windows), strict=True):
                self.segments += self._taken(window, decoded)[0]
            self._tell(windows[-1].start + length)

    def _window(self, start: int, previous: Sequence[int]) -> Window:
        frames = min(self.recogniser.window_frames, self.mels.num_frames - start)
        return Window(self.mels.window(start, frames), start, self.language, tuple(previous))

    def _taken(self, window: Window, decoded: Decoded) -> tuple[list[Segment], int]:
        """Return a window's segments and the number of frames to the beginning of the next window."""
        frames = window.mels.shape[1]
        if self.recogniser.is_silent(decoded):
            return [], frames
        spans, step = split_spans(decoded.token_ids, self.symbols.timestamp_begin, frames=frames)
        offset_s = window.start / FRAMES_PER_SECOND
        segments = [self._segment(span, decoded, offset_s, len(self.segments) + i) for i, span in enumerate(spans)]
        if self.settings.word_timestamps:
            segments = self._with_words(segments, window, decoded)
            # As in the reference, the next window then begins at the end of the last word.
            end = end_of(segments)
            if end is not None and end > offset_s and not ends_single(decoded.token_ids, self.symbols.timestamp_begin):
                step = round(end * FRAMES_PER_SECOND) - window.start
            self.last_end_s = self.last_end_s if end is None else end
        return [_cleared(segment) for segment in segments], max(1, step)  # at least one frame, or the loop would not end

    def _segment(self, span: Span, decoded: Decoded, offset_s: float, id: int) -> Segment:
        return Segment(
            id=id,
            start=offset_s + span.start,
            end=offset_s + span.end,
            text=self.symbols.decode([token for token in span.token_ids if token < self.symbols.eot]),
            token_ids=span.token_ids,
            temperature=decoded.temperature,
            average_log_probability=decoded.average_log_probability,
            compression_ratio=decoded.compression_ratio,
            no_speech_probability=decoded.no_speech_probability,
        )

    def _with_words(self, segments: list[Segment], window: Window, decoded: Decoded) -> list[Segment]:
        eot = self.symbols.eot
        text_ids = [token for segment in segments for token in segment.token_ids if token < eot]
        words = []
        if text_ids:
            times = align(self.recogniser, decoded.memory, text_ids, language=self.language, frames=window.mels.shape[1])
            words = time_words(split_words(text_ids, self.symbols.decode, self.language), times)
        offset_s = window.start / FRAMES_PER_SECOND
        return place_words(segments, words, offset_s=offset_s, last_end_s=self.last_end_s, eot=eot)

    def _tell(self, frame: int) -> None:
        if self.on_progress is not None:
            self.on_progress(self.number, min(frame / FRAMES_PER_SECOND, self.mels.duration_s), self.mels.duration_s)


def _cleared(segment: Segment) -> Segment:
    """Empty the text, tokens and words of a segment that has no duration or no text."""
    if segment.start != segment.end and segment.text.strip():
        return segment
    return replace(segment, text="", token_ids=[], words=None if segment.words is None else [])


def transcribe_each(
    recogniser: Recogniser, sources: Iterable[Any], *, batch_size: int = 1, on_progress: OnProgress | None = None
) -> Iterator[tuple[int, Transcript | DataError]]:
    """Transcribe recordings; yields each recording's number with its transcript or its error, in the order in which they finish.

    A transcript does not depend on the other recordings.

    Args:
        sources: recordings in the forms that ``RecordingMels`` accepts.
        batch_size: windows per call of the model, 1 or more: one window of each recording, or with windows="fixed" several of one.
        on_progress: callback ``(number, done_seconds, total_seconds)`` of a recording.

    Yields:
        The recording's number in ``sources``, and its ``Transcript`` or the ``DataError`` that it caused.

    Raises:
        ConfigError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: {batch_size}; allowed is 1 or more windows")
    todo = iter(enumerate(sources))
    going: list[tuple[int, Work, list[Window]]] = []
    while True:
        while sum(len(windows) for _, _, windows in going) < batch_size and (item := next(todo, None)) is not None:
            number, source = item
            try:
                work = Listening(recogniser, RecordingMels(source, recogniser.num_mels), number, on_progress).work(batch_size)
            except DataError as error:
                yield number, error
                continue
            yield from _go_on(number, work, None, going)
        if not going:
            return
        # With windows="fixed", recordings together may yield more windows than batch_size; they are decoded in slices.
        windows = [window for _, _, wanted in going for window in wanted]
        texts = iter([text for i in range(0, len(windows), batch_size) for text in recogniser.decode(windows[i : i + batch_size])])
        before, going = going, []
        for number, work, wanted in before:
            yield from _go_on(number, work, [next(texts) for _ in wanted], going)


def _go_on(
    number: int, work: Work, texts: list[Decoded] | None, going: list[tuple[int, Work, list[Window]]]
) -> Iterator[tuple[int, Transcript | DataError]]:
    """Send decoded texts to a recording's generator; append its next windows to ``going``, or yield its result or error."""
    try:
        going.append((number, work, next(work) if texts is None else work.send(texts)))
    except StopIteration as end:
        yield number, end.value
    except DataError as error:
        yield number, error
