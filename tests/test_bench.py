"""The benchmark command on a tiny size; no claim about time."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from zoo.errors import ConfigError
from zoo.evaluation.results.card_families import FAMILIES, SAME_CODE, SPEED_ROWS, family_of


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The script as a module, with its cards in a folder of the test."""
    path = Path(__file__).parent.parent / "scripts" / "bench.py"
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location("bench_script", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_script", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr("zoo.evaluation.results.cards.cards_directory", lambda: tmp_path / "cards")
    return module


def test_figures_are_written_and_outputs_agree(bench, tmp_path, capsys):
    command = ["contrastive_loss", "--rounds", "3", "--threads", "1", "--size", "40", "--json", str(tmp_path / "out.json")]
    assert bench.main(command) == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["name"] == "contrastive_loss" and row["rounds"] == 3 and row["size"] == 40
    assert row["smallest_ratio"] <= row["ratio"] <= row["largest_ratio"] and row["difference"] <= 1e-6
    assert "open_clip" in capsys.readouterr().out


def test_peer_and_ours_take_turns_and_the_ratio_is_peer_over_ours(bench, monkeypatch):
    calls, seconds = [], {"peer": 6.0, "ours": 2.0}
    job = bench.images.Job(lambda: "peer", lambda: "ours", lambda: 0.25)
    monkeypatch.setattr(bench, "peak_megabytes", lambda call: None)
    monkeypatch.setattr(bench, "timed", lambda call, clock: calls.append(call()) or seconds[call()])
    result = bench.measure("x", bench.Entry(lambda size: job, 1, "p", 1.0), 1, 3, bench.Console(quiet=True))
    assert calls == ["peer", "ours", "ours", "peer", "peer", "ours"]
    assert (result.ratio, result.peer_seconds, result.our_seconds, result.difference) == (3.0, 6.0, 2.0, 0.25)


@pytest.mark.parametrize("arguments, word", [(["contrastve_loss"], "did you mean 'contrastive_loss'"), (["--rounds", "0"], "--rounds: 0")])
def test_a_wrong_command_exits_with_two_and_says_why(bench, capsys, arguments, word):
    assert bench.main(arguments) == 2
    assert word in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_named_with_its_package(bench):
    with pytest.raises(ConfigError, match="'no_such_peer' .* pip install a_package"):
        bench.images.need("no_such_peer", "a_package")


@pytest.fixture
def tiny_rows(bench, monkeypatch):
    """Rows of each kind on tiny models: an encoder in all runtimes, a training step, photos, a pair of two libraries, processes."""
    from benchmarks import comparison, image_peers, peers, speech_peers

    small = "vit_tiny_patch16_224"
    rows = {
        "vit": comparison.Row("ViT, batch {size}", image_peers.vit(small), 1, "cosine to fp32", card="vit"),
        "step": comparison.Row("step", image_peers.training_step(small, "fp32"), 1, "difference", "{:.0e}", card="classifier"),
        "jpeg": image_peers.ROWS["jpeg"],
        "pair": comparison.row_of(bench.ENTRIES["contrastive_loss"], "loss, {size} pairs", 40),
        "start_up": speech_peers.ROWS["start_up"],
    }
    monkeypatch.setattr(peers, "ROWS", rows)
    return peers


def by_library(row):
    return {f"{each['library']} {each['precision']}": each for each in row["results"]}


@pytest.mark.heavy
def test_an_encoder_is_measured_in_every_runtime_that_is_installed(tiny_rows):
    row = tiny_rows.run_here("vit", 1, 1)
    found = by_library(row)
    assert {"timm fp32", "timm bf16", "onnxruntime fp32", "onnxruntime int8", "zoo fp32", "zoo bf16", "zoo int8"} <= set(found)
    assert "OpenVINO fp32" in found or any("pip install openvino" in text for text in row["left_out"])
    assert min(each["quality"] for each in found.values()) > 0.98 and found["zoo fp32"]["quality"] > 1 - 1e-6
    assert all(each["cpu_seconds"] > 0 and each["wall_seconds"] > 0 and each["megabytes"] >= 0 for each in found.values())


@pytest.mark.parametrize(("name", "size", "measured"), [("step", 1, 1e-4), ("jpeg", 1, 6.0), ("pair", 40, 5e-6)])
def test_a_training_step_photos_and_a_pair_are_measured(tiny_rows, name, size, measured):
    row = tiny_rows.run_here(name, size, 2)
    ours = [each for each in row["results"] if each["library"].startswith("zoo")]
    assert row["rounds"] == 2 and row["threads"] >= 1 and ours
    assert all(each["smallest_ratio"] <= each["ratio"] <= each["largest_ratio"] and each["quality"] <= measured for each in ours)
    assert row["results"][0]["ratio"] == 1.0


def test_cpu_seconds_hold_those_of_child_processes(bench):
    from benchmarks.comparison import timed

    busy = "import time\nwhile time.process_time() < 0.2: pass"
    cpu, wall = timed(lambda: subprocess.run([sys.executable, "-c", busy], check=True))
    assert cpu >= 0.2 and wall > 0


def fake_row(name, ratio=1.5, quality=1.0):
    def result(library, precision, ratio, quality):
        figures = {"cpu_seconds": 1.0, "wall_seconds": 1.0, "quality": quality, "megabytes": 3.2}
        ratios = {"ratio": ratio, "smallest_ratio": ratio, "largest_ratio": ratio, "ratio_kept": 1.25}
        return {"library": library, "precision": precision, "optimizer": "", **figures, **ratios}

    results = [result("timm", "fp32", 1.0, 1.0), result("zoo", "int8", 3.0, 0.9991), result("zoo", "fp32", ratio, quality)]
    about = {
        "date": "2026-12-01",
        "commit": "abc",
        "machine": "a CPU",
        "versions": {"timm": "1"},
        "left_out": ["no openvino"],
        "command": "c",
    }
    return {"name": name, "title": name, "measure": "cosine", "shown": "{:.4f}", "rounds": 3, "threads": 1, "results": results, **about}


def test_the_table_names_precision_quality_machine_and_what_was_left_out(bench):
    text = bench.speed_table.speed_table([fake_row("vit")])
    assert "| zoo | int8 | 1.000 | 1.000 | x3.00 (3.00-3.00) | x1.25 | 0.9991 | 3 |" in text
    assert all(word in text for word in ("2026-12-01, commit abc, a CPU, 1 thread: `vit`", "Left out of `vit`: no openvino", "timm 1"))


@pytest.mark.parametrize(("ratio", "quality", "status"), [(1.5, 1.0, "verified"), (0.9, 1.0, "not verified"), (1.5, 0.99, "failed")])
def test_a_cards_line_compares_equal_precision_only(tiny_rows, ratio, quality, status):
    line = tiny_rows.card_lines([fake_row("vit", ratio, quality)])["vit"]
    text = line.get("figure") or line["reason"]
    assert line["status"] == status and "int8" not in text and (line["date"], line["commit"]) == ("2026-12-01", "abc")
    assert f"vit: fp32 x{ratio:.2f} ({ratio:.2f} to {ratio:.2f}) of timm" in text


def test_a_later_row_replaces_the_stored_one(bench):
    before, later = [fake_row("b"), fake_row("a")], [fake_row("b", ratio=2.0)]
    found = bench.speed_table.merged(before, later, ["a", "b"])
    assert [row["name"] for row in found] == ["a", "b"] and found[1]["results"][2]["ratio"] == 2.0


def test_rows_run_in_processes_of_their_own_with_each_allocator(bench, monkeypatch, capsys):
    seen = []

    def answer(command, env, **options):
        seen.append((command[2:], "MALLOC_TRIM_THRESHOLD_" in env))
        return SimpleNamespace(returncode=0, stdout="a library prints\n" + json.dumps(fake_row("jpeg")) + "\n")

    monkeypatch.setattr(bench.peers.subprocess, "run", answer)
    monkeypatch.setattr(bench.peers, "commit", lambda: "abc")
    assert bench.main(["--peers", "jpeg", "--rounds", "3"]) == 0
    assert seen == [(["jpeg", "--peers", "--here", "--rounds", "3", "--threads", "1"], kept) for kept in (False, True)]
    assert "x1.50 (1.50-1.50) | x1.50" in capsys.readouterr().out


def test_the_stored_figures_are_of_known_rows(bench):
    stored = bench.speed_table.stored_rows()
    assert stored and [row["name"] for row in stored] == [name for name in bench.peers.ROWS if name in {row["name"] for row in stored}]


def test_the_cards_name_the_rows_that_measure_their_families(bench):
    found = {}
    for name, row in bench.peers.ROWS.items():
        if row.card:
            found.setdefault(family_of(row.card), []).append(name)
    assert {family: set(names.split()) for family, names in SPEED_ROWS.items()} == {family: set(names) for family, names in found.items()}
    assert set(SAME_CODE) <= set(FAMILIES) - set(SPEED_ROWS) and set(SAME_CODE.values()) <= set(SPEED_ROWS)
