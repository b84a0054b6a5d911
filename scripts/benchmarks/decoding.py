"""Speed and perplexity of a language model in each precision, on one thread: the table of assets/guide/speed.md.

    python scripts/benchmarks/decoding.py $(zoo fetch smollm2) --text $(zoo fetch wordnet)/lines.txt
    python scripts/benchmarks/decoding.py MODEL --text FILE --precisions fp32 int4 --keep '*.fc2' --rounds 7

Speeds are CPU milliseconds (the smallest of all rounds; precisions alternate), for a context of 320 tokens: one token of one row, one step
of 8 rows, and the prefill of 320 tokens. Perplexity is that of windows of 256 tokens of a text, each token given those before it in its
window. ``packed_mb`` is the memory of the repacked weights, beside the weights themselves.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import zoo
from zoo.data.system_processor import CONVERSATION
from zoo.errors import ConfigError
from zoo.layers.low_precision.modes import packed_memory, set_precision
from zoo.types import LanguageModel

WINDOW, PROMPT, STEPS = 256, 320, 8  # tokens
EVERY = 97  # lines of the text between two that are read: a sample of all of it
PRECISIONS = ("fp32", "bf16", "fp16", "int4")


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a system with a language model and no encoder")
    parser.add_argument("--text", type=Path, required=True, help="plain text that the model was not trained on")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the text (default: 4096)")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=(*PRECISIONS, "int8"))
    parser.add_argument("--keep", nargs="*", default=(), help="layers that stay in fp32 under int4, as patterns of names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-quality", action="store_true", help="measure no speed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = zoo.load(options.model).eval()
    windows = read_windows(options.text, model.processor[CONVERSATION].tokenizer, options.tokens)
    models = {word: prepared(model.head.language, word, options.keep) for word in options.precisions}
    rows: dict[str, dict[str, float]] = {}
    for word, language in models.items():
        rows[word] = {"perplexity": perplexity(language, windows)}
        print(f"{word}: perplexity {rows[word]['perplexity']:.3f}", file=sys.stderr, flush=True)
    for number in range(0 if options.only_quality else options.rounds):
        for word, language in models.items():
            for name, value in speeds(language, windows).items():
                rows[word][name] = min(value, rows[word].get(name, math.inf))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    for word, language in models.items():
        rows[word]["packed_mb"] = packed_memory(language) / 1e6
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for word, row in rows.items():
        print(f"{word:5}", "  ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)


def prepared(language: LanguageModel, precision: str, keep: tuple[str, ...]) -> LanguageModel:
    """Return a copy of the model in a precision."""
    return set_precision(copy.deepcopy(language), precision, keep=keep if precision.startswith("int") else ())  # type: ignore[return-value]


def read_windows(path: Path, tokenizer: Any, count: int) -> Tensor:
    """Return windows of a sample of a text's lines [windows, WINDOW].

    Raises:
        ConfigError: the text is too short.
    """
    lines = path.read_text(encoding="utf-8").splitlines()[::EVERY]
    ids = tokenizer.encode("\n".join(lines)).ids[: count // WINDOW * WINDOW]
    if len(ids) < max(count, PROMPT) // WINDOW * WINDOW:
        raise ConfigError(f"--text {path}: every {EVERY}th line gives {len(ids)} tokens, fewer than {count}; give a longer text")
    return torch.tensor(ids).view(-1, WINDOW)


@torch.inference_mode()
def perplexity(language: LanguageModel, windows: Tensor) -> float:
    """Return the perplexity of all tokens but the first of each window."""
    losses = []
    for window in windows:
        logits = language.logits(language(window[None]))[0, :-1].float()
        losses.append(F.cross_entropy(logits, window[1:], reduction="none"))
    return math.exp(torch.cat(losses).mean().item())


@torch.inference_mode()
def speeds(language: LanguageModel, windows: Tensor) -> dict[str, float]:
    """Return CPU milliseconds of a prefill, of a token of one row, and of a step of 8 rows."""
    prompt = windows.flatten()[:PROMPT][None]
    cache = language.new_cache(1, PROMPT + 4 * STEPS)
    found = {"prefill": cpu_ms(partial(language, prompt, cache=cache))}
    found["step_1"] = _fastest_step(language, prompt[:, -1:], cache)
    language.new_cache(8, 1)  # lays out the weights for several rows
    cache.crop(PROMPT).select(torch.zeros(8, dtype=torch.int64))
    found["step_8"] = _fastest_step(language, prompt[:, -1:].expand(8, 1), cache)
    return found


def _fastest_step(language: LanguageModel, tokens: Tensor, cache: Any) -> float:
    return min(cpu_ms(partial(step_of, language, tokens, cache)) for _ in range(STEPS))


def step_of(language: LanguageModel, tokens: Tensor, cache: Any) -> Tensor:
    """Return the likeliest next tokens [rows, 1]."""
    return language.logits(language(tokens, cache=cache)[:, -1]).argmax(-1)[:, None]


def cpu_ms(call: Callable[[], object]) -> float:
    """Return the CPU milliseconds of a call."""
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3


if __name__ == "__main__":
    main()
