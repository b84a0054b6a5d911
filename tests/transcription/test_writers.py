"""Files of transcripts, against those of openai-whisper."""

import io
import json

import pytest
from whisper.utils import WriteSRT, WriteTSV, WriteTXT, WriteVTT

from zoo.language.transcription.writers import WRITERS, format_time
from zoo.types import Segment, Transcript, Word

THEIRS = {"txt": WriteTXT, "srt": WriteSRT, "vtt": WriteVTT, "tsv": WriteTSV}


def transcript(*segments, words=None):
    made = [Segment(i, float(start), float(end), text, [1, 2], 0.0, -0.5, 1.0, 0.1, words) for i, (start, end, text) in enumerate(segments)]
    return Transcript("".join(text for _, _, text in segments), made, "en", 5000.0)


def written_by_openai(format, given):
    segments = [{"start": s.start, "end": s.end, "text": s.text} for s in given.segments]
    for segment, own in zip(segments, given.segments, strict=True):
        if own.words is not None:
            segment["words"] = [{"word": word.text, "start": word.start, "end": word.end} for word in own.words]
    file = io.StringIO()
    THEIRS[format]("").write_result({"segments": segments}, file)
    return file.getvalue()


@pytest.mark.parametrize("format", THEIRS)
def test_files_are_those_of_openai_whisper(format):
    given = transcript((0.0, 2.5, " Hello, world."), (2.5, 61.2345, " an arrow --> here"), (3599.9996, 4000.02, " caf\u00e9"))
    assert WRITERS[format](given) == written_by_openai(format, given)


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_subtitles_begin_and_end_with_their_words(format):
    given = transcript((0.0, 9.0, " two words"), words=[Word(" two", 0.5, 0.9, 0.9), Word(" words", 1.0, 1.48, 0.8)])
    assert WRITERS[format](given) == written_by_openai(format, given)


@pytest.mark.parametrize("format", THEIRS)
def test_segments_without_a_text_are_left_out(format):
    assert WRITERS[format](transcript((0, 1, ""), (1, 2, " a"))) == WRITERS[format](transcript((1, 2, " a")))


def test_json_holds_everything():
    given = transcript((0.0, 2.5, " \u65e5\u672c"), words=[Word(" \u65e5\u672c", 0.5, 0.9, 0.9)])
    read = json.loads(WRITERS["json"](given))
    assert read == given.as_json() and read["segments"][0]["words"][0] == {
        "text": " \u65e5\u672c",
        "start": 0.5,
        "end": 0.9,
        "probability": 0.9,
    }


def test_tabs_and_line_breaks_do_not_break_a_row():
    assert WRITERS["tsv"](transcript((0, 1, " a\tb\nc"))).splitlines()[1:] == ["0\t1000\ta b c"]


def test_a_table_holds_no_formula_of_a_spreadsheet():
    rows = WRITERS["tsv"](transcript((0, 1, " =1+1"), (1, 2, " @x"), (2, 3, " -5"))).splitlines()[1:]
    assert [row.split("\t")[2] for row in rows] == ["'=1+1", "'@x", "-5"]


def test_times_have_hours_where_there_are_some():
    assert [format_time(3661.5), format_time(61.0004), format_time(59.9999, hours=True, mark=",")] == [
        "01:01:01.500",
        "01:01.000",
        "00:01:00,000",
    ]
