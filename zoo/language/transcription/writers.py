"""Transcripts as text files: txt, json, srt, vtt and tsv.

The formats are those of openai-whisper ``utils.py``. Where we differ: segments without text are left out; no text is taken for markup:
WebVTT gets ``&amp;``, ``&lt;`` and ``&gt;``, and in SRT, which has no escapes, ``-->`` is written as ``->``; the JSON has this package's
field names.
"""

import html
import json
from collections.abc import Callable

from zoo.language.transcription.subtitles import Layout, cues, spoken
from zoo.processors.media.cells import cell
from zoo.types import Transcript


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
    return "".join(f"{segment.text.strip()}\n" for segment in spoken(transcript))


def as_json(transcript: Transcript) -> str:
    """Return the whole transcript as one JSON object."""
    return json.dumps(transcript.as_json(), ensure_ascii=False, indent=1) + "\n"


def as_srt(transcript: Transcript, layout: Layout | None = None) -> str:
    """Return SubRip subtitles (SRT), numbered from 1."""
    found = enumerate(cues(transcript, layout or Layout()), 1)
    return "".join(
        f"{number}\n{_times(cue.start, cue.end, hours=True, mark=',')}\n{cue.text.replace('-->', '->')}\n\n" for number, cue in found
    )


def as_vtt(transcript: Transcript, layout: Layout | None = None) -> str:
    """Return WebVTT subtitles. Source of the escapes: W3C WebVTT, section 4.2.2, "WebVTT cue text span"."""
    found = cues(transcript, layout or Layout())
    return "WEBVTT\n\n" + "".join(f"{_times(cue.start, cue.end)}\n{html.escape(cue.text, quote=False)}\n\n" for cue in found)


def as_tsv(transcript: Transcript) -> str:
    """Return tab-separated lines of start and end in milliseconds and text, with a header line; no text is a spreadsheet's formula."""
    rows = (f"{round(1000 * s.start)}\t{round(1000 * s.end)}\t{cell(' '.join(s.text.split()))}\n" for s in spoken(transcript))
    return "start\tend\ttext\n" + "".join(rows)


SUBTITLES: dict[str, Callable[[Transcript, Layout | None], str]] = {"srt": as_srt, "vtt": as_vtt}
WRITERS: dict[str, Callable[[Transcript], str]] = {"txt": as_txt, "json": as_json, "srt": as_srt, "vtt": as_vtt, "tsv": as_tsv}


def written(format: str, transcript: Transcript, layout: Layout) -> str:
    """Return the text of a file; ``layout`` applies to subtitles."""
    return SUBTITLES[format](transcript, layout) if format in SUBTITLES else WRITERS[format](transcript)


def _times(start: float, end: float, *, hours: bool = False, mark: str = ".") -> str:
    return " --> ".join(format_time(second, hours=hours, mark=mark) for second in (start, end))
