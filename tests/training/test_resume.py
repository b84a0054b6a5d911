"""Exact resume: ``train 2N`` equals ``train N, kill -9, resume, N``, in one process and in two.

Two claims, tested apart: the restore is exact (the run itself holds hashes against the saved ones), and two runs agree
(the traces of every step are compared, and the first layer that differs is named).
"""

import json
import random
import shutil
import signal
import time

import numpy as np
import pytest
import soundfile
from PIL import Image
from resuming import OVERRIDES, STEPS, WITHOUT_IMAGES, Shell, assert_a_killed_run_is_the_whole_one, killed_at, train, train_and_kill
from safetensors.torch import load_file, save_file

from zoo.training.fingerprint import LAYERS, first_difference
from zoo.training.log import read_lines
from zoo.training.state import states

CACHED = ["training.accumulate=2", "training.accumulation=grad_cache", "training.batch_size=8"]


@pytest.mark.heavy
@pytest.mark.card("clip_vit_nano", "resumes exactly")
@pytest.mark.parametrize(("processes", "words"), [(1, []), (2, []), (2, CACHED)], ids=["one", "two", "two-grad-cache"])
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(processes, words, tmp_path, launcher, card_figure):
    """Run the first two cases by the command line and torchrun; all other tests here call the same code in forks."""
    launcher = launcher if words else Shell()
    steps = sorted(random.SystemRandom().sample(range(1, STEPS - 1), 2))
    card_figure(f"{processes} process(es), killed at steps {steps}")
    assert_a_killed_run_is_the_whole_one(launcher, [*OVERRIDES, *words], tmp_path, *steps, processes=processes)


@pytest.mark.heavy
@pytest.mark.parametrize("quantise", [None, "nf4"])
def test_a_killed_run_with_lora_resumes_exactly(quantise, tmp_path, launcher):
    words = [f"training.adapters={{encoders.image.blocks: {{rank: 2, dropout: 0.1, quantise: {quantise or 'null'}}}}}"]
    words = [*words, "training.learning_rates={head: 1e-3}"]
    assert_a_killed_run_is_the_whole_one(launcher, [*OVERRIDES, *words], tmp_path, killed_at())


@pytest.mark.heavy
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_pretraining_of_bert_resumes_exactly(num_workers, tmp_path, launcher, once):
    """Train with every source of randomness: word pieces of each run, pairs and masks of each step, and dropout.

    The result does not depend on the number of worker processes.
    """
    words = ["system=bert_pretraining_nano", "data=documents", "data.source.pairs=next", "data.masking.unit=runs"]
    words += ["data.source.split_fractions=[0.8,0.1,0.1]", "system.encoders.text.dropout=0.1", "training.monitor=mlm_accuracy"]

    def run_whole(folder):
        for number in range(40):
            (folder / f"{number}.txt").write_text(" ".join(f"Thing {number} has part {(number * i) % 11} in it." for i in range(8)))
        more = [f"data.source.path={folder}", "data.num_workers=0", f"run_dir={folder / 'whole'}"]
        train(launcher, [*WITHOUT_IMAGES, *words, *more], folder / "whole.log")

    folder = once("bert", run_whole)
    words += [f"data.source.path={folder}", f"data.num_workers={num_workers}"]
    assert_a_killed_run_is_the_whole_one(launcher, [*WITHOUT_IMAGES, *words], tmp_path, killed_at(), whole=folder / "whole")


@pytest.mark.heavy
@pytest.mark.card("llava_nano", "resumes exactly")
def test_the_second_stage_of_llava_with_lora_starts_from_the_first_and_resumes_exactly(tmp_path, launcher, card_figure):
    """Train only the connector in stage 1; stage 2 gets the directory of stage 1."""
    first, step = tmp_path / "first", killed_at()
    data = ["system=llava_nano", "data=digit_questions", "evaluation=perplexity", "evaluation.limit=40", "training.batch_size=16"]
    train(launcher, [*data, "training.freeze=[encoders,head.language]", "training.max_steps=5", f"run_dir={first}"], tmp_path / "first.log")
    second = [*data, f"weights={first}", "training.freeze=[encoders]", "training.learning_rates={head.connectors: 2e-5}"]
    second += ["training.adapters={head.language: {rank: 4, alpha: 8, dropout: 0.1}}"]
    card_figure(f"stage 2 with LoRA, killed at step {step}")
    whole = assert_a_killed_run_is_the_whole_one(launcher, [*WITHOUT_IMAGES, *second], tmp_path, step)
    before, after = (load_file(run / "last" / "model.safetensors") for run in (first, whole))
    kept = {name: name.replace(".weight", ".base_layer.weight") for name in before if "language" in name and ".qkv." in name}
    assert kept and all((after[new] == before[name]).all() for name, new in kept.items())
    assert any((after[name] != before[name]).any() for name in before if name.startswith("head.connectors."))


@pytest.mark.heavy
@pytest.mark.card("whisper_nano", "resumes exactly")
def test_a_killed_fine_tuning_of_whisper_with_lora_resumes_exactly(tmp_path, launcher, card_figure):
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
    step = killed_at()
    card_figure(f"LoRA, killed at step {step}")
    assert_a_killed_run_is_the_whole_one(launcher, [*WITHOUT_IMAGES, "evaluation=asr", *words], tmp_path, step)


@pytest.mark.heavy
def test_a_run_killed_in_the_middle_of_an_epoch_of_packs_resumes_exactly(tmp_path, launcher):
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
    overrides = [word for word in WITHOUT_IMAGES if "batch_size" not in word]
    whole = assert_a_killed_run_is_the_whole_one(launcher, [*overrides, *words], tmp_path, killed_at())
    packs = json.loads((whole / "data.json").read_text())["packs"]
    assert packs["parts"] > packs["documents"] > packs["packs"] / 2 and STEPS < packs["packs"] < 2 * STEPS


@pytest.mark.heavy
def test_a_run_on_pictures_of_their_own_sizes_killed_within_an_epoch_resumes_exactly(tmp_path, launcher):
    """Digits at three lengths of patches, in batches by a budget; SigLIP by two processes."""
    words = ["system=siglip_vit_nano", "+system.processor.image.tiler={kind: budget, max_patches: 16}", "training.batch_size=2"]
    words += ["+data.token_batches={tokens: 72, lengths: [4, 9, 16], multiple_of: 2}"]
    overrides = [word for word in OVERRIDES if "batch_size" not in word and "system=" not in word]
    whole = assert_a_killed_run_is_the_whole_one(launcher, [*overrides, *words], tmp_path, killed_at(), processes=2)
    assert json.loads((whole / "data.json").read_text())["token_batches"]["pictures_by_length"] == {"4": 18, "9": 8, "16": 4}


@pytest.mark.heavy
def test_ctrl_c_leaves_a_state_that_resumes(tmp_path, launcher):
    log, run = tmp_path / "log", tmp_path / "run"
    process = launcher.start(["train", *OVERRIDES, f"run_dir={run}", "training.max_steps=2000"], log)
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert f"continue with: zoo train resume={run}" in log.read_text()
    reached = int(states(run)[-1].name.removeprefix("step_"))
    train(launcher, [f"resume={run}", f"training.max_steps={reached + 2}"], log)
    assert read_lines(run / "metrics.jsonl")[-1]["step"] == reached + 2


def change_weights(state):
    weights = state / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})


def change_data(state):
    position = state / "0.position.json"
    content = json.loads(position.read_text())
    position.write_text(json.dumps({**content, "hashes": {**content["hashes"], "batch": "another"}}))


@pytest.mark.heavy
@pytest.mark.parametrize(("change", "layer"), [(change_weights, "parameters"), (change_data, "batch")])
def test_what_changed_since_the_state_was_saved_is_found_and_named(change, layer, tmp_path, launcher, once):
    log, run = tmp_path / "log", tmp_path / "run"
    killed = once("killed", lambda folder: train_and_kill(launcher, OVERRIDES, folder / "run", 12, folder / "log"))
    shutil.copytree(killed / "run", run)
    change(states(run)[-1])
    assert launcher.start(["train", f"resume={run}"], log).wait(timeout=200) == 2
    assert f"the first part that differs is: {layer}" in log.read_text()


def test_the_first_layer_that_differs_is_named():
    hashes = {layer: "same" for layer in LAYERS}
    assert first_difference(hashes, hashes) is None
    assert first_difference(hashes, {**hashes, "optimizer state": "x", "parameters": "x"}) == "parameters"
