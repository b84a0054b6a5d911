"""Transcripts as text files: txt, json, srt, vtt and tsv.

The formats are those of openai-whisper ``utils.py``. Where we differ: segments without text are left out; ``-->`` within a text is
written as ``->``, so that no reader takes it for the arrow between two times; the JSON has this package's field names.
"""

import json
from collections.abc import Callable, Iterator

from zoo.processors.media.cells import cell
from zoo.types import Segment, Transcript


def format_time(seconds: float, *, hours: bool = False, mark: str = ".") -> str:
    """Format seconds as ``HH:MM:SS.mmm``: 3661.5 becomes ``01:01:01.500``.

    Args:
        hours: write the hours even if they are zero.
        mark: decimal mark before the milliseconds.
    """
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, whole = divmod(whole, 60)
    hour, minutes = divmod(minutes, 60)
    return (f"{hour:02}:" if hours or hour else "") + f"{minutes:02}:{whole:02}{mark}{milliseconds:03}"


def as_txt(transcript: Transcript) -> str:
    """Return plain text with one line per segment."""
    return "".join(f"{segment.text.strip()}\n" for segment in _spoken(transcript))


def as_json(transcript: Transcript) -> str:
    """Return the whole transcript as one JSON object."""
    return json.dumps(transcript.as_json(), ensure_ascii=False, indent=1) + "\n"


def as_srt(transcript: Transcript) -> str:
    """Return SubRip subtitles (SRT), numbered from 1."""
    cues = enumerate(_cues(transcript, hours=True, mark=","), 1)
    return "".join(f"{number}\n{times}\n{text}\n\n" for number, (times, text) in cues)


def as_vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles."""
    return "WEBVTT\n\n" + "".join(f"{times}\n{text}\n\n" for times, text in _cues(transcript, hours=False, mark="."))


def as_tsv(transcript: Transcript) -> str:
    """Return tab-separated lines of start and end in milliseconds and text, with a header line; no text is a spreadsheet's formula."""
    rows = (f"{round(1000 * s.start)}\t{round(1000 * s.end)}\t{cell(' '.join(s.text.split()))}\n" for s in _spoken(transcript))
    return "start\tend\ttext\n" + "".join(rows)


WRITERS: dict[str, Callable[[Transcript], str]] = {"txt": as_txt, "json": as_json, "srt": as_srt, "vtt": as_vtt, "tsv": as_tsv}


def _spoken(transcript: Transcript) -> Iterator[Segment]:
    return (segment for segment in transcript.segments if segment.text.strip())


def _cues(transcript: Transcript, *, hours: bool, mark: str) -> Iterator[tuple[str, str]]:
    """Yield the times and the text of each subtitle; the times are those of its words if there are word times."""
    for segment in _spoken(transcript):
        words = segment.words or [segment]
        times = " --> ".join(format_time(second, hours=hours, mark=mark) for second in (words[0].start, words[-1].end))
        yield times, segment.text.strip().replace("-->", "->")
