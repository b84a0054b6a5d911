"""Interleaved documents: accepted rows, dropped documents with their reasons, and tar shards beside JSON lines."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.readers.document_filter import Document, DocumentFilter
from zoo.errors import ConfigError, DataError
from zoo.sources.interleaved import Interleaved


def png(side=80, value=0):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, rows, name="d.jsonl"):
    (folder / name).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return folder / name


@pytest.fixture
def pictures(tmp_path):
    for name, side in (("a.png", 80), ("b.png", 80), ("small.png", 40)):
        (tmp_path / name).write_bytes(png(side))
    (tmp_path / "bad.png").write_bytes(b"none")
    return tmp_path


def only(folder, rows, **keywords):
    """Return the single usable document of these rows."""
    held = write(folder, [{"text": "held"}], "held.jsonl")
    split = Interleaved(path=write(folder, rows), validation=held, test=held, **keywords).split("train")
    assert len(split) == 1
    return split.sample(0).inputs["conversation"]


@pytest.mark.parametrize(
    "row",
    [
        {"parts": ["one", {"image": "a.png"}, {"type": "text", "text": "two"}, {"type": "image", "path": "b.png"}]},
        {"texts": ["one", None, "two", None], "images": [None, "a.png", None, "b.png"]},
        {"texts": ["one", "two", None], "images": [None, "a.png", "b.png"]},
    ],
)
def test_a_row_is_read_in_each_form(pictures, row):
    found = only(pictures, [row])
    assert found.messages[0].role == "document" and found.messages[0].text == "one\n<image>\ntwo\n<image>"
    assert found.images == (pictures / "a.png", pictures / "b.png") and found.id == "d.jsonl:1"


def test_a_row_of_multimodal_c4_shows_each_picture_before_its_sentence(pictures):
    infos = [{"image_name": "b.png", "matched_text_index": 1}, {"image_name": "a.png", "matched_text_index": 0}]
    found = only(pictures, [{"text_list": ["one", "two"], "image_info": infos}])
    assert found.messages[0].text == "<image>\none\n<image>\ntwo" and [path.name for path in found.images] == ["a.png", "b.png"]


def test_a_pair_and_a_clip_are_documents_too(pictures):
    found = only(pictures, [{"text": "a cat", "image": "a.png", "audio": "c.wav"}])
    assert found.messages[0].text == "<image>\n<audio>\na cat" and found.audio == (pictures / "c.wav",)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("no json", "is not JSON that can be read"),
        ([1], "is list"),
        ({"foo": 1}, "its keys are foo"),
        ({"parts": [{"video": "a"}]}, "a part is {'video': 'a'}"),
        ({"parts": ["a", {"type": "image"}]}, "names no file"),
        ({"texts": ["a"], "images": []}, "1 texts and 0 images"),
        ({"texts": [3], "images": [None]}, "where a string is expected"),
        ({"text_list": ["a"], "image_info": [{"matched_text_index": 4}]}, "matched_text_index 4 of 1 texts"),
    ],
)
def test_a_row_that_cannot_be_read_is_left_out_with_its_place_and_reason(tmp_path, row, words):
    held = write(tmp_path, [{"text": "held"}], "held.jsonl")
    source = Interleaved(path=write(tmp_path, [{"text": "good"}, row]), validation=held, test=held)
    (told,) = source.skipped
    assert "d.jsonl:2" in told and words in told and len(source.split("train")) == 1
    assert sum(source.report()["documents"].values()) == 4


def test_pictures_are_dropped_by_reason_and_each_is_counted(pictures):
    images = ["a.png", "small.png", "https://example.org/x.png", "none.png", "bad.png", "icons/a.png", "b.png", "a.png"]
    row = {"parts": ["one", *({"image": image} for image in images), "two"]}
    keywords = {"min_size": 64, "max_images": 2, "exclude_images": ["*/icons/*"]}
    found = only(pictures, [row], **keywords)
    assert found.messages[0].text == "one\n<image>\n<image>\ntwo" and [path.name for path in found.images] == ["a.png", "b.png"]
    report = Interleaved(path=pictures / "d.jsonl", validation=pictures / "held.jsonl", test=pictures / "held.jsonl", **keywords).report()
    reasons = {"too small": 1, "address": 1, "missing": 1, "unreadable": 1, "excluded": 1, "beyond max_images": 1}
    assert report["images"] == {"kept": 2, **reasons}


WORDS = " ".join(f"word{i}" for i in range(100))


@pytest.mark.parametrize(("way", "kept"), [("none", [0, 1, 2, 3]), ("exact", [0, 2, 3]), ("near", [0, 3])])
def test_equal_and_nearly_equal_texts_are_dropped_and_name_the_first(tmp_path, way, kept):
    other = " ".join(f"other{i}" for i in range(100))
    texts = [WORDS, WORDS.upper().replace(" ", "  "), WORDS.replace("word99", "end"), other]
    sieve = DocumentFilter(deduplicate=way)
    found = [sieve.keep(Document(str(i), (("text", text),))) for i, text in enumerate(texts)]
    assert [i for i, document in enumerate(found) if document is not None] == kept
    assert all("(of 0)" in told for told in sieve.dropped) and len(sieve.dropped) == 4 - len(kept)


def test_minhash_finds_what_is_as_similar_as_is_asked_for():
    """Compare with the true share of common runs of five words."""
    rng, sieve = np.random.default_rng(0), DocumentFilter(deduplicate="near", similarity=0.5)
    sieve.keep(Document("first", (("text", WORDS),)))
    words = WORDS.split()
    for count in (0, 1, 2, 40, 80):
        changed = [f"x{count}_{i}" if i in rng.choice(100, count, replace=False) else word for i, word in enumerate(words)]
        runs = [{" ".join(each[i : i + 5]) for i in range(96)} for each in (words, changed)]
        share = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        if abs(share - 0.5) > 0.2:  # MinHash knows it to about 0.1
            assert (sieve.keep(Document(str(count), (("text", " ".join(changed)),))) is None) == (share > 0.5)


def test_half_of_the_documents_with_one_picture_may_be_left_out(pictures):
    rows = [{"parts": [f"text {i}", {"image": "a.png"}]} for i in range(200)] + [{"parts": [f"more {i}"]} for i in range(50)]
    report = Interleaved(path=write(pictures, rows), single_image_share=0.5).report()["documents"]
    assert 75 < report["one picture"] < 125 and report["kept"] == 250 - report["one picture"]


def test_splits_share_nothing_and_follow_from_the_documents(tmp_path):
    rows = [{"text": f"text {i}"} for i in range(300)]
    source = Interleaved(path=write(tmp_path, rows), split_fractions=[0.8, 0.1, 0.1])
    texts = {
        name: [source.split(name).sample(i).inputs["conversation"].messages[0].text for i in range(len(source.split(name)))]
        for name in source.splits
    }
    assert sorted(text for each in texts.values() for text in each) == sorted(row["text"] for row in rows)
    assert all(15 < len(texts[name]) < 50 for name in ("validation", "test")) and source.captions() == texts["train"]
    again = Interleaved(path=write(tmp_path, rows[::-1]), split_fractions=[0.8, 0.1, 0.1])
    assert set(again.captions()) == set(texts["train"])


def shard(path, samples):
    with tarfile.open(path, "w") as archive:
        for name, data in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_documents_of_shards_have_their_pictures_beside_them(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    by_name = {"parts": [{"image": "1.png"}, "one", {"image": "k0.0.png"}]}
    in_order = {"parts": ["two", {"type": "image"}, {"type": "image"}, {"type": "image"}]}
    files = {"k0.json": json.dumps(by_name).encode(), "k0.0.png": png(80, 1), "k0.1.png": png(80, 2)}
    files |= {"k1.json": json.dumps(in_order).encode(), "k1.a.png": png(80, 3), "k1.b.png": png(80, 4)}
    shard(tmp_path / "s0.tar", {**files, "k2.png": png()})
    held = write(tmp_path, [{"text": "held"}])
    source = Interleaved(path=f"{tmp_path}/s*.tar", validation=held, test=held)
    one, two = (source.split("train").sample(i).inputs["conversation"] for i in range(2))
    assert one.messages[0].text == "<image>\none\n<image>" and one.images == (png(80, 2), png(80, 1)) and one.id == "s0.tar:k0"
    assert two.messages[0].text == "two\n<image>\n<image>" and two.images == (png(80, 3), png(80, 4))
    assert source.report()["images"] == {"kept": 4, "missing": 1} and "has no json, only png" in source.skipped[0]


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"deduplicate": "fuzzy"}, ConfigError, "there is no 'fuzzy'"),
        ({"max_images": -1}, ConfigError, "max_images: -1"),
        ({"single_image_share": 2.0}, ConfigError, "single_image_share: 2.0"),
        ({"exclude_images": "*/icons/*"}, ConfigError, "give a list of patterns"),
        ({"split_fractions": [0.5, 0.1, 0.1]}, ConfigError, "sum to 1"),
        ({"path": "nothing.jsonl"}, DataError, "cannot be read"),
        ({"min_words": 9}, DataError, "holds no document to train on.*too few words"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, keywords, error, words):
    with pytest.raises(error, match=words):
        Interleaved(**{"path": write(tmp_path, [{"text": "one"}]), **keywords})


def test_an_empty_split_says_how_to_fill_it(tmp_path):
    source = Interleaved(path=write(tmp_path, [{"text": "one"}]), split_fractions=[1.0, 0.0, 0.0])
    with pytest.raises(DataError, match="data.source.test=PATH"):
        source.split("test")
    assert isinstance(source._rows["train"].paths[0], Path)
