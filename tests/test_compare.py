"""``zoo compare``: settings that differ, metrics and curves of runs, on the terminal and in files."""

import csv
import json

import pytest
import yaml

import zoo
from zoo.commands.cli import main
from zoo.commands.compare import short_keys
from zoo.runs.comparison import compare_runs

HOSTILE = "<script>alert(1)</script>[red]"


def write_result(folder, **content):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))


def write_run(folder, *, rate, tops, name="vit", seed=0, dim=64):
    folder.mkdir(parents=True)
    config = {
        "system": {"name": "s", "encoders": {"image": {"name": name, f"{name}_dim": dim}}, "head": {"name": "clip"}},
        "data": {"source": {"name": "digits"}},
        "training": {"max_steps": 20, "learning_rate": rate, "monitor": None},
        "seed": seed,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "run_dir": str(folder), "resume": None}))
    lines = [{"step": 10 * (i + 1), "kind": "train", "loss": 2.0 - i} for i in range(len(tops))]
    lines += [{"step": 10 * (i + 1), "kind": "evaluation", "top1": top, "top5": 0.9} for i, top in enumerate(tops)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    write_run(folder / "0", rate=0.01, tops=[0.5, 0.25])
    write_run(folder / "1", rate=0.1, tops=[0.125, 0.75])
    write_run(folder / "10", rate=0.1, tops=[0.5], seed=2, name="vig")
    write_run(folder.parent / "hostile", rate=0.1, tops=[0.5], name="vit", dim=HOSTILE)
    return folder


def test_a_sweep_is_read_in_order_with_what_differs_and_the_best_of_each(sweep):
    found = compare_runs([sweep])
    assert [run.name.rpartition("/")[2] for run in found.runs] == ["0", "1", "10"]
    # of a part of another kind the name alone, not the keywords that only one of the two has
    assert set(found.differing) == {
        "system.encoders.image.name",
        "training.learning_rate",
        "seed",
    }
    assert [run.watched for run in found.runs] == ["top1"] * 3
    assert [run.best() for run in found.runs] == [(0.5, 10), (0.75, 20), (0.5, 10)]
    assert [run.final("evaluation", "top1") for run in found.runs] == [0.25, 0.75, 0.5]
    assert found.runs[2].step == 10 and found.runs[2].max_steps == 20


def test_the_table_fits_a_terminal(sweep, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare", str(sweep)]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("learning_rate=0.01", "0.75 @20", "10/20", "seed=2", "best top1"))
    assert max(map(len, text.splitlines())) <= 80


def test_csv_and_json_hold_everything(sweep, tmp_path, capsys):
    assert main(["compare", str(sweep / "0"), str(sweep / "1"), "--output", str(tmp_path / "x.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert [(row["training.learning_rate"], row["best top1"], row["train/loss"]) for row in rows] == [
        ("0.01", "0.5", "1.0"),
        ("0.1", "0.75", "1.0"),
    ]
    capsys.readouterr()
    assert main(["compare", str(sweep), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[1]["metrics"]["evaluation/top1"] == {"final": 0.75, "best": 0.75, "best_step": 20}
    assert lines[0]["differs"]["training.learning_rate"] == 0.01


def test_the_page_is_escaped_and_holds_the_curves(sweep, tmp_path):
    hostile = sweep.parent / "hostile"
    for name in ("x.html", "x.png", "x.json"):
        assert main(["compare", str(sweep / "1"), str(hostile), "--output", str(tmp_path / name)]) == 0
    page = (tmp_path / "x.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page and "data:image/png;base64," in page
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "x.json").read_text())[1]["differs"]["system.encoders.image.vit_dim"] == HOSTILE


def test_markup_is_shown_as_text(sweep, capsys):
    assert main(["compare", str(sweep / "1"), str(sweep.parent / "hostile")]) == 0
    assert "[red]" in "".join(capsys.readouterr().out.split())


def test_short_keys_tell_the_settings_apart():
    keys = ["training.learning_rate", "system.encoders.image.dim", "system.encoders.text.dim"]
    assert short_keys(keys) == {keys[0]: "learning_rate", keys[1]: "image.dim", keys[2]: "text.dim"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere: holds no run and no sweep"),
        (["RUN", "--output", "x.pdf"], "ends in .pdf; allowed are .csv, .json, .html, .png"),
        (["RUN", "--output", "/dev/null/x.csv"], "the folder /dev/null cannot be created"),
    ],
)
def test_mistakes_are_told(sweep, words, told, capsys):
    assert main(["compare", *[str(sweep / "0") if word == "RUN" else word for word in words]]) == 2
    assert told in capsys.readouterr().err


def test_a_run_without_figures_is_listed(sweep, tmp_path):
    write_run(tmp_path / "new", rate=1.0, tops=[])
    run = compare_runs([tmp_path / "new"]).runs[0]
    assert (run.step, run.watched, run.best(), run.curves) == (0, None, None, {})


def test_a_damaged_line_is_told(tmp_path):
    write_run(tmp_path / "bad", rate=1.0, tops=[0.5])
    (tmp_path / "bad" / "metrics.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(zoo.DataError, match="a line has no step"):
        compare_runs([tmp_path / "bad"])


def test_kept_evaluations_of_every_layout_are_compared(tmp_path, capsys):
    run = tmp_path / "run"
    write_run(run, rate=0.1, tops=[0.5])
    digits = {"evaluation": "zero_shot", "split": "test", "data": {"source": {"name": "digits"}}, "items": 30}
    write_result(run / "evaluation" / "zero_shot", top1=0.25, **{**digits, "data": {"source": {"name": "emoji"}}})  # of an older version
    write_result(run / "evaluation" / "zero_shot_digits_test_0123abcd", top1=0.5, top5=0.75, details={"x": 1}, **digits)
    write_result(run / "evaluation" / "zero_shot_digits_test_ffffffff", top1=0.625, **digits)  # another limit
    write_result(tmp_path / "bundled" / "evaluation" / "zero_shot_digits_test_0123abcd", top1=0.875, **digits)
    first, second = compare_runs([run, tmp_path / "bundled"]).runs
    assert {result.key: result.metrics for result in first.kept} == {
        ("zero_shot on emoji (test)", "zero_shot"): {"top1": 0.25},
        ("zero_shot on digits (test)", "zero_shot_digits_test_0123abcd"): {"top1": 0.5, "top5": 0.75},
        ("zero_shot on digits (test)", "zero_shot_digits_test_ffffffff"): {"top1": 0.625},
    }
    assert [(result.label, result.items) for result in second.kept] == [("zero_shot on digits (test)", 30)] and second.settings == {}
    assert main(["compare", str(run), str(tmp_path / "bundled")]) == 0
    assert "0.875" in capsys.readouterr().out
    assert main(["compare", str(run), str(tmp_path / "bundled"), "--output", str(tmp_path / "x.csv")]) == 0
    titles, *lines = csv.reader((tmp_path / "x.csv").read_text().splitlines())
    digits = "zero_shot on digits (test), zero_shot_digits_test_0123abcd"
    assert [[line[titles.index(f"{digits}: {name}")] for line in lines] for name in ("top1", "top5")] == [["0.5", "0.875"], ["0.75", ""]]
    assert "zero_shot on emoji (test): top1" in titles


def test_the_page_filters_its_columns_and_names_the_best_run(sweep, tmp_path):
    assert main(["compare", str(sweep), "--output", str(tmp_path / "x.html")]) == 0
    page = (tmp_path / "x.html").read_text()
    assert page.count('type="radio"') == 4 and "<dt>best top1</dt><dd>0.75 (1)</dd>" in page  # all, settings, training, evaluation
    assert page.count('class="part settings"') == 4 * 3  # a title and three runs, for each of three settings
