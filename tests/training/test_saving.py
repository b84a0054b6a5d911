"""Saving and resuming a run: interrupted saves, leftovers, damaged states, changed settings, locks and full disks."""

import json
import math
import resource
import shutil
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file

from zoo.commands.cli import main
from zoo.storage.files import atomic_directory
from zoo.storage.lock import alone
from zoo.training import loop
from zoo.training.best import BestModel
from zoo.training.log import read_lines
from zoo.training.state import save_state, states

TRAIN = "train system=clip_vit_nano data=digits training.batch_size=8 training.evaluate_every=0 training.warmup_steps=1"
# Not verified: beartype, which checks types under pytest, draws from the random state of Python between restore and comparison.
TRAIN = [*TRAIN.split(), "training.checkpoint_every=2", "training.log_every=1", "training.threads=1", "training.verify_resume=false"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of two steps, and one of four."""
    folder = tmp_path_factory.mktemp("runs")
    for steps in (2, 4):
        assert main([*TRAIN, f"training.max_steps={steps}", f"run_dir={folder / str(steps)}", "training.keep_states=2"]) == 0
    return folder


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the run of two steps."""
    return shutil.copytree(runs / "2", tmp_path / "run")


def resume(run, *words):
    return main(["train", f"resume={run}", *words])


def weights(run):
    return (run / "last" / "model.safetensors").read_bytes()


def test_a_kill_between_state_and_model_is_completed_on_resume(runs, run):
    old = shutil.copytree(run / "last", run.parent / "old")
    assert resume(run, "training.max_steps=4") == 0
    shutil.rmtree(run / "last"), old.rename(run / "last")
    assert resume(run, "training.max_steps=4") == 0
    assert weights(run) == weights(runs / "4")


def test_leftovers_of_killed_writers_are_swept(runs, run):
    for name in (".last.old", ".last.abcdefgh.tmp", ".last.abcdefgh.old", "state/.step_000000003.tmp"):
        (run / name).mkdir()
        (run / name / "config.yaml").write_text("x")
    assert resume(run, "training.max_steps=4") == 0
    assert weights(run) == weights(runs / "4")
    assert not [path for path in run.rglob(".*")]


def test_older_states_that_a_kill_left_are_removed_on_resume(run):
    shutil.copytree(run / "state" / "step_000000002", run / "state" / "step_000000001")
    assert resume(run, "training.keep_states=1") == 0
    assert [path.name for path in states(run)] == ["step_000000002"]


@pytest.mark.parametrize(("known", "left"), [(None, []), (2, ["best"]), (3, ["best"])], ids=["none", "kept", "present"])
def test_the_best_model_after_a_kill_is_that_of_the_steps_that_the_state_knows(known, left, tmp_path):
    def save(folder, step):
        with atomic_directory(folder) as fresh:
            (fresh / "step").write_text(str(step))

    best = BestModel(tmp_path)
    for score, step in ((0.5, 2), (0.4, 3), (0.5, 3), (0.9, 4)):  # killed after step 4; 0.4 is no better, 0.5 again is
        best.offer(score, step, lambda folder, step=step: save(folder, step))
        if step == known and score == 0.5:
            state = best.position()
            best.settle()
    again = BestModel(tmp_path)
    again.restore({"best": -math.inf, "best_step": None} if known is None else state, main=True)
    again.settle()
    assert sorted(path.name for path in tmp_path.iterdir()) == left and again.step == known
    assert known is None or (tmp_path / "best" / "step").read_text() == str(known)


def test_a_best_model_of_a_step_that_the_resumed_run_does_not_reach_goes(tmp_path, monkeypatch):
    words = [*TRAIN, "training.max_steps=4", "training.evaluate_every=3", f"run_dir={tmp_path / 'run'}"]

    def killed(accelerator, run_dir, position, *further):
        if position["step"] == 4:
            raise SystemExit
        save_state(accelerator, run_dir, position, *further)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(loop, "save_state", killed)
        main([word for word in words if word != "training.evaluate_every=0"])
    assert (tmp_path / "run" / "best").is_dir()
    assert resume(tmp_path / "run", "training.evaluate_every=0") == 0
    assert not (tmp_path / "run" / "best").exists()


def test_the_best_model_is_that_of_the_older_state_if_the_newest_is_damaged(tmp_path, monkeypatch):
    offer = BestModel.offer
    monkeypatch.setattr(BestModel, "offer", lambda self, score, step, save: offer(self, float(step), step, save))
    words = [word for word in TRAIN if word != "training.evaluate_every=0"]
    words += ["training.evaluate_every=2", "training.keep_states=2", f"run_dir={tmp_path / 'run'}"]
    assert main([*words, "training.max_steps=4"]) == 0
    run = tmp_path / "run"
    older, newest = (json.loads((state / "0.position.json").read_text())["best_step"] for state in states(run))
    assert [path.name for path in run.glob(".*")] == [f".best_of_step_{older:09d}"] and older != newest
    kept = (run / f".best_of_step_{older:09d}" / "model.safetensors").read_bytes()
    assert kept != (run / "best" / "model.safetensors").read_bytes()
    (states(run)[-1] / "model.safetensors").write_bytes(b"")
    assert resume(run, "training.evaluate_every=0") == 0
    assert (run / "best" / "model.safetensors").read_bytes() == kept


def test_a_folder_that_another_writer_is_filling_is_kept(tmp_path):
    with atomic_directory(tmp_path / "a") as ours:
        with atomic_directory(tmp_path / "a"):
            pass
        assert ours.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["last", "state", "."])
def test_links_to_other_disks_stay_links(name, runs, run, tmp_path):
    link, place = run / name, tmp_path / "other"
    link.rename(place) if name != "." else run.rename(place)
    (run if name == "." else link).symlink_to(place)
    assert resume(run, "training.max_steps=4") == 0
    assert weights(run) == weights(runs / "4") and (run if name == "." else link).is_symlink()


def test_a_second_run_is_told_who_writes(run, capsys):
    code = f"from zoo.storage.lock import alone\nwith alone({str(run / '.lock')!r}, ''): print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert resume(run, "training.max_steps=4") == 2
        assert f"another zoo train is writing to this run (process {other.pid} on" in capsys.readouterr().err
        other.kill()
    assert resume(run) == 0, "the lock ends with its process"


def test_without_locks_of_the_file_system_the_note_decides(tmp_path, monkeypatch):
    def no_locks(*words):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("zoo.storage.lock.fcntl.lockf", no_locks)
    with alone(tmp_path / "lock", "busy"):
        pass
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "noon"}))
    with pytest.raises(ValueError, match="process 1 on elsewhere, since noon.*delete"), alone(tmp_path / "lock", "busy"):
        pass


def test_a_changed_batch_size_is_recorded_and_the_data_go_on_after_the_last_item(run, capsys):
    assert resume(run, "training.batch_size=16", "training.max_steps=4") == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["batch_size"] == 16
    event = read_lines(run / "events.jsonl")[-1]
    assert event["step"] == 2 and event["changes"] == {"training.batch_size": [8, 16], "training.max_steps": [2, 4]}
    position = json.loads((states(run)[-1] / "0.position.json").read_text())
    assert position["cursor"] == [0, 2 * 8 + 2 * 16]
    assert resume(run, "seed=1") == 2 and "seed: 1, but the run has seed 0" in capsys.readouterr().err


def test_the_plugins_of_changed_settings_are_recorded_before_the_config(run, monkeypatch):
    need = {"kind": "evaluation", "name": "certainty", "distribution": "zoo-swin", "version": "0.3.1"}
    monkeypatch.setattr("zoo.runs.run_directory.requirements", lambda parts: [need])
    found = []

    def note(run_dir, config):
        found.append(json.loads((run_dir / "environment.json").read_text())["requires"])

    monkeypatch.setattr("zoo.runs.run_directory._write_config", note)
    assert resume(run, "training.max_steps=4") == 0
    environment = json.loads((run / "environment.json").read_text())
    assert found == [[need]] and environment["requires"] == [need] and environment["versions"]


def test_other_threads_are_told(run, caplog):
    assert resume(run, "training.max_steps=3", "training.threads=2") == 0
    assert "saved with 1 threads, this run has 2" in caplog.text


FILES = ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "0.position.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["empty", "cut", "missing"])
def test_a_damaged_state_is_named_in_one_line(name, damage, run, capsys):
    path = states(run)[-1] / name
    whole = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    assert resume(run, "training.max_steps=4") == 2
    told = capsys.readouterr().err
    assert str(path) in told and "no older state is kept" in told and told.count("\n") == 1


@pytest.mark.parametrize("text", ["[]", '{"step": 1.5, "best": 0, "hashes": {}}', '{"step": 2, "best": [], "hashes": {}}', "[" * 99999])
def test_a_foreign_position_is_named(text, run, capsys):
    (states(run)[-1] / "0.position.json").write_text(text)
    assert resume(run, "training.max_steps=4") == 2 and "0.position.json: the file is damaged" in capsys.readouterr().err


def test_the_state_before_a_damaged_one_is_restored(runs, tmp_path, caplog):
    run = shutil.copytree(runs / "4", tmp_path / "run")
    (states(run)[-1] / "optimizer.bin").write_bytes(b"")
    assert resume(run) == 0 and "the run goes on from the state before, step_000000002" in caplog.text
    assert weights(run) == weights(runs / "4")
    assert [path.name for path in states(run)] == ["step_000000002", "step_000000004"]


def test_lost_states_are_told(run, capsys):
    shutil.rmtree(run / "state")
    assert resume(run) == 2 and "holds no state, although the run saved last/" in capsys.readouterr().err
    (run / "state").write_text("")
    assert resume(run) == 2 and "state: is a file" in capsys.readouterr().err


def test_a_full_disk_is_told_with_what_is_kept(runs, run, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, limits[1]))
    try:
        assert resume(run, "training.max_steps=4") == 2
        assert main([*TRAIN, f"run_dir={run.parent / 'new'}", "training.max_steps=2"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "the state of step 2 is kept" in told[0] and "no state is saved yet" in told[1]
    assert resume(run, "training.max_steps=4") == 0 and weights(run) == weights(runs / "4")


def test_a_folder_that_cannot_be_made_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*TRAIN, f"run_dir={tmp_path / 'file' / 'run'}"]) == 2
    assert "file/run cannot be written (Not a directory); no state is saved yet" in capsys.readouterr().err


def test_the_weights_of_last_are_those_of_the_newest_state(run):
    ours, theirs = load_file(run / "last" / "model.safetensors"), load_file(states(run)[-1] / "model.safetensors")
    assert all((ours[name] == tensor).all() for name, tensor in theirs.items())
