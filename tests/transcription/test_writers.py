"""Files of transcripts, against those of openai-whisper."""

import io
import json

import pytest
from whisper.utils import WriteSRT, WriteTSV, WriteTXT, WriteVTT

from zoo.errors import ConfigError
from zoo.language.transcription.subtitles import Layout
from zoo.language.transcription.writers import SUBTITLES, WRITERS, format_time, written
from zoo.types import Segment, Transcript, Word

THEIRS = {"txt": WriteTXT, "srt": WriteSRT, "vtt": WriteVTT, "tsv": WriteTSV}


def transcript(*segments, words=None):
    made = [Segment(i, float(start), float(end), text, [1, 2], 0.0, -0.5, 1.0, 0.1, words) for i, (start, end, text) in enumerate(segments)]
    return Transcript("".join(text for _, _, text in segments), made, "en", 5000.0)


def written_by_openai(format, given, **limits):
    segments = [{"start": s.start, "end": s.end, "text": s.text} for s in given.segments]
    for segment, own in zip(segments, given.segments, strict=True):
        if own.words is not None:
            segment["words"] = [{"word": word.text, "start": word.start, "end": word.end} for word in own.words]
    file = io.StringIO()
    THEIRS[format]("").write_result({"segments": segments}, file, **limits)
    return file.getvalue()


@pytest.mark.parametrize("format", THEIRS)
def test_files_are_those_of_openai_whisper(format):
    given = transcript((0.0, 2.5, " Hello, world."), (2.5, 61.2345, " an arrow - here"), (3599.9996, 4000.02, " caf\u00e9"))
    assert WRITERS[format](given) == written_by_openai(format, given)


def test_texts_are_never_markup_of_subtitles():
    given = transcript((0.0, 2.5, " a --> b & <i>c</i>"))
    assert WRITERS["vtt"](given).splitlines()[3] == "a --&gt; b &amp; &lt;i&gt;c&lt;/i&gt;"
    assert WRITERS["srt"](given) == written_by_openai("srt", given) and "a -> b & <i>c</i>" in WRITERS["srt"](given)


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


SAID = " The quick brown fox jumps over the lazy dog, incomprehensibilities and then it sleeps a lot."


def spoken_words(start, text, pause_before="it"):
    """Return words of 0.4 s; before one of them nobody speaks for 4 s."""
    found = []
    for word in text.split():
        start += 4.0 if word == pause_before else 0.0
        found.append(Word(" " + word, start, start + 0.4, 0.9))
        start += 0.4
    return found


LIMITS = [
    {"max_line_width": 20},
    {"max_line_width": 20, "max_line_count": 1},
    {"max_line_width": 24, "max_line_count": 2},
    {"max_line_width": 10, "max_line_count": 3},
    {"max_words_per_line": 3},
    {"max_words_per_line": 1},
]


@pytest.mark.parametrize("format", SUBTITLES)
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_lines_are_broken_as_by_openai_whisper(format, limits):
    segments = [Segment(i, 20.0 * i, 20.0 * i + 15, SAID, [1], 0.0, -0.5, 1.0, 0.1, spoken_words(20.0 * i, SAID)) for i in range(3)]
    given = Transcript(SAID * 3, segments, "en", 60.0)
    assert written(format, given, Layout(**limits)) == written_by_openai(format, given, **limits)
    assert written("txt", given, Layout(**limits)) == written("txt", given, Layout())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_line_width": 0}, "max_line_width: 0; allowed is 1 or more"),
        ({"max_line_count": 2}, "no effect without a line width"),
        ({"max_line_width": 20, "max_words_per_line": 3}, "no effect beside max_line_width"),
    ],
)
def test_limits_without_an_effect_are_refused(limits, message):
    with pytest.raises(ConfigError, match=message):
        Layout(**limits)
