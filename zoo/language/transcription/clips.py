"""Clips of a recording to transcribe: where speech is, and where to cut it into sections that are transcribed side by side.

A clip is what openai-whisper's option ``clip_timestamps`` names: transcription begins at its start and stops at its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.language.transcription.mels import FRAMES_PER_SECOND
from zoo.processors.media.voice_activity import Span

LONG_PAUSE_S = 2.0  # pauses from here on are left out; as in faster-whisper (``min_silence_duration_ms``)
PAD_S = 0.4  # silence that stays beside speech; as in faster-whisper (``speech_pad_ms``)


@dataclass(frozen=True)
class Clip:
    """Stretch of a recording: first frame, and the frame after the last one."""

    start: int
    end: int

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.end - self.start


@dataclass(frozen=True)
class Section:
    """Part of a recording that is transcribed independently of the other parts.

    Attributes:
        before: the clips before the section; they are decoded for their text, which is the first prompt of the section, and then dropped.
        clips: the clips of the section.
    """

    before: list[Clip]
    clips: list[Clip]


def spoken_clips(spans: Sequence[Span], num_frames: int) -> list[Clip]:
    """Return the recording without its long pauses; without any, one clip of the whole recording.

    Args:
        spans: stretches of speech, in seconds.
        num_frames: number of frames of the recording.
    """
    if not spans:
        return []
    end_s, long = num_frames / FRAMES_PER_SECOND, LONG_PAUSE_S
    starts = [0.0 if spans[0][0] < long else spans[0][0] - PAD_S]
    ends = []
    for (_, end), (start, _) in zip(spans, spans[1:], strict=False):
        if start - end >= long:
            ends.append(end + PAD_S)
            starts.append(start - PAD_S)
    ends.append(end_s if end_s - spans[-1][1] < long else spans[-1][1] + PAD_S)
    frames = [(round(a * FRAMES_PER_SECOND), min(round(b * FRAMES_PER_SECOND), num_frames)) for a, b in zip(starts, ends, strict=True)]
    return [Clip(start, end) for start, end in frames if start < end]


def cut_at_pauses(clips: Sequence[Clip], spans: Sequence[Span], *, longest: int) -> list[Clip]:
    """Cut clips into pieces of at most ``longest`` frames, in the middle of pauses between stretches of speech.

    A piece is cut at its longest pause in the second half of ``longest`` frames, else at its last pause before. Speech without any pause
    stays one piece until the next pause, however long it is; nothing is cut within speech.
    """
    pauses = [(round((end + start) / 2 * FRAMES_PER_SECOND), start - end) for (_, end), (start, _) in zip(spans, spans[1:], strict=False)]
    found = []
    for clip in clips:
        start = clip.start
        while clip.end - start > longest:
            inside = [(place, seconds) for place, seconds in pauses if start < place < clip.end]
            late = [pause for pause in inside if longest // 2 <= pause[0] - start <= longest]
            early = [place for place, _ in inside if place - start <= longest]
            if late:
                cut = max(late, key=lambda pause: pause[1])[0]
            elif early:
                cut = early[-1]
            elif inside:
                cut = inside[0][0]
            else:
                break
            found.append(Clip(start, cut))
            start = cut
        found.append(Clip(start, clip.end))
    return found


def sections_of(pieces: Sequence[Clip], *, longest: int) -> list[Section]:
    """Group pieces into sections of at most ``longest`` frames; adjacent pieces are joined again. A longer piece is a section.

    The piece before a section is decoded for it a second time. Without it, the first window of each section would have no prompt, and
    more word errors.
    """
    groups: list[list[Clip]] = []
    for piece in pieces:
        if not groups or sum(clip.frames for clip in groups[-1]) + piece.frames > longest:
            groups.append([])
        groups[-1].append(piece)
    before: list[list[Clip]] = [[], *(group[-1:] for group in groups)]
    return [Section(last, _joined(group)) for last, group in zip(before, groups, strict=False)]


def _joined(pieces: Sequence[Clip]) -> list[Clip]:
    found: list[Clip] = []
    for piece in pieces:
        if found and found[-1].end == piece.start:
            found[-1] = Clip(found[-1].start, piece.end)
        else:
            found.append(piece)
    return found
