"""What quantisation-aware training gives back: a small language model in int4, and a classifier of digits in int8.

    python scripts/benchmarks/quantised_training.py language    # about a minute on one core
    python scripts/benchmarks/quantised_training.py digits      # about four minutes

The language model (two layers of 64 channels) reads WordNet's glosses as in `scaling.py`. After 262,144 tokens it goes on for 65,536
further ones, once as before and once rounding as int4 does; a third model rounds from the first token on. The classifier, a small ViT,
trains 600 steps of 64 images on the digits, then 200 further ones without and with `training.quantise=int8`; another one rounds from the
first step on. All that with two seeds. Prints one line of JSON for each figure.
"""

import argparse
import copy
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scaling import HELD_OUT, held_out, make, read_tokens, train
from torch import Tensor, nn

import zoo
from zoo.assembly.compose import compose
from zoo.data.loader import ProcessedSplit
from zoo.downloads.fetching import fetched
from zoo.evaluation.measures.requirements import over_split
from zoo.layers.low_precision.modes import set_precision, simulate_precision
from zoo.runs.train import train as train_run
from zoo.sources.digits import Digits

WIDTH, RATE, LATER_RATE = 64, 8e-3, 2e-3
FIRST, LATER = 262_144, 65_536  # tokens
STEPS, LATER_STEPS, SEEDS = 600, 200, 2  # of the classifiers


def perplexities(model: nn.Module, ids: Tensor) -> dict[str, float]:
    """Return the perplexity of the held-out tokens in fp32 and in int4."""
    found = {word: math.exp(held_out(set_precision(model.eval(), word), ids)) for word in ("fp32", "int4")}
    set_precision(model, "fp32")
    return {word: round(value, 3) for word, value in found.items()} | {
        "loss in percent": round(100 * (found["int4"] / found["fp32"] - 1), 2)
    }


def language() -> None:
    """Train the three language models."""
    ids = read_tokens(fetched("wordnet") / "lines.txt")
    first, later = ids[HELD_OUT + 1 :], ids[HELD_OUT + 1 + FIRST :]
    model = make(WIDTH, 0)
    train(model, first, FIRST, RATE)
    show("int4 after training", perplexities(model, ids))
    for name, rounds in (("went on without rounding", False), ("went on with rounding", True)):
        other = copy.deepcopy(model)
        train(simulate_precision(other, "int4") if rounds else other, later, LATER, LATER_RATE)
        show(name, perplexities(other, ids))
    other = simulate_precision(make(WIDTH, 0), "int4")
    train(other, first, FIRST, RATE)
    show("rounding from the start", perplexities(other, ids))


def digits() -> None:
    """Train the classifiers of each seed."""
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            first = classifier(folder / "first", seed, STEPS)
            further = [f"weights={first}", "training.learning_rate=1e-3"]
            runs = {
                f"{STEPS} steps": first,
                "went on without rounding": classifier(folder / "plain", seed, LATER_STEPS, *further),
                "went on with rounding": classifier(folder / "rounded", seed, LATER_STEPS, *further, "training.quantise=int8"),
                "rounding from the start": classifier(folder / "start", seed, STEPS, "training.quantise=int8"),
            }
            for words, run in runs.items():
                show(words, {"seed": seed, **tested(run)})


def classifier(folder: Path, seed: int, steps: int, *words: str) -> Path:
    """Train a classifier of digits; returns its run directory."""
    usual = ["system=classifier_vit_nano", "data=digits", "evaluation=classification", "training.threads=1", "training.batch_size=64"]
    usual += ["training.learning_rate=3e-3", "training.evaluate_every=0", "training.checkpoint_every=10000", "data.num_workers=0"]
    train_run(compose("train", [*usual, f"training.max_steps={steps}", f"seed={seed}", *words, f"run_dir={folder}"]))
    return folder


@torch.inference_mode()
def tested(run: Path) -> dict[str, float]:
    """Return right answers and mean loss on all test digits in fp32 and in int8, and the answers that int8 changes."""
    (plain, labels), (rounded, _) = (logits_and_labels(zoo.load(run, precision=word)) for word in ("fp32", "int8"))
    logits = {"fp32": plain, "int8": rounded}
    found = {f"right in {word}": int((each.argmax(1) == labels).sum()) for word, each in logits.items()}
    losses = {f"loss in {word}": round(float(F.cross_entropy(each, labels)), 5) for word, each in logits.items()}
    return {**found, **losses, "changed": int((plain.argmax(1) != rounded.argmax(1)).sum()), "of": len(labels)}


def logits_and_labels(model: Any) -> tuple[Tensor, Tensor]:
    """Return the logits [digits, classes] and the labels of all test digits."""
    data = ProcessedSplit(Digits().split("test"), model.processor)
    return over_split(data, lambda batch: model(batch).outputs["logits"], batch_size=256, limit=None, advance=lambda items: None)


def show(name: str, figures: Mapping[str, float]) -> None:
    """Print figures as a line of JSON."""
    print(json.dumps({"model": name, **figures}), flush=True)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("language", "digits"))
    torch.set_num_threads(1)
    {"language": language, "digits": digits}[parser.parse_args().task]()


if __name__ == "__main__":
    main()
