"""What a run tells about its speed: timing.jsonl, the profile, trackers; and the check of losses that does not wait for the device."""

import itertools
import json

import pytest
import torch
from emulated_cuda import emulated_cuda
from torch import nn

import zoo
from zoo.assembly.compose import compose
from zoo.runs.train import train
from zoo.training import accelerator
from zoo.training.finite import FiniteLosses
from zoo.training.log import read_lines
from zoo.training.meter import Meter, num_tokens
from zoo.training.optim import MovingAverage
from zoo.training.peak_flops import peak_flops
from zoo.training.settings import TrainingSettings
from zoo.types import Batch

SETTINGS = {"max_steps": 5, "batch_size": 3, "learning_rate": 1e-3}
SHORT = ["training.max_steps=5", "training.batch_size=8", "training.evaluate_every=0", "training.log_every=2"]
FIGURES = {"step", "items_per_second", "tokens_per_second", "seconds", "waiting_for_data", "memory_bytes"}


def test_a_run_tells_its_speed_and_leaves_a_profile(tmp_path):
    for name, words in {"plain": [], "measured": ["training.peak_flops=1e9", "training.profile=2"]}.items():
        train(compose("train", [*SHORT, *words, f"run_dir={tmp_path / name}"]))
    plain, measured = (read_lines(tmp_path / name / "timing.jsonl") for name in ("plain", "measured"))
    assert [line["step"] for line in measured] == [2, 4, 5]
    assert all(line.keys() == FIGURES for line in plain)
    assert all(line.keys() == FIGURES | {"model_flops_utilisation"} and line["model_flops_utilisation"] > 0 for line in measured)
    assert all(0 <= line["waiting_for_data"] <= 1 and line["memory_bytes"] > 1e6 for line in plain)
    trace = json.loads((tmp_path / "measured" / "profile" / "trace_0.json").read_text())
    assert sum(event.get("name") == "Optimizer.step#AdamW.step" for event in trace["traceEvents"]) == 2
    assert not (tmp_path / "plain" / "profile").exists()
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("plain", "measured")]
    assert metrics[0] == metrics[1] and "gradient_norm" in metrics[0]  # measuring changes no bit


def test_utilisation_is_operations_per_second_and_peak(monkeypatch):
    clock = itertools.count(0.0, 0.5)  # half a second from each reading of the clock to the next
    monkeypatch.setattr("zoo.training.meter.time.monotonic", lambda: next(clock))
    model, batch = nn.Linear(8, 4), Batch({"image": torch.zeros(3, 8)})
    meter = Meter(model, TrainingSettings(**SETTINGS, peak_flops=1000.0), torch.device("cpu"))
    (loaded,) = meter.loaded([batch])
    with meter.counting():
        model(loaded.inputs["image"]).sum().backward()
    meter.count([loaded])
    found = meter.line()  # the clock: begin 0, four readings around two loads, end at 2.5 s
    operations = 2 * (2 * 3 * 8 * 4)  # a product forward, and one backward for the weight; the input has no gradient
    assert found["seconds"] == 2.5 and found["items_per_second"] == round(3 / 2.5, 2)
    assert found["waiting_for_data"] == round(1.0 / 2.5, 4) and "tokens_per_second" not in found
    assert found["model_flops_utilisation"] == round(operations / 2.5 / 1000, 6)


def test_tokens_are_the_real_ones_of_texts():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert num_tokens(Batch({"text": torch.zeros(2, 3, dtype=torch.int64)}, {"text": mask})) == 3
    assert num_tokens(Batch({"text": torch.zeros(2, 3, dtype=torch.int64)})) == 6 and num_tokens(Batch({"image": torch.zeros(2, 3)})) == 0


def test_the_peak_is_found_by_the_name_of_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    assert peak_flops(torch.device("cuda"), "bf16") == 756e12
    assert peak_flops(torch.device("cuda"), "fp32") is None and peak_flops(torch.device("cpu"), "bf16") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.peak_flops=0"], "peak_flops: 0.*above 0"),
        (["training.profile=-1"], "profile: -1; allowed is 0"),
        (["training.trackers=[mlflow]"], r"training.trackers: 'mlflow' is not installed.*pip install mlflow"),
        (["training.trackers=[tensorbord]"], "no tracker 'tensorbord'; did you mean 'tensorboard'"),
    ],
)
def test_wrong_settings_are_refused_before_a_directory_is_made(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "get_available_trackers", lambda: [])
    with pytest.raises(zoo.ConfigError, match=message):
        train(compose("train", [*SHORT, *words, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_a_gpu_tells_of_a_loss_one_step_later_without_waiting():
    batches = [Batch({"image": torch.zeros(1, 1)}, ids=[name]) for name in "ab"]
    with emulated_cuda() as device:
        finite = FiniteLosses(torch.device("cuda"))
        losses = [torch.zeros((), device="cuda"), torch.full((), torch.nan, device="cuda")]
        finite.observe(1, losses, batches)
        assert device.waits == []
        with pytest.raises(zoo.DataError, match="not finite at step 1; its batch holds b"):
            finite.observe(2, losses[:1], batches[:1])
        finite.observe(3, losses, batches)
        with pytest.raises(zoo.DataError, match="step 3"):
            finite.refuse()  # as before a state is saved


def test_the_moving_average_is_torchs():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ours = MovingAverage(model, 0.7)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.7))
    for _ in range(3):
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(1)
        for average in (ours, theirs):
            average.update_parameters(model)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(tensor.equal(theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
