"""Source parallel: two files, JSON lines and TMX; splits by page; LibreOffice's help."""

import json

import pytest

from zoo.downloads.libreoffice_help import blocks_of, convert
from zoo.errors import ConfigError, DataError
from zoo.sources.parallel import Parallel
from zoo.testing import check_source

TMX = """<?xml version="1.0"?>
<tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="en-US"><seg>Open the  <hi>file</hi>.</seg></tuv><tuv xml:lang="DE"><seg>Datei öffnen.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Only English.</seg></tuv><tuv xml:lang="fr"><seg>Anglais.</seg></tuv></tu>
<tu><tuv lang="en"><seg>A word</seg></tuv><tuv lang="de"><seg>Ein Wort</seg></tuv></tu>
</body></tmx>"""


def json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def many(tmp_path):
    rows = [{"en": f"text {n} of a page", "de": f"Text {n} einer Seite", "page": f"page {n // 4}"} for n in range(800)]
    return json_lines(tmp_path / "pairs.jsonl", rows)


def everything(source):
    return {name: [source.split(name).sample(i) for i in range(len(source.split(name)))] for name in source.splits}


def test_the_contract_holds(many):
    check_source(Parallel(path=many, split_fractions=[0.8, 0.1, 0.1]), limit=4)


def test_pages_stay_together_and_nothing_is_lost(many):
    found = everything(Parallel(path=many, split_fractions=[0.8, 0.1, 0.1]))
    pages = {name: {int(sample.inputs["text"].split()[1]) // 4 for sample in samples} for name, samples in found.items()}
    assert not pages["train"] & pages["test"] and not pages["train"] & pages["validation"] and not pages["test"] & pages["validation"]
    assert sum(map(len, found.values())) == 800 and 500 < len(found["train"]) < 720 and len(found["test"]) > 30


def test_source_texts_of_training_are_no_test(many):
    rows = [{"en": "always the same", "de": f"immer gleich {n}", "page": f"page {n}"} for n in range(200)]
    source = Parallel(path=json_lines(many.parent / "same.jsonl", rows), split_fractions=[0.5, 0.25, 0.25])
    assert len(source.split("test")) == len(source.split("validation")) == 0
    report = source.report()
    assert report["read"] == 200 and report["also in training"] + report["train"] == 200


def test_pairs_that_differ_in_punctuation_or_share_a_translation_are_no_test(tmp_path):
    same = [{"en": f"Open{'.' * (n % 50)}", "de": f"auf {n}", "page": str(n)} for n in range(100)]
    translated = [{"en": f"go {n}", "de": f"WEITER{'!' * (n % 50)}", "page": str(n)} for n in range(100)]
    source = Parallel(path=json_lines(tmp_path / "near.jsonl", same + translated), split_fractions=[0.5, 0.25, 0.25])
    assert len(source.split("train")) > 80 and not len(source.split("validation")) + len(source.split("test"))


def test_each_reason_to_leave_a_pair_out_is_counted(tmp_path):
    rows = [("a b", "c d"), ("a b", "c d"), ("same", "same"), ("", "x"), ("one two three four", "x"), ("ok now", "gut so")]
    path = json_lines(tmp_path / "x.jsonl", [{"en": a, "de": b} for a, b in rows])
    report = Parallel(path=path, max_words=3, split_fractions=[1.0, 0.0, 0.0]).report()
    assert report == {
        **{"read": 6, "empty or equal": 2, "repeated": 1, "too short or long": 1, "also in training": 0},
        **{"train": 2, "validation": 0, "test": 0},
    }


def test_two_files_belong_together_line_by_line(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "a.de").write_text("eins\nzwei\n", encoding="utf-8")
    source = Parallel(path=tmp_path / "a.en", target_path=tmp_path / "a.de", split_fractions=[1.0, 0.0, 0.0], prefix="translate: ")
    samples = everything(source)["train"]
    assert [(s.inputs["text"], s.inputs["target"]) for s in samples] == [("translate: one", "eins"), ("translate: two", "zwei")]
    assert source.captions() == ["translate: one", "eins", "translate: two", "zwei"]
    (tmp_path / "b.de").write_text("eins\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"has 2 lines and .*b.de has 1"):
        Parallel(path=tmp_path / "a.en", target_path=tmp_path / "b.de")


def test_tmx_with_regions_and_markup(tmp_path):
    path = tmp_path / "memory.tmx"
    path.write_text(TMX, encoding="utf-8")
    samples = everything(Parallel(path=path, split_fractions=[1.0, 0.0, 0.0]))["train"]
    assert [(s.inputs["text"], s.inputs["target"]) for s in samples] == [("Open the file.", "Datei öffnen."), ("A word", "Ein Wort")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<tmx><body><tu>", "is no valid XML"),
        ('<!DOCTYPE tmx [<!ENTITY a "aa">]><tmx/>', "defines XML entities"),
        ("<tmx><body/></tmx>", "holds no pair for training"),
    ],
)
def test_damaged_tmx_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.tmx"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Parallel(path=path)


@pytest.mark.parametrize(
    ("line", "message"), [("{", "line 1: no JSON"), ('{"en": "a", "fr": "b"}', "it holds en, fr"), ("[1]", "it holds list")]
)
def test_damaged_json_lines_are_refused(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Parallel(path=path)


def test_other_files_and_wrong_numbers_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(DataError, match="neither .jsonl nor .tmx"):
        Parallel(path=tmp_path / "a.txt")
    with pytest.raises(DataError, match="no such file"):
        Parallel(path=tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="split_fractions"):
        Parallel(path=tmp_path / "a.txt", split_fractions=[0.5, 0.5])
    with pytest.raises(ConfigError, match="min_words 5, max_words 2"):
        Parallel(path=tmp_path / "a.txt", min_words=5, max_words=2)


def test_batches_hold_texts_of_similar_length(tmp_path):
    rows = [{"en": "word " * (1 + n % 50), "de": "Wort " * (1 + n % 50) + str(n)} for n in range(640)]
    split = Parallel(path=json_lines(tmp_path / "x.jsonl", rows), split_fractions=[1.0, 0.0, 0.0], batch_size=16).split("train")
    order = split.order(0, 0)
    lengths = [len(split.sample(int(i)).inputs["text"]) for i in order[: len(order) // 16 * 16]]
    spreads = [max(lengths[i : i + 16]) - min(lengths[i : i + 16]) for i in range(0, len(lengths), 16)]
    assert sorted(order) == list(range(len(split))) and sum(spreads) / len(spreads) < 40  # 245 at random


def test_joined_texts_are_two_segments(many):
    sample = Parallel(path=many, joined=True).split("train").sample(0)
    assert set(sample.inputs) == {"text"} and len(sample.inputs["text"]) == 2


def test_blocks_of_a_page_of_the_help():
    page = """<h1 id="hd_id1"> Open <b>files</b></h1><p id="par_id2">A&nbsp;line<br>and more &amp; more</p><p>no id</p>
    <div class="bascode"><p id="par_id3">Print 1</p></div><p id="par_id4" class="bascode">x = 2</p>
    <p id="other">no</p><p id="par_id5">last"""
    assert blocks_of(page) == {"hd_id1": "Open files", "par_id2": "A line and more & more", "par_id5": "last"}


SWITCHED = """<p id="par_id1">Choose <span class="switchinline"><span hidden="true" id="MACa"><b>Preferences</b></span>
<span hidden="true" id="defaulta"><span class="emph">Tools - Options</span></span></span><span class="emph"> - Writer</span>.</p>
<p id="par_id2">Press <span class="switchinline"><span hidden="1" id="UNIXb">Ctrl</span><span hidden="1" id="WINb">Alt</span></span>."""


def test_of_the_words_of_each_system_the_default_is_kept_or_the_first():
    assert blocks_of(SWITCHED) == {"par_id1": "Choose Tools - Options - Writer.", "par_id2": "Press Ctrl."}


def test_the_help_is_aligned_by_id(tmp_path):
    for language, texts in (("en-US", ("Open the file", "Same text", "word")), ("de", ("Datei öffnen", "Same text", "Wort"))):
        folder = tmp_path / "help" / language / "text"
        folder.mkdir(parents=True)
        (folder / "a.html").write_text("".join(f'<p id="par_id{i}">{text}</p>' for i, text in enumerate(texts)), encoding="utf-8")
        (folder / f"only_{language}.html").write_text('<p id="par_id1">alone here</p>', encoding="utf-8")
    convert(tmp_path, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"en": "Open the file", "de": "Datei öffnen", "page": "text/a.html", "id": "par_id0"}]
