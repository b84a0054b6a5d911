"""``zoo draw-graph``: the picture shows the graph that the model used."""

import json
import re

import pytest
import torch
from PIL import Image

import zoo
from zoo.commands.cli import main
from zoo.commands.draw_graph import neighbourhoods


@pytest.fixture
def picture(tmp_path):
    """An image whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (64, 64), "red")
    image.paste("blue", (32, 0, 64, 64))
    image.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(*words):
    return main(["draw-graph", *map(str, words)])


def test_neighbours_are_those_of_the_model_in_its_rows_and_columns(picture, tmp_path, capsys):
    assert run(picture, "--model", "pvig_nano", "--layer", "0,-1", "--node", "2,3", "-o", tmp_path / "g.png", "--json") == 0
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["layer"], first["node"], first["grid"], first["candidate_grid"]) == (0, [2, 3], [8, 8], [4, 4])
    assert (last["layer"], last["node"], last["grid"]) == (3, [1, 1], [4, 4])  # the node of the coarser grid that covers it
    assert sum(edge["share"] for edge in first["edges"]) == pytest.approx(1)
    with Image.open(tmp_path / "g.png") as drawn:
        assert drawn.width > drawn.height > 300


def test_every_edge_of_the_answer_is_one_of_the_graph():
    model, pixels = zoo.create_model("vig_nano"), torch.rand(1, 3, 32, 48)
    ((found,),), graph = neighbourhoods(model, pixels, [2], [(3, 7)]), model.graphs(pixels, [2])[0]
    assert found.grid == (8, 12)
    assert [edge.row * 12 + edge.column for edge in found.edges] == graph.neighbours[0, 3 * 12 + 7].tolist()
    assert [edge.share for edge in found.edges] == graph.shares[0, 3 * 12 + 7].tolist()


def test_several_nodes_give_a_row_of_panels_each(picture, tmp_path):
    for name, nodes in (("one.png", ["--node", "1,1"]), ("two.png", ["--node", "1,1", "--node", "4,4"])):
        assert run(picture, "--model", "vig_nano", *nodes, "-o", tmp_path / name) == 0
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert one.width == two.width and two.height > 1.7 * one.height


def test_the_bundled_model_is_the_default(picture, tmp_path, capsys):
    assert run(picture, "-o", tmp_path / "g.svg") == 0
    assert "clip_vig_nano" in capsys.readouterr().err and (tmp_path / "g.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "vit_nano"], "has no graph; choose a model with a Vision GNN: .*vig_tiny"),
        (["--model", "vig_nanoo"], "did you mean .vig_nano"),
        (["--node", "8,0"], "outside the grid; layer 0: rows 0 to 7"),
        (["--node", "1"], "give row and column"),
        (["--layer", "9"], "numbers from -4 to 3"),
        (["--layer", "one"], "numbers separated by commas"),
        (["-o", "graph.txt"], "allowed are .png .pdf .svg .jpg"),
    ],
)
def test_mistakes_are_said_in_a_line_and_write_nothing(words, message, picture, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words if "--model" in words else ["--model", "vig_nano", *words]
    assert run(picture, *words) == 2
    capture = capsys.readouterr().err
    assert re.search(message, capture) and len(capture.splitlines()) <= 6
    assert not list(tmp_path.glob("graph.*"))


def test_a_file_that_is_no_image_is_refused(tmp_path, capsys):
    (tmp_path / "note.png").write_text("no image")
    assert run(tmp_path / "note.png", "--model", "vig_nano", "-o", tmp_path / "g.png") == 2
    assert "note.png" in capsys.readouterr().err
