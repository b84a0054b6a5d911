"""Further training data of Whisper: segments with times, windows of long recordings, and the text before a window."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from zoo.data.readers.recordings import Clip, windows_of
from zoo.errors import ConfigError, DataError, ItemError
from zoo.processors.media.audio_file import read_piece, seconds_in_header
from zoo.sources.speech import Speech

RATE = 8000


def write_ramp(path, seconds):
    """Write a recording in which each sample encodes its time: n / 100,000 at n milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.arange(int(seconds * RATE)) / RATE / 100, RATE, subtype="FLOAT")


def write_table(folder, rows):
    for row in rows:
        write_ramp(folder / row["path"], row.get("seconds", 1.0))
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def segments(*times):
    return [{"start": start, "end": end, "text": f"from {start}"} for start, end in times]


def test_segments_and_further_words_of_a_row_are_in_its_sample(tmp_path):
    row = {
        "path": "a.wav",
        "segments": segments((0.0, 0.5), (0.5, 0.75)),
        "split": "train",
        "language": "de",
        "task": "translate",
        "kind": "x",
    }
    source = Speech(path=write_table(tmp_path, [row, {"path": "b.wav", "text": "plain", "split": "train"}]))
    first, second = (source.split("train").sample(index) for index in range(2))
    assert first.inputs["text"] == "from 0.0 from 0.5" and first.inputs["segments"] == [(0.0, 0.5, "from 0.0"), (0.5, 0.75, "from 0.5")]
    assert (first.inputs["language"], first.inputs["task"], first.kind) == ("de", "translate", "x") and source.kinds == ["x"]
    assert set(second.inputs) == {"audio", "text"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([[0, 1, "x"]], "segments are .* where a list of objects with start, end, text"),
        (segments((0.0, 2.0), (1.0, 3.0)), r"1 to 3 s comes after 2 s; times must rise"),
        ([{"start": "0", "end": 1, "text": "x"}], "needs .start. and .end. as numbers .seconds. and .text. as a string"),
        (segments((2.0, 1.0)), "times must rise"),
    ],
)
def test_segments_that_cannot_be_are_named_with_their_row(tmp_path, given, words):
    with pytest.raises(DataError, match=f"row 1: .*{words}"):
        Speech(path=write_table(tmp_path, [{"path": "a.wav", "segments": given}]))


def test_windows_begin_where_a_segment_was_cut(tmp_path):
    said = ((0.0, 10.0, "a"), (12.0, 28.0, "b"), (29.0, 35.0, "c"), (36.0, 40.0, "d"), (130.0, 131.0, "e"))
    first, second, third = windows_of(Clip(tmp_path, "long", "a b c d e", segments=said), 30.0)
    assert (first.start, first.text, first.segments) == (0.0, "a b", ((0.0, 10.0, "a"), (12.0, 28.0, "b"), (29.0, None, "")))
    assert (second.start, second.text, second.segments) == (29.0, "c d", ((0.0, 6.0, "c"), (7.0, 11.0, "d")))
    assert (third.start, third.text) == (29.0 + 3 * 30, "e") and third.segments == ((130.0 - 119, 131.0 - 119, "e"),)
    with pytest.raises(DataError, match="the segment at 5 s is longer than a window of 30 s"):
        list(windows_of(Clip(tmp_path, "long", "a", segments=((5.0, 36.0, "a"),)), 30.0))


def test_every_segment_is_in_one_window_whatever_their_lengths():
    draw = np.random.default_rng(0)
    for _ in range(50):
        edges = np.cumsum(draw.uniform(0.1, 6.0, 40)).round(2)
        said = tuple((float(a), float(b), str(n)) for n, (a, b) in enumerate(zip(edges[::2], edges[1::2], strict=True)))
        found = list(windows_of(Clip(Path("x"), "x", "", segments=said), 10.0))
        assert " ".join(each.text for each in found).split() == [text for _, _, text in said]
        again = [(each.start + a, each.start + b) for each in found for a, b, _ in each.segments if b is not None]
        np.testing.assert_allclose(again, [each[:2] for each in said])
        assert all(0 <= a < 10 and (b is None or b <= 10 + 1e-9) for each in found for a, b, _ in each.segments)


def test_a_windows_sound_is_its_piece_and_what_was_said_before_may_stand_before_it(tmp_path):
    row = {"path": "a.wav", "segments": segments((0.0, 1.5), (1.75, 3.0), (3.0, 3.5)), "split": "train", "seconds": 3.5}
    split = Speech(path=write_table(tmp_path, [row]), window_seconds=2.0, previous_share=0.5).split("train")
    assert len(split) == 2
    sound, rate = split.sample(1).inputs["audio"]
    assert rate == RATE and len(sound) == (3.5 - 1.75) * RATE
    np.testing.assert_allclose(sound, (1.75 + np.arange(len(sound)) / RATE) / 100, atol=1e-6)
    drawn = [split.sample(1, np.random.default_rng(n)).inputs.get("previous") for n in range(200)]
    assert 70 < drawn.count("from 0.0") < 130 and set(drawn) == {None, "from 0.0"}
    assert "previous" not in split.sample(1).inputs and "previous" not in split.sample(0, np.random.default_rng(0)).inputs
    assert split.identities("audio") is None  # each is a recording of its own


def test_utterances_of_a_chapter_follow_each_other_where_the_split_has_no_gap(tmp_path):
    folder = tmp_path / "train-clean-100"
    for chapter in ("84-121", "84-122"):
        for number in range(4):
            write_ramp(folder / f"{chapter}-{number}.wav", 0.1)
        lines = [f"{chapter}-{n} {chapter} TEXT {n}\n" for n in range(4) if (chapter, n) != ("84-122", 1)]
        (folder / f"{chapter}.trans.txt").write_text("".join(lines))
    split = Speech(path=folder, previous_share=1.0).split("train")  # the folder is a subset itself
    before = [split.sample(n, np.random.default_rng(0)).inputs.get("previous") for n in range(len(split))]
    assert before[:3] == [None, "84-121 TEXT 0", "84-121 TEXT 0 84-121 TEXT 1"] and before[4] is None
    assert split.sample(0).kind == "train-clean-100"


def test_a_row_may_tell_what_was_said_before(tmp_path):
    rows = [{"path": "a.wav", "text": "now", "previous": "before", "split": "train"}]
    split = Speech(path=write_table(tmp_path, rows), previous_share=1.0).split("train")
    assert split.sample(0, np.random.default_rng(0)).inputs["previous"] == "before" and "previous" not in split.sample(0).inputs


def test_batches_are_of_nearly_equal_length(tmp_path):
    lengths = np.random.default_rng(0).permutation(40) / 20 + 0.1
    rows = [{"path": f"{n}.wav", "text": f"t {n}", "split": "train", "seconds": float(s)} for n, s in enumerate(lengths)]
    folder = write_table(tmp_path, rows)
    order = Speech(path=folder, batch_size=4).split("train").order(3, 1)
    assert sorted(order) == list(range(40)) and np.ptp(lengths[order.reshape(-1, 4)], axis=1).max() < 0.16
    np.testing.assert_array_equal(Speech(path=folder).split("train").order(3, 1), np.random.default_rng((3, 1)).permutation(40))
    for row in rows:
        del row["seconds"]
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.testing.assert_array_equal(Speech(path=folder, batch_size=4).split("train").order(3, 1), order)  # by the headers


def test_pieces_that_are_not_there_are_refused(tmp_path):
    write_ramp(tmp_path / "a.wav", 1.0)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    assert len(read_piece(tmp_path / "a.wav", 0.9, 5.0)[0]) == 0.1 * RATE
    with pytest.raises(ItemError, match=r"ends at 1.00 s, before the requested start at 2 s"):
        read_piece(tmp_path / "a.wav", 2.0, 1.0)
    with pytest.raises(ItemError, match="convert it to WAV or FLAC"):
        read_piece(tmp_path / "b.wav", 0.0, 1.0)
    assert seconds_in_header(tmp_path / "a.wav") == 1.0 and seconds_in_header(tmp_path / "b.wav") == 0


@pytest.mark.parametrize("words", [{"window_seconds": 0.0}, {"previous_share": 1.5}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(tmp_path, words):
    with pytest.raises(ConfigError, match=next(iter(words))):
        Speech(path=write_table(tmp_path, [{"path": "a.wav", "text": "x"}]), **words)
