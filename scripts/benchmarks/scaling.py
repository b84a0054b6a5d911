"""Sweep of tiny language models over sizes and amounts of data, to which `zoo fit-scaling` fits scaling laws.

    python scripts/benchmarks/scaling.py runs.csv                      # six minutes of CPU time
    zoo fit-scaling runs.csv --law both --budget 1e12 -o scaling.png

LLaMA-shaped models of two layers and 8 to 64 channels read WordNet's glosses (`zoo fetch wordnet`) in a byte-level BPE of 512 tokens. Each
run sees each token once, in the same order, and has its own schedule down to zero. The learning rate of each width is the best power of two
times 0.016 on the second smallest amount of data. The loss is that of 65,536 held-out tokens. The table is written after each run, and runs
that it holds are not repeated.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.assembly.create import create_model
from zoo.downloads.fetching import fetched
from zoo.processors.tokenizers.chat_tokenizer import train_tokenizer

WIDTHS = (8, 16, 32, 64)
TOKENS = tuple(2**power for power in range(16, 21))  # 65,536 to 1,048,576
MOST_WORK = 1e11  # parameters times tokens of a run; larger ones are left out
FIRST_RATE = 16e-3  # the search for the learning rate of a width begins here, in factors of two
TUNED_ON = TOKENS[1]
VOCABULARY, CONTEXT, BATCH = 512, 128, 4
HELD_OUT = 65_536
COLUMNS = ("parameters", "tokens", "loss", "without_tables", "width", "rate", "seed", "seconds")


def read_tokens(path: Path) -> Tensor:
    """Return the token ids of all lines, in random order of the lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [lines[place] for place in np.random.default_rng(0).permutation(len(lines))]
    tokenizer = train_tokenizer(lines[:20_000], vocab_size=VOCABULARY, kind="trained", symbols=()).tokenizer
    ids: list[int] = []
    for start in range(0, len(lines), 1000):
        if len(ids) > HELD_OUT + max(TOKENS):
            break
        ids += tokenizer.encode("\n".join(lines[start : start + 1000]), add_special_tokens=False).ids
    return torch.tensor(ids)


def make(width: int, seed: int) -> nn.Module:
    """Return an untrained model of a width.

    With a tied word table in its usual small start, such short runs stay at the loss of single words for most of their steps, and leave it
    at a random step: 5.11 and 5.18 after 131,072 tokens, where this start gives 4.2 to 4.4.
    """
    torch.manual_seed(seed)
    sizes = {"dim": width, "depth": 2, "num_heads": max(1, width // 16), "num_kv_heads": max(1, width // 16), "hidden_dim": 8 * width // 3}
    model = create_model("llama_nano", vocab_size=VOCABULARY, context_length=CONTEXT, tied=False, **sizes).train()
    nn.init.normal_(model.embedding.weight)  # type: ignore[arg-type]
    return model


def losses(model: nn.Module, windows: Tensor) -> Tensor:
    """Return the mean loss of the tokens of windows [batch, context + 1]."""
    hidden = model(model.embed(windows[:, :-1]))  # type: ignore[operator]
    return F.cross_entropy(model.logits(hidden).flatten(0, 1), windows[:, 1:].flatten())  # type: ignore[operator]


def batches(ids: Tensor, tokens: int) -> Iterator[Tensor]:
    """Yield batches of windows that follow one another, ``tokens`` predicted tokens in all."""
    for start in range(0, tokens, BATCH * CONTEXT):
        yield torch.stack([ids[place : place + CONTEXT + 1] for place in range(start, start + BATCH * CONTEXT, CONTEXT)])


def train(model: nn.Module, ids: Tensor, tokens: int, rate: float) -> None:
    """Train a model once on the first tokens, with a rate that rises over a twentieth of the steps and falls to zero."""
    steps = tokens // (BATCH * CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    warmup = max(10, steps // 20)
    for step, windows in enumerate(batches(ids, tokens)):
        share = min((step + 1) / warmup, (steps - step) / (steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        losses(model.train(), windows).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.inference_mode()
def held_out(model: nn.Module, ids: Tensor) -> float:
    """Return the mean loss of the held-out tokens, which are the first ones."""
    found = [float(losses(model.eval(), windows)) for windows in batches(ids, HELD_OUT)]
    return sum(found) / len(found)


def sweep(path: Path, ids: Tensor) -> None:
    """Run what the table lacks, small runs first."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    known = {(int(row["width"]), int(row["tokens"]), float(row["rate"]), int(row["seed"])): float(row["loss"]) for row in rows}

    def run(width: int, tokens: int, rate: float, seed: int = 0) -> float:
        key = (width, tokens, rate, seed)
        if key not in known:
            begun = time.process_time()
            model = make(width, seed)
            train(model, ids[HELD_OUT + 1 :], tokens, rate)
            loss = held_out(model, ids)
            size = sum(weight.numel() for weight in model.parameters())
            values = (size, tokens, f"{loss:.5f}", size - 2 * VOCABULARY * width, width, rate, seed, f"{time.process_time() - begun:.1f}")
            rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
            write(path, rows)
            known[key] = loss
            print(rows[-1], flush=True)
        return known[key]

    for width in WIDTHS:
        size = sum(weight.numel() for weight in make(width, 0).parameters())
        rate = tuned(lambda each, width=width: run(width, TUNED_ON, each))
        for tokens in TOKENS:
            for seed in range(2 if tokens <= TUNED_ON else 1):
                if size * tokens <= MOST_WORK:
                    run(width, tokens, rate, seed)


def tuned(loss: Callable[[float], float]) -> float:
    """Return the learning rate with the smallest loss, found by doubling, or by halving if the first doubling is worse."""
    rate = FIRST_RATE
    for factor in (2.0, 0.5):
        while loss(rate * factor) < loss(rate):
            rate *= factor
        if rate > FIRST_RATE:
            break
    return rate


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write the table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def best(path: Path) -> None:
    """Remove the runs at learning rates that are not the best of their width."""
    rows = list(csv.DictReader(path.open()))
    for width in WIDTHS:
        tuned = [row for row in rows if int(row["width"]) == width and int(row["tokens"]) == TUNED_ON and row["seed"] == "0"]
        if tuned:
            rate = min(tuned, key=lambda row: float(row["loss"]))["rate"]
            rows = [row for row in rows if int(row["width"]) != width or row["rate"] == rate]
    write(path, rows)


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV file of the runs; the runs with learning rates that lost stand in TABLE.all.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = options.table.with_suffix(".all.csv")
    sweep(whole, read_tokens(fetched("wordnet") / "lines.txt"))
    options.table.write_bytes(whole.read_bytes())
    best(options.table)


if __name__ == "__main__":
    main()
