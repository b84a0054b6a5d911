"""Transcripts as text files: txt, json, srt, vtt and tsv.

Files are those of openai-whisper ``utils.py``. Where we differ: segments without a text are left out, an arrow within a text is never
taken for the one between times, and the JSON has this package's names.
"""

import json
from collections.abc import Callable, Iterator

from zoo.language.transcription.transcript import Segment, Transcript


def format_time(seconds: float, *, hours: bool = False, mark: str = ".") -> str:
    """3661.5 -> ``01:01:01.500``.

    Args:
        hours: write them where there are none, too.
        mark: before the milliseconds.
    """
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, whole = divmod(whole, 60)
    hour, minutes = divmod(minutes, 60)
    return (f"{hour:02}:" if hours or hour else "") + f"{minutes:02}:{whole:02}{mark}{milliseconds:03}"


def as_txt(transcript: Transcript) -> str:
    """A line for each segment."""
    return "".join(f"{segment.text.strip()}\n" for segment in _spoken(transcript))


def as_json(transcript: Transcript) -> str:
    """Everything that is known of it, as one object."""
    return json.dumps(transcript.as_json(), ensure_ascii=False, indent=1) + "\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip's subtitles, numbered from 1."""
    cues = enumerate(_cues(transcript, hours=True, mark=","), 1)
    return "".join(f"{number}\n{times}\n{text}\n\n" for number, (times, text) in cues)


def as_vtt(transcript: Transcript) -> str:
    """Subtitles of the web (WebVTT)."""
    return "WEBVTT\n\n" + "".join(f"{times}\n{text}\n\n" for times, text in _cues(transcript, hours=False, mark="."))


def as_tsv(transcript: Transcript) -> str:
    """Start and end in milliseconds and the text, with tabs between them."""
    rows = (f"{round(1000 * s.start)}\t{round(1000 * s.end)}\t{' '.join(s.text.split())}\n" for s in _spoken(transcript))
    return "start\tend\ttext\n" + "".join(rows)


WRITERS: dict[str, Callable[[Transcript], str]] = {"txt": as_txt, "json": as_json, "srt": as_srt, "vtt": as_vtt, "tsv": as_tsv}


def _spoken(transcript: Transcript) -> Iterator[Segment]:
    return (segment for segment in transcript.segments if segment.text.strip())


def _cues(transcript: Transcript, *, hours: bool, mark: str) -> Iterator[tuple[str, str]]:
    """Times and text of each subtitle: those of its words, where it has any."""
    for segment in _spoken(transcript):
        words = segment.words or [segment]
        times = " --> ".join(format_time(second, hours=hours, mark=mark) for second in (words[0].start, words[-1].end))
        yield times, segment.text.strip().replace("-->", "->")
