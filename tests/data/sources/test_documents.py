"""Text corpus: reading of files, cutting into pieces, and sentence pairs."""

import json

import numpy as np
import pytest

from zoo.data.readers.text_documents import Document, cut_sentences
from zoo.errors import ConfigError, DataError
from zoo.sources.documents import Documents

ALL = {"split_fractions": [1.0, 0.0, 0.0]}


def text_of(number, sentences=6):
    return " ".join(f"Document {number} says sentence {i} here." for i in range(sentences))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.txt").write_text(text_of(1))
    (tmp_path / "below" / "b.md").write_text(f"{text_of(2)}\n\n{text_of(3)}\n\n\n{text_of(4)}\n")
    rows = [json.dumps({"text": text_of(5)}), "{", json.dumps({"txt": "x"}), json.dumps({"text": 3}), json.dumps({"text": " "})]
    (tmp_path / "c.jsonl").write_text("\n".join(rows))
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_files_of_every_kind_are_read_and_faults_are_listed_with_their_reasons(folder):
    source = Documents(path=folder, **ALL)
    ids = [document.id for document in source.split("train").documents]
    assert ids == ["a.txt", "below/b.md", "c.jsonl:1"]
    faults = "\n".join(source.skipped)
    for words in ("2: malformed", "3: no key 'text'", "4: text is int", "5: text is empty"):
        assert f"c.jsonl:{words}" in faults
    assert "empty.txt: empty" in faults and "latin.txt: not UTF-8" in faults and len(source.skipped) == 6
    with pytest.raises(DataError, match=r"6 files or texts cannot be used \(c.jsonl:2"):
        Documents(path=folder, on_bad="error", **ALL)


def test_blank_lines_and_numbers_of_lines_cut_documents(folder):
    found = Documents(path=folder / "below" / "b.md", boundary="blank_line", **ALL).split("train").documents
    assert [(document.id, len(document.sentences)) for document in found] == [("b.md:1", 6), ("b.md:3", 6), ("b.md:6", 6)]
    (folder / "lines.txt").write_text("".join(f"word {i} of it\n\n" for i in range(7)) + "one\n")
    found = Documents(path=folder / "lines.txt", boundary="lines", lines_per_document=3, min_words=2, **ALL).split("train").documents
    assert [document.sentences for document in found][-1] == ("word 6 of it",) and [len(d.sentences) for d in found] == [3, 3, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('One is here. Two is\nwrapped! "Three?" Four.', ["One is here.", "Two is wrapped!", '"Three?"', "Four."]),
        ("Mr. Smith met J. Doe, e.g. Anna. He left.", ["Mr. Smith met J. Doe, e.g. Anna.", "He left."]),
        ("It costs 3.50 today. then no capital\n\nA paragraph", ["It costs 3.50 today. then no capital", "A paragraph"]),
    ],
)
def test_sentences_end_where_one_would_end_them(text, expected):
    assert list(cut_sentences(Document("x", text), each_line=False)) == expected


def test_pieces_hold_whole_sentences_and_every_sentence_once(folder):
    split = Documents(path=folder, max_words=13, **ALL).split("train")
    texts = [split.sample(index).inputs["text"] for index in range(len(split))]
    assert " ".join(texts) == " ".join(" ".join(document.sentences) for document in split.documents)
    assert max(len(text.split()) for text in texts) <= 13


def test_a_document_falls_into_one_split_by_its_text_alone(tmp_path):
    for number in range(200):
        (tmp_path / f"{number}.txt").write_text(text_of(number, 1))
    places = {}
    for boundary, path in (("file", tmp_path), ("file", tmp_path / ".")):
        source = Documents(path=path, boundary=boundary, split_fractions=[0.6, 0.2, 0.2])
        for name in source.splits:
            for document in source.split(name).documents:
                assert places.setdefault(document.id, name) == name
    counts = [sum(name == split for name in places.values()) for split in ("train", "validation", "test")]
    assert sum(counts) == 200 and 95 <= counts[0] <= 145 and min(counts) >= 20


@pytest.mark.parametrize("pairs", ["next", "swapped"])
def test_half_of_the_pairs_belong_together_and_follow_from_the_generator(folder, pairs):
    split = Documents(path=folder, boundary="blank_line", pairs=pairs, **ALL).split("train")
    of_text = {" ".join(document.sentences): document.id for document in split.documents}
    drawn = [(index % len(split), split.sample(index % len(split), np.random.default_rng(index))) for index in range(400)]
    assert 0.4 < np.mean([sample.label for _, sample in drawn]) < 0.6
    for index, sample in drawn:
        first, second = sample.inputs["text"]
        own = split.documents[split.pieces[index].document].id
        if sample.label == 0:
            assert of_text[f"{first} {second}"] == own
        elif pairs == "swapped":
            assert of_text[f"{second} {first}"] == own
        else:
            number = second.split()[1]
            assert f"Document {number} " not in first and first in " ".join(split.documents[split.pieces[index].document].sentences)
    again = split.sample(1, np.random.default_rng(1))
    assert again == split.sample(1, np.random.default_rng(1)) and split.sample(1) == split.sample(1)


def test_bad_words_and_empty_places_are_refused(folder, tmp_path):
    for words, message in (
        ({"pairs": "nxt"}, "did you mean 'next'"),
        ({"boundary": "line"}, "did you mean 'lines'"),
        ({"split_fractions": [0.5, 0.5]}, "three shares"),
        ({"max_words": 1}, "max_words: 1; allowed is 2 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            Documents(path=folder, **words)
    with pytest.raises(DataError, match="does not exist"):
        Documents(path=folder / "nothing")
    with pytest.raises(DataError, match="holds no file that ends in"):
        Documents(path=folder / "picture.png")
    with pytest.raises(DataError, match=r"no text that can be used \(empty.txt: empty\)"):
        Documents(path=folder / "empty.txt")
    with pytest.raises(DataError, match="the split 'train' is empty: it has no document with two sentences"):
        Documents(path=folder / "a.txt", pairs="next", **ALL).split("train")  # there is no other document
    with pytest.raises(ConfigError, match="there is no 'dev'"):
        Documents(path=folder).split("dev")
