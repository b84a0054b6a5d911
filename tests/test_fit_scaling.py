"""``zoo fit-scaling``: runs and tables in, numbers, the best size and a picture out."""

import json

import pytest
import yaml

import zoo
from zoo.assembly.compose import compose
from zoo.commands.cli import main
from zoo.evaluation.measures.scaling_laws import PUBLISHED
from zoo.runs.scaling_points import read_points


@pytest.fixture
def table(tmp_path):
    """Runs that follow Chinchilla's law exactly."""
    path, law = tmp_path / "runs.csv", PUBLISHED["chinchilla"]
    grid = [(n, d) for n in (1e8, 1e9, 1e10) for d in (1e9, 1e10, 1e11)]
    path.write_text("parameters,tokens,loss\n" + "\n".join(f"{n:.0f},{d:.0f},{law.loss(n, d):.12f}" for n, d in grid))
    return path


def test_a_table_gives_back_its_law_and_the_best_size(table, tmp_path, capsys):
    picture = tmp_path / "law.png"
    words = ["fit-scaling", str(table), "--budget", "5.76e23", "--bootstrap", "3", "--json", "-o", str(picture)]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["numbers"] == pytest.approx({"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}, rel=1e-3)
    assert found["best"]["parameters"]["value"] == pytest.approx(3.219e10, rel=1e-2) and found["runs"] == 9
    low, high = found["intervals"]["alpha"]
    assert low <= high and picture.read_bytes().startswith(b"\x89PNG")


def test_the_terminal_shows_runs_numbers_and_optimum(table, capsys):
    assert main(["fit-scaling", str(table), "--budget", "1e21", "--bootstrap", "2", "--law", "both"]) == 0
    shown = capsys.readouterr().out
    assert "9 runs" in shown and "alpha_N" in shown and "best for 1e+21 operations" in shown


def make_run(folder, **overrides):
    """The files of a run of a small language model, as far as they are read."""
    config = compose("train", ["system=llava_nano", "data=emoji_conversations", "data.source.path=x", "training.batch_size=4"])
    config["system"]["encoders"], config["training"]["accumulate"] = {}, 2
    del config["system"]["processor"]["image"]
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"step": step, "kind": "train", "loss": 5 - step / 10, "predicted_tokens": 50.0 + step % 20} for step in (10, 20, 30)]
    lines.append({"step": 30, "kind": "evaluation", "perplexity": 7.389056})
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**line, **overrides}) + "\n" for line in lines))
    return folder


def test_a_run_tells_its_size_its_tokens_and_its_loss(tmp_path):
    (point,) = read_points([str(make_run(tmp_path / "run"))])
    language = zoo.create_model("llama_nano")
    assert point.parameters == sum(p.numel() for p in language.parameters())
    assert point.without_tables == point.parameters - language.embedding.weight.numel()
    assert point.tokens == pytest.approx(30 * 2 * (60 + 50 + 60) / 3) and point.loss == pytest.approx(2.0, abs=1e-6)
    assert read_points([str(tmp_path / "run")], loss="training")[0].loss == pytest.approx(2.0)  # the last of three logged steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "missing holds no run"),
        (["TABLE", "--law", "chinchila"], "--law: there is no 'chinchila'; did you mean 'chinchilla'"),
        (["TABLE", "--loss", "last"], "--loss: there is no 'last'"),
        (["TABLE", "--budget", "-1"], "--budget: got -1.0"),
        (["TABLE", "-o", "law.txt"], "--output: law.txt ends in none of"),
    ],
)
def test_a_users_mistake_is_named(words, message, table, capsys):
    assert main(["fit-scaling", *(str(table) if word == "TABLE" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_row_without_a_number_is_named(tmp_path):
    (tmp_path / "runs.jsonl").write_text('{"parameters": 1, "tokens": "many", "loss": 2}\n')
    with pytest.raises(zoo.DataError, match=r"runs.jsonl, row 1: tokens: got 'many'"):
        read_points([str(tmp_path / "runs.jsonl")])
