"""Sweeps: the same command skips finished jobs, repeats failed and killed ones, on every launcher, and Optuna goes on."""

import json
import os
import signal
from pathlib import Path

import pytest

import zoo
from zoo.assembly.hydra_jobs import run_with_hydra
from zoo.commands.cli import main
from zoo.errors import Interrupted
from zoo.runs.sweep_training import train_job

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
}


def counting(calls: Path, kind: str = "fine"):
    """A job that notes its seed; the first call for seed 1 fails, kills its process, or is interrupted."""

    def job(config):
        seed = config["seed"]
        with calls.open("a") as file:
            file.write(f"{seed}\n")
        type(calls)(config["run_dir"]).mkdir(parents=True, exist_ok=True)  # launchers pickle this function without its module
        first = calls.read_text().split().count(str(seed)) == 1
        if seed == 1 and first and kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 1 and first and kind == "failed":
            raise zoo.DataError("data.source.path: there is no such folder")
        if seed == 1 and first and kind == "stopped":
            raise Interrupted("stopped at step 3", 75)
        return seed / 10

    return job


def sweep(tmp_path, kind, *words, seeds="0,1,2"):
    status = run_with_hydra(["-m", f"seed={seeds}", f"run_dir={tmp_path}/sweep", *words], counting(tmp_path / "calls", kind))
    return status, "".join((tmp_path / "calls").read_text().split())


def test_finished_jobs_are_skipped(tmp_path, capsys):
    assert sweep(tmp_path, "fine") == (0, "012")
    assert "best: job" in (said := capsys.readouterr().err) and "sweep/2 with 0.2: seed=2" in said
    assert sweep(tmp_path, "fine") == (0, "012")
    assert "0 jobs done now, 3 done before" in capsys.readouterr().err


def test_a_failed_job_is_named_and_run_again(tmp_path, capsys):
    assert sweep(tmp_path, "failed") == (1, "012")
    said = capsys.readouterr().err
    assert f"zoo: job {tmp_path}/sweep/1: data.source.path: there is no such folder" in said and "1 failed" in said
    assert sweep(tmp_path, "failed") == (0, "0121")


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit does not wait for the processes that it starts
@pytest.mark.parametrize(("launcher", "seeds"), [("joblib", "0,1,2,3"), ("submitit_local", "0,1")])
def test_a_sweep_with_a_killed_job_is_finished_by_the_same_command(tmp_path, launcher, seeds, capsys):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    status, _ = sweep(tmp_path, "killed", *LAUNCHERS[launcher], seeds=seeds)
    assert status == 1 and "sweep/1: was killed" in capsys.readouterr().err
    status, calls = sweep(tmp_path, "killed", *LAUNCHERS[launcher], seeds=seeds)
    jobs = seeds.split(",")
    assert status == 0 and set(calls) == set(jobs) and calls.count("1") == 2
    scores = [json.loads((tmp_path / "sweep" / ".jobs" / f"{job}.json").read_text())["score"] for job in jobs]
    assert scores == [int(job) / 10 for job in jobs]


def test_a_stopped_job_stops_the_sweep_and_keeps_its_status(tmp_path):
    with pytest.raises(Interrupted, match="stopped at step 3; the same command goes on") as error:
        sweep(tmp_path, "stopped")
    assert error.value.status == 75 and (tmp_path / "calls").read_text() == "0\n1\n"
    assert sweep(tmp_path, "stopped") == (0, "0112")


def test_another_sweep_in_the_same_directory_is_refused(tmp_path, capsys):
    sweep(tmp_path, "fine")
    assert run_with_hydra(["-m", "seed=4,5", f"run_dir={tmp_path}/sweep"], lambda config: 0) == 1
    assert "seed=0" in (said := capsys.readouterr().err) and "choose another run_dir" in said


def test_without_a_directory_the_same_command_finds_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = []
    for words in (
        ["seed=0,1"],
        ["seed=0,1", "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher"],
        ["seed=2,3"],
    ):
        run_with_hydra(["-m", *words], lambda config: Path(config["run_dir"]).mkdir(parents=True) or places.append(config["run_dir"]))
    assert len(set(places)) == len(places) == 4 and len({place.rpartition("/")[0] for place in places}) == 2


def test_optuna_climbs_within_its_intervals_and_goes_on(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    rates = []

    def job(config):
        Path(config["run_dir"]).mkdir(parents=True)
        rates.append((config["training"]["learning_rate"], config["training"]["schedule"]))
        return -((rates[-1][0] - 0.01) ** 2)

    space = ["training.learning_rate=tag(log,interval(1e-4,1e-1))", "training.schedule=cosine,linear"]
    words = ["-m", "hydra/sweeper=optuna", *space, f"run_dir={tmp_path}/s"]
    assert run_with_hydra([*words, "hydra.sweeper.n_trials=4"], job) == 0
    assert len(rates) == 4 and all(1e-4 <= rate <= 1e-1 and schedule in ("cosine", "linear") for rate, schedule in rates)
    assert run_with_hydra([*words, "hydra.sweeper.n_trials=6"], job) == 0
    assert len(rates) == 6, "the trials of before are not run again"
    best = max(rates, key=lambda found: -((found[0] - 0.01) ** 2))
    assert f"learning_rate: {best[0]}" in (tmp_path / "s" / "optimization_results.yaml").read_text()


def test_a_training_job_goes_on_by_itself_and_its_score_is_the_best_of_its_state(tmp_path):
    state = tmp_path / "run" / "state" / "step_000000002"
    state.mkdir(parents=True)
    (state / "0.position.json").write_text(json.dumps({"step": 2, "best": 0.75, "hashes": {}}))
    seen = []
    assert train_job({"run_dir": str(tmp_path / "run")}, seen.append) == 0.75
    assert seen == [{"run_dir": str(tmp_path / "run"), "resume": "auto"}]
    assert train_job({"run_dir": str(tmp_path / "other")}, seen.append) is None


@pytest.mark.parametrize("override", ["seed=[1", "data=nope", "training.lr=1,2", "hydra/launcher=nope", "system=glob(nothing*)", "="])
def test_a_wrong_override_of_a_sweep_is_one_line(override, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", override, "seed=0,1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("zoo: ") and said.count("\n") == 1 and "fault of zoo" not in said


@pytest.mark.heavy
def test_several_evaluations_are_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "-m", "checkpoint=clip_vit_nano", "data=digits", "evaluation=zero_shot,knn_probe", "output=found"]
    assert main(words) == 0
    names = [json.loads((tmp_path / "found" / job / "metrics.json").read_text())["evaluation"] for job in "01"]
    assert names == ["zero_shot", "knn_probe"]
    capsys.readouterr()
    assert main(words) == 0
    assert "2 done before" in capsys.readouterr().err
