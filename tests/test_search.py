"""``zoo search``: exact neighbours, the model of the index, and HTML pages of results."""

import csv
import json
import sys

import numpy as np
import pytest
import torch

import zoo
from zoo.commands.cli import main
from zoo.commands.index.embedding import embed_folder
from zoo.commands.search import Searcher, nearest, nearest_by_faiss
from zoo.storage.places import packaged_directory

SAMPLES = packaged_directory("assets") / "samples"


@pytest.fixture(scope="module")
def clip():
    return zoo.load("clip_vit_nano")


@pytest.fixture(scope="module")
def index(clip, tmp_path_factory):
    target = tmp_path_factory.mktemp("search") / "index"
    embed_folder(clip, SAMPLES, target, name="clip_vit_nano")
    return target


def parts(rows, size):
    return (rows[start : start + size] for start in range(0, len(rows), size))


@pytest.mark.parametrize("size", [1, 7, 50, 500])
@pytest.mark.parametrize("find", [nearest, nearest_by_faiss])
def test_neighbours_are_those_of_a_full_sort_whatever_the_chunks(find, size):
    generator = np.random.default_rng(0)
    rows, queries = (generator.normal(size=(count, 16)).astype(np.float32) for count in (101, 3))
    scores, found = find(queries, parts(rows, size), 10)
    expected = queries @ rows.T
    assert (found == np.argsort(-expected, axis=1)[:, :10]).all()
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :10], atol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 100])
def test_of_equal_rows_the_first_come_first(size):
    rows = np.eye(2, dtype=np.float32)[[1, 0, 1, 0, 0, 0, 1]]
    scores, found = nearest(rows[[1]], parts(rows, size), 3)
    assert found.tolist() == [[1, 3, 4]] and scores.tolist() == [[1, 1, 1]]


def test_fewer_rows_than_asked_for_are_all_given():
    rows = np.eye(3, dtype=np.float32)
    assert nearest(rows[:1], parts(rows, 2), 10)[1].shape == nearest_by_faiss(rows[:1], parts(rows, 2), 10)[1].shape == (1, 3)


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_a_text_finds_the_images_that_classify_gives_it(index, clip, backend):
    hits = Searcher(index, backend=backend).search("a handwritten seven", top_k=6)
    paths = sorted(SAMPLES.glob("*.png"))
    expected = clip.embed("image", paths) @ clip.embed("text", ["a handwritten seven"])[0]
    assert [hit.name for hit in hits] == [str(paths[i]) for i in expected.argsort(descending=True)]
    np.testing.assert_allclose([hit.score for hit in hits], expected.sort(descending=True).values.numpy(), atol=1e-6)


def test_an_image_finds_itself(index):
    hits = Searcher(index).search(str(SAMPLES / "digit_84.png"), modality="image", top_k=2)
    assert hits[0].name == str(SAMPLES / "digit_84.png") and hits[0].score == pytest.approx(1) and hits[1].score < 0.99


def test_the_command_prints_a_table_or_json_lines(index, capsys):
    assert main(["search", "the number two", "--index", str(index), "--top-k", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 of 6 items" in said and "clip_vit_nano" in said and "digit_" in said
    assert main(["search", "the number two", "--index", str(index), "--top-k", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 and lines[0]["score"] > lines[1]["score"]


@pytest.mark.parametrize("suffix", ["csv", "json", "html"])
def test_reports_are_written(index, tmp_path, suffix):
    output = tmp_path / f"found.{suffix}"
    assert main(["search", "the <b>number</b> two 猫", "--index", str(index), "--output", str(output)]) == 0
    text = output.read_text(encoding="utf-8")
    if suffix == "csv":
        assert len(list(csv.DictReader(text.splitlines()))) == 6
    if suffix == "json":
        assert [row["rank"] for row in json.loads(text)] == [1, 2, 3, 4, 5, 6] and json.loads(text)[0][
            "query"
        ] == "the <b>number</b> two 猫"
    if suffix == "html":
        assert text.count("data:image/jpeg;base64,") == 6 and "<b>" not in text and "猫" in text
    assert "digit_84.png" in text


def test_a_page_shows_the_image_that_was_asked_for_and_says_where_one_is_gone(clip, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for path in SAMPLES.glob("*.png"):
        (tmp_path / "pictures" / path.name).write_bytes(path.read_bytes())
    embed_folder(clip, tmp_path / "pictures", tmp_path / "index", name="clip_vit_nano")
    (tmp_path / "pictures" / "digit_81.png").unlink()
    words = ["search", "--image", str(SAMPLES / "digit_81.png"), "--index", str(tmp_path / "index"), "--output", str(tmp_path / "out.html")]
    assert main(words) == 0
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 6 and "no such file" in text and "the query" in text


def test_texts_are_searched_by_an_image(clip, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(f"a handwritten {word}" for word in ("zero", "three", "seven", "nine")))
    embed_folder(clip, tmp_path / "texts.txt", tmp_path / "index", name="clip_vit_nano", modality="text")
    image = str(sorted(SAMPLES.glob("*.png"))[0])
    (hit,) = Searcher(tmp_path / "index").search(image, modality="image", top_k=1)
    expected = clip.classify([image], ["zero", "three", "seven", "nine"], templates=["a handwritten {}"])[0].argmax()
    assert hit.name == "a handwritten " + ("zero", "three", "seven", "nine")[int(expected)] and not hit.is_file


def test_a_model_with_other_weights_is_refused_and_a_moved_one_taken(clip, tmp_path, capsys):
    saved = zoo.save(clip, tmp_path / "model")
    embed_folder(zoo.load(saved), SAMPLES, tmp_path / "index", name=str(saved))
    saved.rename(tmp_path / "moved")
    assert main(["search", "two", "--index", str(tmp_path / "index")]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert main(["search", "two", "--index", str(tmp_path / "index"), "--model", str(tmp_path / "moved")]) == 0
    other = zoo.load(tmp_path / "moved")
    with torch.no_grad():
        other.head.logit_scale.add_(1)
    zoo.save(other, tmp_path / "other")
    assert main(["search", "two", "--index", str(tmp_path / "index"), "--model", str(tmp_path / "other")]) == 2
    assert "was made with other weights" in capsys.readouterr().err


def test_an_image_encoder_alone_searches_by_images_only(tmp_path):
    saved = zoo.save(zoo.create_model("vit_nano"), tmp_path / "encoder")
    embed_folder(zoo.load(saved), SAMPLES, tmp_path / "index", name=str(saved))
    searcher = Searcher(tmp_path / "index")
    assert searcher.search(str(SAMPLES / "digit_84.png"), modality="image")[0].name.endswith("digit_84.png")
    with pytest.raises(zoo.ConfigError, match="has no joint embedding space of text and image"):
        searcher.search("two")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["two", "--index", "nowhere"], "nowhere: is not a folder"),
        (["two", "--index", "."], "holds no index"),
        (["--index", "INDEX"], "give a text or --image FILE"),
        (["two", "--image", "x.png", "--index", "INDEX"], "give a text or --image FILE, but not both"),
        (["--image", "nowhere.png", "--index", "INDEX"], "nowhere.png: no such file"),
        (["  ", "--index", "INDEX"], "the query is empty"),
        (["two", "--index", "INDEX", "--top-k", "0"], "--top-k: 0; allowed is 1 or more"),
        (["two", "--index", "INDEX", "--output", "x.xls"], "allowed are .csv, .json, .html"),
        (["two", "--index", "INDEX", "--backend", "annoy"], "--backend: there is no 'annoy'; known: exact, faiss"),
    ],
)
def test_wrong_input_is_refused(index, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["search", *[str(index) if word == "INDEX" else word for word in words]]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) <= 6


def test_an_index_without_rows_says_so(clip, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    embed_folder(clip, tmp_path / "bad", tmp_path / "index", name="clip_vit_nano")
    assert main(["search", "two", "--index", str(tmp_path / "index")]) == 2
    assert "holds no vectors (1 items could not be read)" in capsys.readouterr().err


def test_without_faiss_the_message_says_how_to_get_it(index, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(zoo.ConfigError, match=r"faiss is not installed.*zoo install search"):
        Searcher(index, backend="faiss")
