"""Runs that end before their last step: signals, time limit, early stopping; and ``resume=auto``, which goes on."""

import math
import os
import signal
import time
from pathlib import Path

import pytest
from resuming import train

import zoo
from zoo.errors import Interrupted
from zoo.registry.construct import construct
from zoo.runs.auto_resume import DONE, RESUME, START, next_action, with_settled_resume
from zoo.training.durations import seconds_of
from zoo.training.log import read_lines
from zoo.training.settings import TrainingSettings
from zoo.training.state import states
from zoo.training.stops import INTERRUPTED, REQUEUE, SIGNALS, TIME_IS_OVER, Patience, Stop, StopRequests

SMALL = ["training.batch_size=8", "training.log_every=1", "training.checkpoint_every=1000", "evaluation=zero_shot", "evaluation.limit=8"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:20:00", 1200), ("01:12:00:00", 129600), ("1-12:00:00", 129600), ("100:00:01", 360001), (90, 90), (0.5, 0.5), ("90", 90)],
)
def test_a_duration_is_read_as_lightning_and_slurm_write_it(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["20:00", "1h", "", 0, -5, "nan", "inf", "00:61:00"])
def test_other_durations_are_refused(text):
    with pytest.raises(zoo.ConfigError, match=r"max_time: .*; give HH:MM:SS, DD:HH:MM:SS, or a number of seconds"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"max_time": "20:00"}, r"training.max_time: '20:00'; give HH:MM:SS"),
        ({"patience": 0}, r"training.patience: 0; allowed is 1 or more"),
        ({"patience": 2, "evaluate_every": 0}, r"training.patience: 2, but evaluate_every is 0"),
        ({"min_delta": -1.0}, r"training.min_delta: -1.0; allowed is 0 or more"),
        ({"monitor_mode": "lower"}, r"training.monitor_mode: there is no 'lower'; known: max, min"),
    ],
)
def test_wrong_settings_name_their_key(words, message):
    with pytest.raises(zoo.ConfigError, match=message):
        construct(TrainingSettings, {"max_steps": 1, "batch_size": 1, "learning_rate": 1.0, **words}, "training")


def counts(patience, scores):
    found = []
    for score in scores:
        patience.observe(score)
        found.append((patience.waited, patience.exhausted))
    return found


def test_patience_counts_evaluations_since_the_last_improvement():
    scores = [0.5, 0.55, 0.65, 0.7, 0.7]
    assert counts(Patience(2, 0.1), scores) == [(0, False), (1, False), (0, False), (1, False), (2, True)]
    assert counts(Patience(None), [1.0, 0.5, math.nan]) == [(0, False), (1, False), (2, False)]
    first, second = Patience(2, 0.1), Patience(2, 0.1)
    before = counts(first, scores[:3])
    second.restore(first.state())
    assert before + counts(second, scores[3:]) == counts(Patience(2, 0.1), scores)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_each_signal_is_a_request_with_its_status(number):
    requests = StopRequests()
    called = []
    outer = signal.signal(number, lambda *_: called.append(number))  # of another library, such as submitit
    try:
        with requests.listening():
            assert requests.agreed() is None
            os.kill(os.getpid(), number)
            stop = requests.agreed()
            assert stop == Stop(number) and not called
            with pytest.raises(Interrupted, match=rf"{number.name}: stopped at step 3 of 9; continue with: zoo train resume=r$") as found:
                requests.end(stop, 3, 9, Path("r"))
        assert found.value.status == (130 if number == signal.SIGINT else 75)
        assert called == [number], "the other library learns of it when the state is saved"
        os.kill(os.getpid(), number)
        assert called == [number, number], "the other handler stands again"
    finally:
        signal.signal(number, outer)


def test_the_guide_names_the_statuses():
    text = (Path(zoo.__file__).parents[1] / "assets" / "guide" / "stops.md").read_text(encoding="utf-8")
    rows = {
        row.split(" | ")[0].removeprefix("| "): row.split(" | ")[-1].removesuffix(" |") for row in text.splitlines() if row.startswith("| ")
    }
    assert rows["SIGTERM, SIGUSR1, SIGUSR2, or `training.max_time` is over"] == str(REQUEUE)
    assert rows["Ctrl-C (SIGINT)"] == str(INTERRUPTED)


def test_the_time_limit_is_a_request():
    requests = StopRequests(1e-9)
    time.sleep(1e-3)
    assert requests.agreed() == Stop(TIME_IS_OVER) and Stop(TIME_IS_OVER).status == 75
    assert StopRequests(3600.0).agreed() is None


def test_auto_needs_a_directory_and_starts_where_none_is(tmp_path):
    settings = TrainingSettings(max_steps=5, batch_size=1, learning_rate=1.0)
    with pytest.raises(zoo.ConfigError, match="resume: auto, but run_dir is null"):
        with_settled_resume({"resume": "auto", "run_dir": None}, settings)
    assert with_settled_resume({"resume": None}, settings) == ({"resume": None}, START)
    run = tmp_path / "run"
    (run / "processor").mkdir(parents=True)  # killed before the config was written, which comes last
    assert next_action(run, settings) == START
    assert with_settled_resume({"resume": "auto", "run_dir": str(run)}, settings) == ({"resume": None, "run_dir": str(run)}, START)


@pytest.mark.heavy
@pytest.mark.parametrize(("processes", "number", "status"), [(1, signal.SIGUSR1, 75), (2, signal.SIGTERM, 75)])
def test_a_signal_saves_and_the_same_command_goes_on_until_it_is_done(processes, number, status, tmp_path, launcher):
    """Of two processes only one gets the signal; both stop at the same step. Readers in processes of their own get it too."""
    log, run = tmp_path / "log", tmp_path / "run"
    command = ["train", *SMALL, "data.num_workers=1", "resume=auto", f"run_dir={run}", "training.evaluate_every=0"]
    started = launcher.start([*command, "training.max_steps=2000"], log, processes)
    while not (run / "metrics.jsonl").exists():
        assert started.poll() is None, log.read_text()
        time.sleep(0.01)
    os.killpg(started.pids[-1], number)  # with its readers
    assert started.wait(timeout=60) == status, log.read_text()
    reached = int(states(run)[-1].name.removeprefix("step_"))
    reason = f"{number.name}: stopped at step {reached} of 2000; continue with: zoo train resume={run}"
    assert log.read_text().count(reason) == processes
    event = read_lines(run / "events.jsonl")[-1]
    assert (event["event"], event["step"], event["reason"], event["status"]) == ("stopped", reached, number.name, status)
    command.append(f"training.max_steps={reached + 2}")
    assert launcher.start(command, log, processes).wait(timeout=60) == 0, log.read_text()
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == list(range(1, reached + 3))
    assert launcher.start(command, log, processes).wait(timeout=60) == 0 and f"already trained: {run}" in log.read_text()


@pytest.mark.heavy
def test_a_run_out_of_time_or_patience_ends_and_says_so(tmp_path, launcher):
    """The learning rate is so small that no evaluation improves; the first evaluation counts 0, the third ends the run."""
    log, run = tmp_path / "log", tmp_path / "run"
    command = ["train", *SMALL, "training.learning_rate=1e-12", f"run_dir={run}", "resume=auto", "training.evaluate_every=2"]
    command += ["training.patience=2", "training.max_steps=1000"]
    assert launcher.start([*command, "training.max_time=1e-9"], log).wait(timeout=60) == 75
    assert "training.max_time is over: stopped at step 1 of 1000" in log.read_text()
    train(launcher, command[1:], log)
    assert "stopped early at step 6 of 1000: the metric did not improve in 2 evaluations" in log.read_text()
    assert [line["step"] for line in read_lines(run / "metrics.jsonl") if line["kind"] == "evaluation"] == [2, 4, 6]
    settings = TrainingSettings(max_steps=1000, batch_size=8, learning_rate=1.0, patience=2)
    assert next_action(run, settings) == DONE and (run / "last").is_dir()
    assert next_action(run, TrainingSettings(max_steps=1000, batch_size=8, learning_rate=1.0, patience=3)) == RESUME
    train(launcher, command[1:], log)
    assert f"already trained: {run}" in log.read_text() and len(states(run)) == 1
