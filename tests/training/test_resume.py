"""Exact resume: ``train 2N`` equals ``train N, kill -9, resume, N``, in one process and in two.

Two claims, tested apart: the restore is exact (the run itself holds hashes against the saved ones), and two runs agree
(the traces of every step are compared, and the first layer that differs is named).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors.torch import load_file, save_file

from zoo.training.fingerprint import LAYERS, first_difference
from zoo.training.log import read_lines
from zoo.training.state import states

STEPS = 24
OVERRIDES = [
    f"training.max_steps={STEPS}",
    "training.batch_size=16",
    "training.warmup_steps=4",
    "training.checkpoint_every=5",
    "training.evaluate_every=7",
    "training.log_every=1",
    "training.ema_decay=0.9",
    "training.trace=true",
    "system.encoders.image.drop_path=0.2",  # draws from the random state at every step
]
CACHED = ["training.accumulate=2", "training.accumulation=cached", "training.batch_size=8"]


def command(processes: int, words: list[str]) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "zoo", "train", *words]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0", "--standalone"]
    return [*launch, "-m", "zoo", "train", *words]


def start(processes: int, words: list[str], log: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.Popen(command(processes, words), stdout=file, stderr=file, env=environment, start_new_session=True)


def train(processes: int, words: list[str], log: Path) -> None:
    assert start(processes, words, log).wait(timeout=400) == 0, log.read_text()[-3000:]


def train_and_kill(
    processes: int,
    run_dir: Path,
    step: int,
    log: Path,
    *,
    resume: bool = False,
    words: Sequence[str] = (),
    overrides: Sequence[str] = OVERRIDES,
) -> None:
    """Start or resume a run and kill all its processes when its log reaches a step."""
    process = start(processes, [f"resume={run_dir}"] if resume else [*overrides, *words, f"run_dir={run_dir}"], log)
    deadline = time.monotonic() + 300
    while not (lines := read_lines(run_dir / "metrics.jsonl") if (run_dir / "metrics.jsonl").exists() else []) or lines[-1]["step"] < step:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_same_runs(one: Path, other: Path, processes: int) -> None:
    for rank in range(processes):
        pairs = zip(*(read_lines(run / f"trace_{rank}.jsonl") for run in (one, other)), strict=True)
        for ours, theirs in pairs:
            assert ours["step"] == theirs["step"] and ours.keys() == theirs.keys() >= set(LAYERS) - {"parameters"}
            layer = first_difference(ours, theirs)
            assert layer is None, f"rank {rank}, step {ours['step']}: the first layer that differs is {layer}"
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    for model in ("last", "best"):
        ours, theirs = (load_file(run / model / "model.safetensors") for run in (one, other))
        assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.heavy
@pytest.mark.card("clip_vit_nano", "resumes exactly")
@pytest.mark.parametrize(("processes", "words"), [(1, []), (2, []), (2, CACHED)], ids=["one", "two", "two-cached"])
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(processes, words, tmp_path, card_figure):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(processes, [*OVERRIDES, *words, f"run_dir={whole}"], tmp_path / "whole.log")
    steps = sorted(random.SystemRandom().sample(range(1, STEPS - 1), 2))
    card_figure(f"{processes} process(es), killed at steps {steps}")
    train_and_kill(processes, killed, steps[0], tmp_path / "killed.log", words=words)
    train_and_kill(processes, killed, steps[1], tmp_path / "killed_again.log", resume=True)
    train(processes, [f"resume={killed}"], tmp_path / "resumed.log")
    assert_same_runs(whole, killed, processes)


@pytest.mark.heavy
@pytest.mark.parametrize("quantise", [None, "nf4"])
def test_a_killed_run_with_lora_resumes_exactly(quantise, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [f"training.adapters={{encoders.image.blocks: {{rank: 2, dropout: 0.1, quantise: {quantise or 'null'}}}}}"]
    words = [*words, "training.learning_rates={head: 1e-3}"]
    train(1, [*OVERRIDES, *words, f"run_dir={whole}"], tmp_path / "whole.log")
    train_and_kill(1, killed, random.SystemRandom().randrange(6, STEPS - 2), tmp_path / "killed.log", words=words)
    train(1, [f"resume={killed}"], tmp_path / "resumed.log")
    assert_same_runs(whole, killed, 1)


@pytest.mark.heavy
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_pretraining_of_bert_resumes_exactly(num_workers, tmp_path):
    """The word pieces are trained anew for each run, pairs are drawn and tokens hidden at every step, and dropout draws too."""
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(" ".join(f"Thing {number} has part {(number * i) % 11} in it." for i in range(8)))
    words = ["system=bert_pretraining_nano", "data=documents", f"data.source.path={tmp_path}", "data.source.pairs=next"]
    words += ["data.masking.unit=runs", "data.source.split_fractions=[0.8,0.1,0.1]", f"data.num_workers={num_workers}"]
    words += ["system.encoders.text.dropout=0.1", "training.monitor=mlm_accuracy"]
    overrides = [word for word in OVERRIDES if ".image." not in word]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(1, [*overrides, *words, f"run_dir={whole}"], tmp_path / "whole.log")
    killed_at = random.SystemRandom().randrange(6, STEPS - 2)
    train_and_kill(1, killed, killed_at, tmp_path / "killed.log", words=words, overrides=overrides)
    train(1, [f"resume={killed}"], tmp_path / "resumed.log")
    assert_same_runs(whole, killed, 1)


@pytest.mark.heavy
@pytest.mark.card("llava_nano", "resumes exactly")
def test_the_second_stage_of_llava_with_lora_starts_from_the_first_and_resumes_exactly(tmp_path, card_figure):
    """Stage 1 trains the connector alone; stage 2 is given its directory and nothing else."""
    first, whole, killed = (tmp_path / name for name in ("first", "whole", "killed"))
    data = ["system=llava_nano", "data=digit_questions", "evaluation=perplexity", "evaluation.limit=40", "training.batch_size=16"]
    train(1, [*data, "training.freeze=[encoders,head.language]", "training.max_steps=5", f"run_dir={first}"], tmp_path / "first.log")
    second = [*data, f"weights={first}", "training.freeze=[encoders]", "training.learning_rates={head.connectors: 2e-5}"]
    second += ["training.adapters={head.language: {rank: 4, alpha: 8, dropout: 0.1}}"]
    overrides = [word for word in OVERRIDES if ".image." not in word]
    train(1, [*overrides, *second, f"run_dir={whole}"], tmp_path / "whole.log")
    killed_at = random.SystemRandom().randrange(6, STEPS - 2)
    card_figure(f"stage 2 with LoRA, killed at step {killed_at}")
    train_and_kill(1, killed, killed_at, tmp_path / "killed.log", words=second, overrides=overrides)
    train(1, [f"resume={killed}"], tmp_path / "resumed.log")
    assert_same_runs(whole, killed, 1)
    before, after = (load_file(run / "last" / "model.safetensors") for run in (first, whole))
    kept = {name: name.replace(".weight", ".base_layer.weight") for name in before if "language" in name and ".qkv." in name}
    assert kept and all((after[new] == before[name]).all() for name, new in kept.items())
    assert any((after[name] != before[name]).any() for name in before if name.startswith("head.connectors."))


@pytest.mark.heavy
@pytest.mark.card("whisper_nano", "resumes exactly")
def test_a_killed_fine_tuning_of_whisper_with_lora_resumes_exactly(tmp_path, card_figure):
    """Noise of several lengths in buckets, previous texts drawn for half of the samples, timestamps, and dropout in the adapters."""
    draw, rows = np.random.default_rng(0), []
    for number in range(48):
        soundfile.write(tmp_path / f"{number}.wav", draw.normal(size=1600 * (2 + number % 5)) * 0.1, 16000)
        said = [{"start": 0.0, "end": 0.1, "text": "one"}, {"start": 0.1, "end": 0.2, "text": f"{number}"}]
        rows.append({"path": f"{number}.wav", "segments": said, "previous": f"before {number}", "split": "dev" if number < 8 else "train"})
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["system=whisper_nano", "data=speech", f"data.source.path={tmp_path}", "data.source.previous_share=0.5"]
    words += ["data.source.batch_size=16", "system.processor.transcript.timestamps=true", "training.freeze=[encoders]"]
    words += ["training.adapters={head.decoder: {rank: 2, dropout: 0.1}}", "evaluation.temperatures=[0.0]", "evaluation.limit=2"]
    overrides = [word for word in OVERRIDES if ".image." not in word]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(1, [*overrides, "evaluation=asr", *words, f"run_dir={whole}"], tmp_path / "whole.log")
    killed_at = random.SystemRandom().randrange(6, STEPS - 2)
    card_figure(f"LoRA, killed at step {killed_at}")
    train_and_kill(1, killed, killed_at, tmp_path / "killed.log", words=["evaluation=asr", *words], overrides=overrides)
    train(1, [f"resume={killed}"], tmp_path / "resumed.log")
    assert_same_runs(whole, killed, 1)


@pytest.mark.heavy
def test_a_run_killed_in_the_middle_of_an_epoch_of_packs_resumes_exactly(tmp_path):
    """Documents of many lengths, some cut into parts, some with a picture that cannot be read; one epoch and a half of packs."""
    draw = random.Random(0)
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_bytes(b"no picture")
    rows = [{"parts": [f"Thing {n}. " * draw.randrange(1, 40), {"image": f"{n % 5}.png"}, "It is here."]} for n in range(90)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "held.jsonl").write_text(json.dumps({"text": "Thing 0."}))
    words = ["system=kosmos_nano", "data=interleaved", f"data.source.path={tmp_path}/d.jsonl", "data.packing={tokens: 256}"]
    words += [f"data.source.{split}={tmp_path}/held.jsonl" for split in ("validation", "test")]
    words += ["system.processor.conversation.max_length=64", "data.max_bad_share=0.5"]
    words += ["data.num_workers=2", "evaluation=perplexity", "training.batch_size=2"]
    overrides = [word for word in OVERRIDES if ".image." not in word and "batch_size" not in word]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(1, [*overrides, *words, f"run_dir={whole}"], tmp_path / "whole.log")
    packs = json.loads((whole / "data.json").read_text())["packs"]
    assert packs["parts"] > packs["documents"] > packs["packs"] / 2 and STEPS < packs["packs"] < 2 * STEPS
    train_and_kill(1, killed, random.SystemRandom().randrange(6, STEPS - 2), tmp_path / "killed.log", words=words, overrides=overrides)
    train(1, [f"resume={killed}"], tmp_path / "resumed.log")
    assert_same_runs(whole, killed, 1)


@pytest.mark.heavy
def test_ctrl_c_leaves_a_state_that_resumes(tmp_path):
    log, run = tmp_path / "log", tmp_path / "run"
    process = start(1, [*OVERRIDES, f"run_dir={run}", "training.max_steps=2000"], log)
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert f"continue with: zoo train resume={run}" in log.read_text()
    reached = int(states(run)[-1].name.removeprefix("step_"))
    train(1, [f"resume={run}", f"training.max_steps={reached + 2}"], log)
    assert read_lines(run / "metrics.jsonl")[-1]["step"] == reached + 2


def change_weights(state):
    weights = state / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})


def change_data(state):
    position = state / "0.position.json"
    content = json.loads(position.read_text())
    position.write_text(json.dumps({**content, "hashes": {**content["hashes"], "batch": "another"}}))


# In processes of their own: beartype, which checks types under pytest, draws from Python's global generator.
@pytest.mark.heavy
@pytest.mark.parametrize(("change", "layer"), [(change_weights, "parameters"), (change_data, "batch")])
def test_what_changed_since_the_state_was_saved_is_found_and_named(change, layer, tmp_path):
    log, run = tmp_path / "log", tmp_path / "run"
    train_and_kill(1, run, 12, log)
    change(states(run)[-1])
    assert start(1, [f"resume={run}"], log).wait(timeout=200) == 2
    assert f"the first part that differs is: {layer}" in log.read_text()


def test_the_first_layer_that_differs_is_named():
    hashes = {layer: "same" for layer in LAYERS}
    assert first_difference(hashes, hashes) is None
    assert first_difference(hashes, {**hashes, "optimizer state": "x", "parameters": "x"}) == "parameters"
