"""Every command of the guide to preferences runs, in its order and at a tiny size."""

import json
import shlex

import pytest

from zoo.commands.cli import main
from zoo.storage.places import packaged_directory

pytestmark = pytest.mark.heavy
TINY = ["training.max_steps=1", "training.batch_size=4", "training.evaluate_every=0", "training.warmup_steps=1", "data.num_workers=0"]
SAMPLING = ["objective.answers_per_prompt=2", "objective.max_new_tokens=3"]
GENERATING = ["--limit", "2", "--max-new-tokens", "3"]


def commands():
    """Return the commands of the page, with overrides that make them small."""
    page = (packaged_directory("assets") / "guide" / "preferences.md").read_text(encoding="utf-8")
    lines = [line for block in page.split("```bash\n")[1:] for line in block.split("```")[0].splitlines()]
    for line in lines:
        tool, verb, *words = shlex.split(line)
        assert tool == "zoo"
        small = {"train": TINY, "answer": GENERATING, "evaluate": []}[verb]
        yield [verb, *words, *small, *(SAMPLING if {"objective=grpo", "objective=ppo"} & {*words} else [])]


def test_every_command_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"what is {i}?", "chosen": f"{i} is good", "rejected": f"{i} is bad"} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = ["train", "system=llava_nano", "data=digit_questions", *TINY, "run_dir=runs/sft"]
    for words in (first, *commands()):
        assert main(words) == 0, (words, capsys.readouterr().err)
    assert "mean reward of the best of k answers (1: " in capsys.readouterr().out


def test_the_experiment_of_grpo_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "system=llava_digits", "data=digit_questions", *TINY, "run_dir=runs/sft"]) == 0
    assert main(["train", "experiment=grpo_digits", "weights=runs/sft", *TINY, *SAMPLING, "run_dir=runs/grpo"]) == 0
