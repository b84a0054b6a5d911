"""GRPO on sums written as text: exact answers before and after, with the curves of reward, length and KL.

    python scripts/benchmarks/grpo_sums.py                                             # about seven minutes on one core
    python scripts/benchmarks/grpo_sums.py --supervised 800 --steps 300 --rate 1e-3 --prompts 16 --beta 0.01     # a rate that is too high

A language model of two layers and 64 channels learns sums of two numbers below 100 from 2,000 of the 10,000 pairs, written digit by
digit (`3 4 + 5 8`, answer `9 2`). The supervised training stops before it knows them. GRPO then samples answers to the same 2,000
questions and rewards exact ones. Beside it, supervised training goes on for as many steps with as many questions, at the same rate. 500
other pairs are the test. Prints lines of JSON.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.assembly.compose import compose
from zoo.runs.train import train

TRAINED, TESTED = 2_000, 500  # pairs
PARTS = 6  # of the curves
TEXT_ONLY = ["~system.encoders.image", "~system.processor.image"]
USUAL = [
    "system=llava_nano",
    *TEXT_ONLY,
    "data=instruct",
    "training.threads=1",
    "training.evaluate_every=0",
    "training.checkpoint_every=100000",
    "data.num_workers=0",
]
GRPO = [
    "objective=grpo",
    "objective.answers_per_prompt=16",
    "objective.max_new_tokens=8",
    "training.log_every=1",
]
LATER = ["training.schedule=cosine", "training.warmup_steps=10", "training.weight_decay=0.0"]
CURVES = ("reward", "answer_length", "kl", "entropy", "equal_rewards")


def questions() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the questions and answers of training and of the test."""
    pairs = [(a, b) for a in range(100) for b in range(100)]
    random.Random(0).shuffle(pairs)
    texts = [(f"{spaced(a)} + {spaced(b)}", spaced(a + b)) for a, b in pairs]
    return texts[:TRAINED], texts[TRAINED : TRAINED + TESTED]


def spaced(number: int) -> str:
    """Write a number with a space between its digits, so that each is a token."""
    return " ".join(str(number))


def accuracy(model: Any, tests: Sequence[tuple[str, str]]) -> list[bool]:
    """Return which greedy answers are exact."""
    found = model.eval().generate([question for question, _ in tests], max_new_tokens=8, batch_size=100)
    return [text.strip() == answer for text, (_, answer) in zip(found, tests, strict=True)]


def curve(run: Path) -> list[dict[str, float]]:
    """Return the means of the logged values over equal parts of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [{key.rpartition("/")[2]: value for key, value in line.items()} for line in lines]
    steps = [line for line in steps if "reward" in line]
    size = max(-(-len(steps) // PARTS), 1)
    return [
        {key: round(sum(line[key] for line in part) / len(part), 4) for key in CURVES if key in part[0]}
        for part in (steps[start : start + size] for start in range(0, len(steps), size))
    ]


def write_questions(known: Sequence[tuple[str, str]], folder: Path) -> Path:
    """Write the questions of training with their answers as conversations; returns the file."""
    turns = [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in known]
    path = folder / "sums.jsonl"
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return path


def trained(options: argparse.Namespace, data: Path, folder: Path) -> dict[str, Path]:
    """Train the supervised model, and from it the one of GRPO and the one that goes on as before; returns the models."""
    words = [*USUAL, f"data.source.path={data}", f"seed={options.seed}"]
    supervised = ["training.batch_size=64", "training.learning_rate=3e-3", f"training.max_steps={options.supervised}"]
    later = [*LATER, f"training.learning_rate={options.rate}", f"training.max_steps={options.steps}"]
    later += [f"training.batch_size={options.prompts}", f"weights={folder / 'before'}"]
    runs = {"before": supervised, "after": [*later, *GRPO, f"objective.beta={options.beta}"], "supervised": later}
    return {name: train(compose("train", [*words, *extra, f"run_dir={folder / name}"])).model for name, extra in runs.items()}


def main() -> None:
    """Train, measure, train with GRPO, and measure again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supervised", type=int, default=750, help="steps of supervised training")
    parser.add_argument("--steps", type=int, default=500, help="steps of GRPO")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of GRPO")
    parser.add_argument("--prompts", type=int, default=32, help="questions of each step of GRPO")
    parser.add_argument("--beta", type=float, default=1e-3, help="weight of the KL penalty; 0 also leaves out the curve of KL")
    parser.add_argument("--seed", type=int, default=0, help="seed of all runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known, tests = questions()
    with tempfile.TemporaryDirectory() as name:
        folder, right = Path(name), {}
        for stage, run in trained(options, write_questions(known, folder), folder).items():
            model = zoo.load(run)
            right[stage] = accuracy(model, tests)
            seen = accuracy(model, known[:TESTED])
            print(json.dumps({"stage": stage, "other pairs": sum(right[stage]), "trained pairs": sum(seen), "of": TESTED}), flush=True)
        pairs = list(zip(right["before"], right["after"], strict=True))
        print(json.dumps({"gained": pairs.count((False, True)), "lost": pairs.count((True, False))}))
        for part in curve(folder / "after"):
            print(json.dumps(part), flush=True)


if __name__ == "__main__":
    main()
