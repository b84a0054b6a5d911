"""Recordings with transcripts: layouts, splits, groups, and messages about faults."""

import json

import numpy as np
import pytest
import soundfile
import torch

import zoo
from zoo.assembly.compose import compose
from zoo.downloads import asterisk
from zoo.errors import ConfigError, DataError
from zoo.runs.train import train
from zoo.sources.speech import Speech

RATE = 16000


def write_clip(path, seconds=0.2, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).standard_normal(int(seconds * RATE)) * 0.1, RATE)


@pytest.fixture
def table(tmp_path):
    """Forty recordings, the last four of one text, with a table in JSON lines; further rows may be added."""

    def write(*more, suffix="jsonl", **columns):
        rows = [{"path": f"clips/{n}.wav", "text": f"text {min(n, 36)}", **columns} for n in range(40)]
        for row in rows:
            write_clip(tmp_path / row["path"], seed=int(row["path"][6:-4]))
        rows += more
        if suffix == "csv":
            lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        else:
            lines = [json.dumps(row) for row in rows]
        (tmp_path / f"table.{suffix}").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


def samples_of(source):
    found = {}
    for name in source.splits:
        try:
            split = source.split(name)
        except DataError:
            continue
        found[name] = [split.sample(index) for index in range(len(split))]
    return found


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_table_gives_every_recording_once(table, suffix):
    found = samples_of(Speech(path=table(suffix=suffix), split_fractions=[0.5, 0.25, 0.25]))
    ids = [sample.id for samples in found.values() for sample in samples]
    assert sorted(ids) == sorted(f"clips/{n}.wav" for n in range(40)) and set(found) == {"train", "validation", "test"}
    sample = found["train"][0]
    assert sample.inputs["audio"].is_file() and sample.inputs["text"].startswith("text")


def test_equal_texts_are_one_group_and_in_one_split(table):
    found = samples_of(Speech(path=table(), split_fractions=[0.5, 0.25, 0.25]))
    by_text = {}
    for name, samples in found.items():
        for sample in samples:
            by_text.setdefault(sample.inputs["text"], set()).add((name, sample.group))
    assert all(len(where) == 1 for where in by_text.values())
    assert len({group for where in by_text.values() for _, group in where}) == len(by_text) == 37


def test_groups_do_not_know_case_and_spaces(tmp_path):
    write_clip(tmp_path / "a.wav")
    rows = [{"path": "a.wav", "text": text, "split": "train"} for text in ("Hello  World", "hello world", "hello")]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = Speech(path=tmp_path).split("train")
    groups = [split.sample(index).group for index in range(3)]
    assert groups[0] == groups[1] != groups[2]
    assert split.identities("audio") == [str(tmp_path / "a.wav")] * 3 and split.identities("text") is None


def test_a_column_says_the_split(table):
    assert {name: len(samples) for name, samples in samples_of(Speech(path=table(split="dev"))).items()} == {"validation": 40}


def test_a_table_may_be_named_and_have_other_columns(tmp_path):
    write_clip(tmp_path / "sounds" / "a.wav")
    (tmp_path / "list.csv").write_text("file,words\nsounds/a.wav,hello\n")
    for words in ({"path": tmp_path, "table": "list.csv"}, {"path": tmp_path / "list.csv"}):
        source = Speech(**words, audio_key="file", text_key="words")
        assert [sample.inputs["text"] for samples in samples_of(source).values() for sample in samples] == ["hello"]


def test_ljspeech_takes_the_normalised_text_and_quotation_marks_as_they_are(tmp_path):
    for name in ("LJ001-0001", "LJ001-0002"):
        write_clip(tmp_path / "wavs" / f"{name}.wav")
    (tmp_path / "metadata.csv").write_text('LJ001-0001|In 1455, "he"|In fourteen fifty-five, "he"\nLJ001-0002|plain\n', encoding="utf-8")
    source = Speech(path=tmp_path)
    texts = {sample.id: sample.inputs["text"] for samples in samples_of(source).values() for sample in samples}
    assert source.layout == "ljspeech"
    assert texts == {"LJ001-0001": 'In fourteen fifty-five, "he"', "LJ001-0002": "plain"}


def test_ljspeech_takes_the_text_where_the_normalised_text_is_empty(tmp_path):
    for name in ("c3", "c4"):
        write_clip(tmp_path / "wavs" / f"{name}.wav")
    (tmp_path / "metadata.csv").write_text("c3|It costs $5.|\nc4||\n", encoding="utf-8")
    source = Speech(path=tmp_path, on_bad="skip")
    assert [sample.inputs["text"] for samples in samples_of(source).values() for sample in samples] == ["It costs $5."]
    assert source.skipped == ["metadata.csv, line 2: no text"]


def test_common_voice_has_splits_by_the_names_of_its_files(tmp_path):
    header = "client_id\tpath\tsentence\tup_votes\tlocale\n"
    for split, text in (("train", 'He said "no'), ("dev", "Guten Tag"), ("test", "one\ttwo")):
        write_clip(tmp_path / "clips" / f"common_voice_{split}.mp3")
        (tmp_path / f"{split}.tsv").write_text(f"{header}a1\tcommon_voice_{split}.mp3\t{text}\t2\tde\n", encoding="utf-8")
    source = Speech(path=tmp_path, on_bad="skip")
    found = {name: (samples[0].inputs["text"], samples[0].inputs["language"]) for name, samples in samples_of(source).items()}
    assert source.layout == "common_voice" and found == {"train": ('He said "no', "de"), "validation": ("Guten Tag", "de")}
    assert source.skipped == ["test.tsv, line 2: 6 cells where the header has 5"]


def test_common_voice_without_splits_and_without_suffixes(tmp_path):
    write_clip(tmp_path / "clips" / "a.mp3")
    rows = "path\tsentence\na\thello\nb\tthere\na\t\n"
    (tmp_path / "validated.tsv").write_text(rows, encoding="utf-8")
    source = Speech(path=tmp_path, on_bad="skip")
    assert [sample.inputs["text"] for samples in samples_of(source).values() for sample in samples] == ["hello"]
    assert source.skipped == ["validated.tsv, line 3: there is no file clips/b", "validated.tsv, line 4: no text"]


def test_common_voice_names_a_missing_column(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "train.tsv").write_text("path\ttext\na\thello\n", encoding="utf-8")
    with pytest.raises(DataError, match="train.tsv, line 1: no key 'sentence'"):
        Speech(path=tmp_path)


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("manifest.json", {"audio_filepath": "clips/a.wav", "text": "hello", "duration": 0.2}),  # NeMo
        ("metadata.jsonl", {"file_name": "clips/a.wav", "transcription": "hello"}),  # Hugging Face's audio folder
    ],
)
def test_tables_of_other_tools_need_no_keys(tmp_path, file, row):
    write_clip(tmp_path / "clips" / "a.wav")
    (tmp_path / file).write_text(json.dumps(row) + "\n")
    for path in (tmp_path, tmp_path / file):
        source = Speech(path=path)
        assert [sample.inputs["text"] for samples in samples_of(source).values() for sample in samples] == ["hello"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_empty_text_means_that_nobody_speaks(table, suffix):
    source = Speech(path=table({"path": "clips/1.wav", "text": ""}, suffix=suffix))
    assert "" in [sample.inputs["text"] for samples in samples_of(source).values() for sample in samples]


def test_librispeech_has_splits_by_the_names_of_its_folders(tmp_path):
    for subset in ("train-clean-100", "dev-other", "test-clean"):
        folder = tmp_path / subset / "84" / "121"
        write_clip(folder / "84-121-0000.flac")
        (folder / "84-121.trans.txt").write_text(f"84-121-0000 {subset.upper()} SAYS\n")
    source = Speech(path=tmp_path)
    found = samples_of(source)
    assert source.layout == "librispeech"
    assert {name: samples[0].inputs["text"] for name, samples in found.items()} == {
        "train": "TRAIN-CLEAN-100 SAYS",
        "validation": "DEV-OTHER SAYS",
        "test": "TEST-CLEAN SAYS",
    }


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"path": "clips/none.wav", "text": "x"}, "row 41: there is no file 'clips/none.wav'"),
        ({"path": "clips/1.wav", "text": None}, "row 41: text is None"),
        ({"path": "clips/1.wav", "text": 7}, "text is 7"),
        ({"path": "clips/1.wav"}, "no key 'text'"),
        ({"path": "clips/1.wav", "text": "x", "split": "tset"}, "did you mean 'test'"),
    ],
)
def test_faulty_rows_are_refused_or_left_out(table, row, words):
    folder = table(row)
    with pytest.raises(DataError, match=words):
        Speech(path=folder)
    source = Speech(path=folder, on_bad="skip")
    assert len(source.skipped) == 1 and sum(map(len, samples_of(source).values())) == 40


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"layout": "ljspeach"}, "did you mean 'ljspeech'"),
        ({"on_bad": "ignore"}, "known: error, skip"),
        ({"split_fractions": [0.5, 0.5, 0.5]}, "split_fractions"),
    ],
)
def test_words_that_are_not_allowed_are_refused(table, keywords, words):
    with pytest.raises(ConfigError, match=words):
        Speech(path=table(), **keywords)


def test_folders_that_hold_nothing_are_refused_with_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"neither a table .* nor metadata.csv beside wavs/ nor \*.trans.txt"):
        Speech(path=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        Speech(path=tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no file .*list.csv"):
        Speech(path=tmp_path, table="list.csv")
    with pytest.raises(ConfigError, match="there is no 'dev'"):
        write_clip(tmp_path / "a.wav")
        (tmp_path / "table.csv").write_text("path,text\na.wav,hello\n")
        Speech(path=tmp_path).split("dev")


def test_without_the_libraries_for_sound_the_source_says_what_to_install(table, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    with pytest.raises(ConfigError, match=r"zoo install audio"):
        Speech(path=table())


@pytest.mark.heavy
def test_training_skips_and_counts_broken_recordings_and_the_system_names_sounds(table, tmp_path):
    """A whole run: two of forty recordings are broken, one is too long."""
    folder = table(split="train")
    (folder / "clips" / "3.wav").write_bytes(b"RIFF and no more")
    (folder / "clips" / "5.wav").write_bytes((folder / "clips" / "4.wav").read_bytes()[:500])
    write_clip(folder / "clips" / "7.wav", seconds=2.0)
    words = ["max_steps=10", "batch_size=8", "evaluate_every=0", "checkpoint_every=10", "threads=1", "warmup_steps=1"]
    settings = ["system=clap_whisper_nano", "data=speech", f"data.source.path={folder}", "data.num_workers=0"]
    settings += [f"run_dir={tmp_path / 'run'}", "system.processor.audio.max_seconds=1.0", *(f"training.{word}" for word in words)]
    train(compose("train", settings))
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert skipped["skipped"] == {"audio": 6} and any("cut short" in text for text in skipped["examples"]["audio"])  # two epochs
    system = zoo.load(tmp_path / "run")
    clips = [folder / "clips" / f"{number}.wav" for number in (0, 1, 2)]
    shares = system.classify(clips, ["one", "two"], templates=["{}"])
    assert shares.shape == (3, 2) and torch.allclose(shares.sum(1), torch.ones(3))
    single = torch.cat([system.embed("audio", clip) for clip in clips])
    torch.testing.assert_close(single, system.embed("audio", clips), rtol=0, atol=1e-5)


# What `zoo fetch asterisk_sounds` makes.


def test_asterisk_texts_lose_notes_in_brackets_and_prompts_that_are_none():
    lines = ["; Core Sounds", "", "beep: [a tone]", "silence/1: (1 second of silence)", "join: <beep>", "a: At  [@]", "b:  Press 1: now."]
    assert asterisk.read_texts(lines) == {"a": "At", "b": "Press 1: now."}


def test_asterisk_splits_are_a_tenth_of_the_texts_of_four_words():
    texts = {f"please press the number {n}" for n in range(100)} | {f"number {n}" for n in range(50)}
    splits = asterisk.splits_of(texts)
    count = {name: sum(1 for text in texts if splits[text] == name) for name in ("train", "validation", "test")}
    assert count == {"train": 130, "validation": 10, "test": 10} and splits == asterisk.splits_of(set(sorted(texts)))
    assert all(len(text.split()) == 5 for text in texts if splits[text] != "train")
