"""Runs that train on their own answers: they raise the reward, resume with the same bits, and agree over two processes."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.assembly.compose import compose
from zoo.runs.train import train
from zoo.training.log import read_lines

pytestmark = pytest.mark.heavy
STEPS = 6


def rows(path, answers):
    said = [
        {"messages": [{"role": "user", "content": f"is it {i}?"}, {"role": "assistant", "content": a}]} for i in range(24) for a in answers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions to which yes is right, beside a policy that was trained to say yes and no alike."""
    folder = tmp_path_factory.mktemp("asked")
    path = rows(folder / "both.jsonl", ("yes", "no"))
    words = ["training.max_steps=30", "training.batch_size=16", "training.learning_rate=0.01", "training.warmup_steps=3"]
    given = ["system=llava_nano", "data=instruct", f"data.source.path={path}", "data.num_workers=0", "training.evaluate_every=0"]
    train(compose("train", [*given, *words, f"run_dir={folder / 'policy'}"]))
    return rows(folder / "rows.jsonl", ("yes",))


def words_of(data, run_dir, objective, *words, steps=STEPS):
    given = ["system=llava_nano", "data=instruct", f"data.source.path={data}", "data.num_workers=0", f"objective={objective}"]
    given += [f"weights={data.parent / 'policy'}", f"run_dir={run_dir}"]
    given += [f"training.max_steps={steps}", "training.batch_size=4", "training.warmup_steps=1", "training.checkpoint_every=1"]
    given += ["training.keep_states=20", "training.evaluate_every=0", "training.log_every=1"]
    given += ["objective.max_new_tokens=4", "objective.answers_per_prompt=4"]
    return [*given, *words]


def run(data, run_dir, objective, *words, steps=STEPS):
    return train(compose("train", words_of(data, run_dir, objective, *words, steps=steps)))


def resumed(run_dir, copy, step):
    """The same run from the state of a step on; the type checker of the tests draws from Python's generator, so states are not compared."""
    shutil.copytree(run_dir, copy)
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(copy / "state" / f"step_{later:09d}")
    config = zoo.runs.run_directory.read_run_config(copy)
    train({**config, "resume": str(copy), "training": {**config["training"], "verify_resume": False}})
    assert (copy / "metrics.jsonl").read_text() == (run_dir / "metrics.jsonl").read_text()
    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (run_dir, copy))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_grpo_resumes_between_two_samplings_with_the_same_bits(data, tmp_path):
    words = ["objective.num_iterations=2", "objective.steps_per_sampling=2", "training.learning_rate=0.003", "training.accumulate=2"]
    run(data, tmp_path / "run", "grpo", *words)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6) and lines[0]["clipped"] == 0 and lines[-1]["kl"] > 0
    assert not list((tmp_path / "run" / "state" / "step_000000004").glob("*.rollouts.safetensors"))  # all four steps were made
    for step in (1, 2, 5):
        resumed(tmp_path / "run", tmp_path / f"copy_{step}", step)


def test_ppo_with_adapters_resumes_with_the_same_bits_and_saves_no_value_function(data, tmp_path):
    pytest.importorskip("peft")
    words = ["training.adapters={head.language: {kind: lora, rank: 2}}", "training.freeze=[encoders,head.connectors]"]
    words += ["objective.kl_target=0.01", "objective.kl_horizon=100", "training.learning_rate=0.01", "objective.num_iterations=2"]
    run(data, tmp_path / "run", "ppo", *words)
    names = load_file(tmp_path / "run" / "reference.safetensors")
    assert all("lora" in name or "training_only" in name for name in names if "running" not in name)
    assert not any("training_only" in name for name in load_file(tmp_path / "run" / "last" / "model.safetensors"))
    assert zoo.load(tmp_path / "run").generate(["what is 1?"], max_new_tokens=2)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert len({line["beta"] for line in lines}) > 2  # adapted at each sampling
    resumed(tmp_path / "run", tmp_path / "copy", 3)


def test_a_policy_learns_what_is_rewarded(data, tmp_path):
    words = ["training.learning_rate=0.001", "objective.beta=0.0", "training.batch_size=8", "training.checkpoint_every=20"]
    run(data, tmp_path / "run", "grpo", *words, steps=20)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert not (tmp_path / "run" / "reference.safetensors").exists()
    assert lines[0]["reward"] < 0.75 and sum(line["reward"] for line in lines[-4:]) / 4 > 0.9


def test_two_processes_sample_the_answers_of_one_and_train_alike(data, tmp_path, launcher):
    found = []
    for processes in (1, 2):
        folder, log = tmp_path / f"run_{processes}", tmp_path / f"{processes}.log"
        words = words_of(data, folder, "grpo", "training.accumulate=2", "training.learning_rate=0.001", "training.threads=1", steps=3)
        assert launcher.start(["train", *words], log, processes).wait() == 0, log.read_text()[-3000:]
        found.append((read_lines(folder / "metrics.jsonl"), load_file(folder / "last" / "model.safetensors")))
    (one, ours), (two, theirs) = found
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-5)
    assert [line["gradient_norm"] for line in two] == pytest.approx([line["gradient_norm"] for line in one], rel=1e-4)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.parallel=fsdp"], "training.parallel: 'fsdp' divides the weights, with which objective 'grpo' samples"),
        (["system=clip_vit_nano", "data=digits"], "objective: 'grpo' needs a head that predicts tokens"),
    ],
)
def test_what_does_not_go_together_is_refused(data, tmp_path, words, message):
    with pytest.raises(zoo.ConfigError, match=message):
        run(data, tmp_path / "run", "grpo", *words)
