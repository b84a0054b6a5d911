"""Resuming sharded runs: bit for bit with as many processes, up to rounding with another number; and what is refused."""

import os
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from resuming import OVERRIDES, assert_a_killed_run_is_the_whole_one, train
from safetensors.torch import load_file

from zoo.errors import ConfigError, WeightsError
from zoo.training.log import read_lines
from zoo.training.settings import TrainingSettings
from zoo.training.sharding.saving import TrainedState, _Reader
from zoo.training.sharding.settings import is_sharded, refuse_shared_reference
from zoo.training.state import states

FSDP = "training.parallel=fsdp"
# Batches of 12 items, which 1, 2 and 3 processes divide; nothing random in the model, so that only the order of sums differs.
PLAIN = [
    *("training.batch_size=12", "training.warmup_steps=0", "training.schedule=constant", "training.evaluate_every=0"),
    *("training.log_every=1", "training.ema_decay=0.9", "training.checkpoint_every=100"),
]


@pytest.mark.heavy
def test_a_killed_sharded_run_resumes_exactly(tmp_path, launcher):
    words = [word.replace("max_steps=24", "max_steps=10") for word in OVERRIDES]
    assert_a_killed_run_is_the_whole_one(launcher, [*words, FSDP, "training.accumulate=2"], tmp_path, 8, processes=2)


@pytest.fixture(scope="session")
def begun(once, launcher):
    """Runs of 3 steps by one process and by two sharded ones, and one of 6 steps by one process."""

    def run_all(folder):
        for name, steps, processes, words in (("whole", 6, 1, []), ("one", 3, 1, []), ("two", 3, 2, [FSDP]), ("ddp", 3, 2, [])):
            words = [*PLAIN, *words, f"training.max_steps={steps}", f"run_dir={folder / name}"]
            train(launcher, words, folder / f"{name}.log", processes)

    return once("begun", run_all)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "processes", "words"),
    [("two", 1, []), ("one", 2, [FSDP]), ("two", 3, []), ("ddp", 1, [])],
    ids=["two-one", "one-two", "two-three", "ddp-one"],
)
def test_a_run_continues_with_another_number_of_processes(name, processes, words, begun, tmp_path, launcher):
    run, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(begun / name, run)
    train(launcher, [f"resume={run}", "training.max_steps=6", *words], log, processes)
    losses, expected = (torch.tensor([line["loss"] for line in read_lines(folder / "metrics.jsonl")]) for folder in (run, begun / "whole"))
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (run, begun / "whole"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # averages too: ema_decay
    assert f"this run has {processes}: it continues with the same items" in log.read_text()


def trained_state(seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return TrainedState(model, optimizer, None, ["weight", "bias"])


def test_a_damaged_sharded_state_is_refused(tmp_path):
    """Without a process group, as a single process resumes the state of several."""
    ours, theirs = trained_state(0), trained_state(1)
    ours.save(tmp_path)
    theirs.load(tmp_path)
    assert torch.equal(ours.model.weight, theirs.model.weight)
    moments = [state.optimizer.state[state.model.weight] for state in (ours, theirs)]
    assert all(torch.equal(moments[0][key], moments[1][key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    (file,) = (tmp_path / "sharded").glob("*.distcp")
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises((RuntimeError, pickle.UnpicklingError)):  # ``load_state`` names the folder and what to do
        theirs.load(tmp_path)


def test_a_sharded_state_with_other_trained_weights_is_refused(tmp_path):
    state = trained_state(0)
    state.save(tmp_path)
    state.optimizer.param_groups[0]["params"].pop()
    with pytest.raises(ValueError, match="bias was trained then or is trained now, but not both"):
        state.load(tmp_path)


def test_the_index_of_a_sharded_state_runs_no_code(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Code()))
    with pytest.raises(WeightsError, match=r"\.metadata: contains posix\.mkdir, which no state of zoo has"):
        _Reader(tmp_path).read_metadata()
    assert not (tmp_path / "ran").exists() and not states(tmp_path)


def settings(**keywords):
    return TrainingSettings(max_steps=1, batch_size=2, learning_rate=1.0, **keywords)


@pytest.mark.parametrize(
    ("keywords", "processes", "message"),
    [
        ({"parallel": "none"}, 2, "training.parallel: 'none' trains in one process, but 2 were started"),
        ({"parallel": "fsdp", "accumulation": "grad_cache"}, 2, "training.accumulation: 'grad_cache' runs the encoders apart"),
        ({"parallel": "fsdp", "precision": "fp16"}, 2, "training.precision: 'fp16' scales the loss"),
        ({"parallel": "fsdp", "sharding": {"shard_size": 2}}, 3, "training.sharding.shard_size: 2 does not divide the 3 processes"),
    ],
)
def test_what_sharded_training_cannot_do_is_refused(keywords, processes, message):
    with pytest.raises(ConfigError, match=message):
        is_sharded(settings(**keywords), processes)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"parallel": "fsdpp"}, "parallel: there is no 'fsdpp'"),
        ({"sharding": {"shards": 2}}, r"sharding.shards: sharding \(Sharding\) has no such option"),
        ({"sharding": {"parts": {"head": "layer"}}}, "sharding.parts.head: there is no 'layer'"),
        ({"sharding": {"param_dtype": "int8"}}, "sharding.param_dtype: there is no 'int8'"),
        ({"checkpoint_activations": "some"}, "checkpoint_activations: 'some'; allowed is none, full, or a number"),
    ],
)
def test_wrong_settings_are_refused(keywords, message):
    with pytest.raises(ConfigError, match=message):
        settings(**keywords)


def test_a_reference_that_reads_divided_weights_is_refused():
    with pytest.raises(ConfigError, match="name a separate one with teacher=DIR"):
        refuse_shared_reference(True)
    refuse_shared_reference(False)
    assert not is_sharded(settings(parallel="fsdp"), 1) and not is_sharded(SimpleNamespace(parallel=None), 2)
