"""Transcription of recordings of any length, window by window, in batches of recordings.

Reference: openai-whisper ``transcribe.py``. Each window begins where the last complete segment of the previous window ends, and gets
the previous text as prompt. Where we differ: pauses of 2 s and more are not transcribed (see ``clips.py``); with fixed windows a
recording is cut at pauses into sections of 2 minutes, which are transcribed side by side; windows of several recordings form one batch;
a long recording is never in memory as a whole; special tokens, which an untrained model may write, are removed from the text; no time
is beyond the end of its window.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.language.transcription.alignment import align
from zoo.language.transcription.clips import Clip, Section, cut_at_pauses, sections_of, spoken_clips
from zoo.language.transcription.decoding import Decoded, Recogniser, Window
from zoo.language.transcription.mels import FRAMES_PER_SECOND, RecordingMels
from zoo.language.transcription.rules import TOKENS_PER_SECOND
from zoo.language.transcription.words import end_of, place_words, split_words, time_words
from zoo.processors.media.voice_activity import Span as Speech
from zoo.processors.media.voice_activity import speech_spans
from zoo.types import Segment, Transcript

OnProgress = Callable[[int, float, float], None]
Work = Generator[list[Window], list[Decoded], Transcript]
FRAMES_PER_TOKEN = FRAMES_PER_SECOND // TOKENS_PER_SECOND
ReadMels = Callable[[int, int], Float[Tensor, "num_mels frames"]]  # first frame and number of frames
SENTENCE_FRAMES = (600, 300)  # longest sentences of a text that repeats itself, 6 s, and 3 s where those repeat themselves as well
# Tokens of a prompt beside windows of other sections: at most the first, or else a multiple of the second, because windows whose prompts
# have equal length are decoded together. 56 are about 40 words.
PROMPT_TOKENS, PROMPT_STEP = 112, 56
SECTION_FRAMES = 12000  # 2 minutes; with 1 minute, 402 words of telephone prompts had 8 to 12 errors instead of 6
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


def even_prompt(ids: list[int]) -> list[int]:
    """Return the end of a prompt, cut to one of a few lengths; a short prompt stays whole.

    150 tokens are cut to 112, 100 to 56, and 40 stay 40.
    """
    kept = ids[-PROMPT_TOKENS:]
    return kept[len(kept) % PROMPT_STEP :] if len(kept) >= PROMPT_STEP else kept


class Passage:
    """Transcription of one clip of a recording, window by window.

    Each window begins where the last complete segment of the previous window ends, so that no words are lost between windows.

    Args:
        mels: function from a first frame and a number of frames of the recording to its log-mel spectrogram.
        speech: stretches of speech of the recording, in seconds; empty if they are not known.
        previous: token ids of the text before the clip.
        beside: True if windows of other sections are decoded in the same batch.

    Attributes:
        seek: first frame of the next window.
        segments: segments so far, with times of the recording.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        mels: ReadMels,
        clip: Clip,
        language: str,
        *,
        speech: Sequence[Speech],
        previous: Sequence[int],
        beside: bool,
    ) -> None:
        self.recogniser, self.mels, self.clip, self.language, self.beside = recogniser, mels, clip, language, beside
        self.settings, self.symbols = recogniser.settings, recogniser.symbols
        self.speech, self.seek, self.previous, self.prompt_from = speech, clip.start, list(previous), 0
        self.ends: list[int] = []  # ends of the sentences that are decoded one by one, because their text together repeats itself
        self.segments: list[Segment] = []
        self.last_end_s = 0.0  # end of the last word of the previous window

    @property
    def is_done(self) -> bool:
        """True after the last window."""
        return self.seek >= self.clip.end

    @property
    def prompt(self) -> list[int]:
        """Token ids of the text that the next window gets as prompt."""
        return [] if self.ends else self.previous[self.prompt_from :]

    def window(self) -> Window:
        """Return the next window."""
        frames = min(self.recogniser.window_frames, self._end - self.seek)
        mels = self.mels(self.seek, frames)
        prompt = even_prompt(self.prompt) if self.beside else self.prompt
        return Window(mels, self.seek, self.language, tuple(prompt), can_split=bool(self._sentences(frames)))

    @property
    def _end(self) -> int:
        return self.ends[0] if self.ends else self.clip.end

    def _sentences(self, frames: int) -> list[int]:
        """Return the places at which the next window can be cut into sentences; the first level that has some counts."""
        window = Clip(self.seek, self.seek + frames)
        levels = (cut_at_pauses([window], self.speech, longest=longest) for longest in SENTENCE_FRAMES if longest < frames)
        return next(([clip.end for clip in clips[:-1]] for clips in levels if len(clips) > 1), [])

    def take(self, window: Window, decoded: Decoded) -> None:
        """Add the segments of the last window, and move to the next one.

        A text that repeats itself is either a loop of the decoder or a true repetition. It is decoded again sentence by sentence, so that
        no sentence depends on the text of another: a loop ends, and a sentence that the speaker repeats stays.
        """
        if window.can_split and self.recogniser.repeats(decoded):
            self.ends = [*self._sentences(window.mels.shape[1]), *self.ends]
            self.prompt_from = len(self.previous)
            return
        segments, step = self._segments(window, decoded)
        self.segments += segments
        self.previous += [token for segment in segments for token in segment.token_ids]
        if segments and (not self.settings.condition_on_previous_text or decoded.temperature > WARM):
            self.prompt_from = len(self.previous)
        self.seek += step
        self.ends = [end for end in self.ends if end > self.seek]

    def _segments(self, window: Window, decoded: Decoded) -> tuple[list[Segment], int]:
        """Return a window's segments and the number of frames to the beginning of the next window."""
        frames = window.mels.shape[1]
        if self.recogniser.is_silent(decoded):
            return [], frames
        spans, step = split_spans(decoded.token_ids, self.symbols.timestamp_begin, frames=frames)
        offset_s = window.start / FRAMES_PER_SECOND
        segments = [self._segment(span, decoded, offset_s) for span in spans]
        if self.settings.word_timestamps:
            segments = self._with_words(segments, window, decoded)
            # As in the reference, the next window then begins at the end of the last word.
            end = end_of(segments)
            if end is not None and end > offset_s and not ends_single(decoded.token_ids, self.symbols.timestamp_begin):
                step = round(end * FRAMES_PER_SECOND) - window.start
            self.last_end_s = self.last_end_s if end is None else end
        end_s = (window.start + frames) / FRAMES_PER_SECOND
        # At least one frame, or the loop would not end.
        return [_within(_cleared(segment), end_s) for segment in segments], max(1, step)

    def _segment(self, span: Span, decoded: Decoded, offset_s: float) -> Segment:
        return Segment(
            id=0,  # numbered when the recording is done
            start=offset_s + span.start,
            end=offset_s + span.end,
            text=self.symbols.decode(span.token_ids),
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


class Listening:
    """Transcription of one recording as a generator of windows to decode."""

    def __init__(self, recogniser: Recogniser, source: Any, number: int, on_progress: OnProgress | None) -> None:
        self.recogniser, self.number, self.on_progress = recogniser, number, on_progress
        self.settings, self.symbols = recogniser.settings, recogniser.symbols
        detector = recogniser.new_detector()
        self.mels = RecordingMels(source, recogniser.num_mels, detector.take if detector is not None else None)
        whole = [Clip(0, self.mels.num_frames)] if self.mels.num_frames else []
        self.speech: list[Speech] = []
        self.clips = whole
        if detector is not None and not self.mels.is_given:
            self.speech = speech_spans(detector.finish(), self.mels.duration_s)
            self.clips = spoken_clips(self.speech, self.mels.num_frames) if recogniser.leaves_out_silence else whole
        prompt = self.settings.initial_prompt
        # Leading space as in the reference: words within a text are tokenised with the space before them.
        self.prompt = [] if prompt is None else self.symbols.encode(" " + prompt.strip())
        self.language = self.settings.language or "en"

    def work(self, at_once: int) -> Work:
        """Yield lists of windows, receive their decoded texts, and return the transcript.

        Args:
            at_once: maximum number of windows per list; only fixed windows are more than one, because they are independent.
        """
        self._tell(0)
        if self.settings.language is None and self.symbols.languages and self.clips:
            self.language = self.recogniser.identify(self.mels.window(self.clips[0].start, self.recogniser.window_frames))
        segments = yield from self._fixed(at_once) if self.settings.windows == "fixed" else self._seek(Section([], self.clips))
        self._tell(self.mels.num_frames)
        text_ids = [token for segment in segments for token in segment.token_ids]
        numbered = [replace(segment, id=number) for number, segment in enumerate(segments)]
        return Transcript(self.symbols.decode(text_ids), numbered, self.language, self.mels.duration_s)

    def _seek(self, section: Section, read: ReadMels | None = None) -> Generator[list[Window], list[Decoded], list[Segment]]:
        """Yield the windows of a section one by one, each with the text before it as prompt, and return its segments.

        Args:
            read: function that returns the section's mels; None reads them from the recording, for its only section.
        """
        segments, previous = [], self.prompt
        for number, clip in enumerate([*section.before, *section.clips]):
            passage = self._passage(self.mels.window if read is None else read, clip, previous, beside=read is not None)
            while not passage.is_done:
                window = passage.window()
                passage.take(window, (yield [window])[0])
                if read is None:
                    self._tell(passage.seek)
            if number >= len(section.before):
                segments += passage.segments
            previous = passage.prompt
        return segments

    def _fixed(self, at_once: int) -> Generator[list[Window], list[Decoded], list[Segment]]:
        """Yield the next windows of up to ``at_once`` sections, and return the segments of all sections in order of time."""
        todo = enumerate(self._sections())
        going: list[tuple[int, Any, Window]] = []  # the section's number, its generator and its next window
        found: dict[int, list[Segment]] = {}
        while True:
            for number, section in islice(todo, at_once - len(going)):
                work = self._seek(section, self._held(section))
                going.append((number, work, next(work)[0]))
            if not going:
                return [segment for number in sorted(found) for segment in found[number]]
            self._tell(min(window.start for _, _, window in going))
            texts = yield [window for _, _, window in going]
            before, going = going, []
            for (number, work, _), text in zip(before, texts, strict=True):
                try:
                    going.append((number, work, work.send([text])[0]))
                except StopIteration as end:
                    found[number] = end.value

    def _sections(self) -> list[Section]:
        """Return the sections of the recording; without text as prompt, no clips before them are decoded."""
        pieces = cut_at_pauses(self.clips, self.speech, longest=self.recogniser.window_frames)
        found = sections_of(pieces, longest=SECTION_FRAMES)
        return found if self.settings.condition_on_previous_text else [Section([], section.clips) for section in found]

    def _held(self, section: Section) -> ReadMels:
        """Read the mels of a section, because those of the recording can only be read forwards."""
        start = [*section.before, *section.clips][0].start
        mels = self.mels.window(start, section.clips[-1].end - start)

        def read(first: int, count: int) -> Float[Tensor, "num_mels frames"]:
            return mels[:, first - start :][:, :count]

        return read

    def _passage(self, mels: ReadMels, clip: Clip, previous: Sequence[int], *, beside: bool) -> Passage:
        speech = self.speech if self.recogniser.leaves_out_silence else ()
        return Passage(self.recogniser, mels, clip, self.language, speech=speech, previous=previous, beside=beside)

    def _tell(self, frame: int) -> None:
        if self.on_progress is not None:
            self.on_progress(self.number, min(frame / FRAMES_PER_SECOND, self.mels.duration_s), self.mels.duration_s)


def _within(segment: Segment, end_s: float) -> Segment:
    """Return the segment with no time after ``end_s``, the end of its window; a model may predict times in the padding."""
    if segment.end <= end_s:
        return segment
    words = segment.words
    if words is not None:
        words = [replace(word, start=min(word.start, end_s), end=min(word.end, end_s)) for word in words]
    return replace(segment, start=min(segment.start, end_s), end=end_s, words=words)


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
        batch_size: windows per call of the model, 1 or more: one window of each recording, or several of one with fixed windows.
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
                work = Listening(recogniser, source, number, on_progress).work(batch_size)
            except DataError as error:
                yield number, error
                continue
            yield from _go_on(number, work, None, going)
        if not going:
            return
        # With fixed windows, recordings together may yield more windows than batch_size; they are decoded in slices.
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
