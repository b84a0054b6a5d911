"""The benchmark command on a tiny size; no claim about time."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from zoo.errors import ConfigError


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


@pytest.mark.parametrize("ratio, difference, status", [(1.5, 1e-6, "verified"), (0.9, 1e-6, "failed"), (1.5, 1e-3, "failed")])
def test_a_card_is_verified_only_if_faster_with_equal_outputs(bench, tmp_path, ratio, difference, status):
    result = bench.Result("job", 4, "peer", 5, 1, 1.0, 1.0, ratio, ratio, ratio, difference, None, None)
    bench.write_card(result, "clip_vit_nano", tolerance=1e-5)
    card = json.loads((tmp_path / "cards" / "clip_vit_nano.json").read_text())
    assert card["capabilities"]["speed"]["status"] == status and f"x{ratio:.2f}" in card["capabilities"]["speed"]["figure"]


@pytest.mark.parametrize("arguments, word", [(["contrastve_loss"], "did you mean 'contrastive_loss'"), (["--rounds", "0"], "--rounds: 0")])
def test_a_wrong_command_exits_with_two_and_says_why(bench, capsys, arguments, word):
    assert bench.main(arguments) == 2
    assert word in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_named_with_its_package(bench):
    with pytest.raises(ConfigError, match="'no_such_peer' .* pip install a_package"):
        bench.images.need("no_such_peer", "a_package")
