"""Runs with an objective: they learn the preferred answers, compare with their first weights, and resume exactly."""

import json
import shutil

import pytest
from safetensors.torch import load_file

import zoo
from zoo.assembly.compose import compose
from zoo.runs.train import train
from zoo.training.log import read_lines

pytestmark = pytest.mark.heavy
STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    pairs = [{"prompt": f"what is {i}?", "chosen": f"{i} is good", "rejected": f"{i} is bad"} for i in range(24)]
    single = [{"prompt": f"what is {i}?", "completion": f"{i} is {'good' if i % 2 else 'bad'}", "label": bool(i % 2)} for i in range(24)]
    for name, rows in (("pairs", pairs), ("single", single)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(data, run_dir, objective, *words, rows="pairs"):
    given = ["system=llava_nano", "data=preferences", f"data.source.path={data / rows}.jsonl", f"objective={objective}"]
    given += [f"training.max_steps={STEPS}", "training.batch_size=4", "training.warmup_steps=1", "training.checkpoint_every=3"]
    given += ["training.keep_states=2", "training.evaluate_every=0", "training.log_every=1", f"run_dir={run_dir}"]
    return train(compose("train", [*given, *words]))


def resumed(run_dir, copy):
    """The same run from its first state on; the type checker of the tests draws from Python's generator, so states are not compared."""
    shutil.copytree(run_dir, copy)
    shutil.rmtree(copy / "state" / f"step_{STEPS:09d}")
    config = zoo.runs.run_directory.read_run_config(copy)
    train({**config, "resume": str(copy), "training": {**config["training"], "verify_resume": False}})
    assert (copy / "metrics.jsonl").read_text() == (run_dir / "metrics.jsonl").read_text()
    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (run_dir, copy))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


def test_dpo_begins_at_log_2_raises_what_is_chosen_and_resumes_exactly(data, tmp_path):
    run(data, tmp_path / "run", "dpo", "training.learning_rate=0.002")
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-5) and lines[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert lines[-1]["loss"] < 0.6 and lines[-1]["reward_accuracy"] == 1
    resumed(tmp_path / "run", tmp_path / "copy")


def test_kto_with_adapters_keeps_a_small_reference_and_resumes_exactly(data, tmp_path):
    pytest.importorskip("peft")
    words = [
        "training.adapters={head.language: {kind: lora, rank: 2}}",
        "training.freeze=[encoders,head.connectors]",
        "training.learning_rate=0.01",
    ]
    result = run(data, tmp_path / "run", "kto", *words, rows="single")
    kept = load_file(tmp_path / "run" / "reference.safetensors")
    assert all("lora" in name for name in kept if "running" not in name)
    assert result.metrics["desirable_reward"] > result.metrics["undesirable_reward"]
    resumed(tmp_path / "run", tmp_path / "copy")


def test_a_run_without_what_it_began_with_is_not_resumed(data, tmp_path):
    run(data, tmp_path / "run", "ipo")
    (tmp_path / "run" / "reference.safetensors").unlink()
    with pytest.raises(zoo.WeightsError, match="the file is missing; the run cannot resume without its reference weights"):
        resumed(tmp_path / "run", tmp_path / "copy")


def test_a_student_learns_its_teachers_distribution(data, tmp_path):
    run(data, tmp_path / "teacher", "dpo")
    teacher = f"teacher={tmp_path / 'teacher'}"
    run(data, tmp_path / "student", "distillation", teacher, "training.learning_rate=0.003", "objective.features=0.1", "seed=7")
    lines = read_lines(tmp_path / "student" / "metrics.jsonl")
    assert lines[-1]["divergence"] < 0.7 * lines[0]["divergence"] and lines[-1]["feature_distance"] < lines[0]["feature_distance"]
    assert not (tmp_path / "student" / "reference.safetensors").exists()
    resumed(tmp_path / "student", tmp_path / "copy")


def test_teachers_that_read_something_else_are_refused(data, tmp_path):
    run(data, tmp_path / "teacher", "dpo", "system.processor.conversation.tokenizer=characters")
    with pytest.raises(zoo.ConfigError, match="has another tokenizer than the system; they must be equal"):
        run(data, tmp_path / "a", "distillation", f"teacher={tmp_path / 'teacher'}")
    with pytest.raises(zoo.ConfigError, match="teacher: .*clip_vit_nano is no multimodal language model"):
        run(data, tmp_path / "b", "dpo", "teacher=clip_vit_nano")
    with pytest.raises(zoo.ConfigError, match="teacher: objective 'distillation' learns from one"):
        run(data, tmp_path / "c", "distillation")
    with pytest.raises(
        zoo.ConfigError, match="training.cache_features: keeps the pooled vectors of encoders, but head Llava reads their patches"
    ):
        run(data, tmp_path / "d", "dpo", "training.cache_features=1", "training.freeze=[encoders]")
