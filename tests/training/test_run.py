"""A training run as its user sees it."""

import json
from importlib.metadata import version

import pytest

import zoo
from zoo.compose import compose
from zoo.run import evaluate, train
from zoo.training.log import read_lines
from zoo.training.state import states

SMALL = [
    "training.max_steps=6",
    "training.batch_size=16",
    "training.checkpoint_every=3",
    "training.evaluate_every=3",
    "training.log_every=1",
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(compose("train", [*SMALL, f"run_dir={folder}"]))
    return folder


def test_a_run_leaves_config_environment_log_curves_state_and_models(run_dir):
    expected = {"config.yaml", "environment.json", "metrics.jsonl", "timing.jsonl", "curves.png", "state", "best", "last", "processor"}
    assert expected <= {path.name for path in run_dir.iterdir()}
    assert not [path for path in run_dir.rglob("*") if path.name.endswith((".tmp", ".old"))]
    assert json.loads((run_dir / "environment.json").read_text())["versions"]["torch"] == version("torch")


def test_the_log_has_every_step_and_evaluation(run_dir):
    lines = read_lines(run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6]


def test_old_states_are_dropped(run_dir):
    assert [path.name for path in states(run_dir)] == ["step_000000006"]


def test_a_run_directory_in_use_is_refused(run_dir):
    with pytest.raises(zoo.ConfigError, match="holds a run already; go on with it"):
        train(compose("train", [*SMALL, f"run_dir={run_dir}"]))


def test_resuming_what_is_no_run_is_refused(tmp_path, capsys):
    from zoo.cli import main

    assert main(["train", f"resume={tmp_path}"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_evaluation_uses_the_runs_own_data_and_writes_its_figures(run_dir, tmp_path):
    result, output = evaluate({"checkpoint": str(run_dir), "output": str(tmp_path / "out")})
    written = json.loads((output / "metrics.json").read_text())
    assert written["top1"] == result.metrics["top1"] and written["items"] == result.num_items == 359
    assert (output / "confusion.png").stat().st_size > 1000


def test_a_loss_that_is_not_finite_stops_with_the_items(tmp_path, run_dir):
    config = compose("train", [*SMALL, f"run_dir={tmp_path / 'run'}", "training.learning_rate=1e30", "training.clip_gradients=null"])
    with pytest.raises(zoo.DataError, match=r"not finite at step \d+; its batch holds digits:\d+, digits:"):
        train(config)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(zoo.ConfigError, match="training.batch_size: 5000 is more than the 1258 training items"):
        train(compose("train", [f"run_dir={tmp_path / 'run'}", "training.batch_size=5000"]))


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(zoo.ConfigError, match="training.trackers.*wandbb"):
        train(compose("train", [*SMALL, f"run_dir={tmp_path / 'run'}", "training.trackers=[wandbb]"]))


def test_bf16_averaging_and_accumulation_train(tmp_path):
    words = ["training.precision=bf16", "training.ema_decay=0.5", "training.accumulate=2", "training.trackers=[tensorboard]"]
    result = train(compose("train", [*SMALL, f"run_dir={tmp_path / 'run'}", *words]))
    assert result.metrics["loss"] < 4 and list((tmp_path / "run" / "tracked").iterdir())


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "inverse_sqrt"])
def test_schedules_warm_up_and_stay_between_zero_and_peak(schedule):
    from zoo.training.schedule import learning_rate_at

    rates = [learning_rate_at(s, peak=1.0, final=0.0, warmup_steps=4, max_steps=20, schedule=schedule) for s in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(0 <= rate <= 1 for rate in rates)
    assert schedule == "constant" or rates[-1] < rates[4]


def test_the_linear_schedule_is_the_row_in_its_docstring():
    from zoo.training.schedule import learning_rate_at

    rates = [learning_rate_at(s, peak=1.0, final=0.0, warmup_steps=2, max_steps=6, schedule="linear") for s in range(6)]
    assert rates == [0.5, 1, 1, 0.75, 0.5, 0.25]


def test_only_matrices_decay():
    from zoo.training.optim import parameter_groups

    system = zoo.create_model("clip_vit_nano")
    decayed, undecayed = parameter_groups(system, 0.1)
    named = {id(p): name for name, p in system.named_parameters()}
    names = {named[id(p)] for p in undecayed["params"]}
    assert {"head.logit_scale", "encoders.image.positions", "encoders.image.class_token", "encoders.text.positions"} <= names
    assert all(p.ndim >= 2 for p in decayed["params"]) and undecayed["weight_decay"] == 0
