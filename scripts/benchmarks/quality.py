"""Quality of each precision on real tasks: what int8 and bf16 cost beside fp32, and int8 with one scale per tensor beside one per row.

    python scripts/benchmarks/quality.py                           # all tasks
    python scripts/benchmarks/quality.py digits sentences --limit 500 --json quality.json

A precision is offered for a family only if it loses at most 0.3 points or 2 % of the figure (``Part.low_precision``). Data and weights
come from ``zoo fetch``; digits and the model of digits are bundled.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import zoo
from zoo.downloads.fetching import fetched
from zoo.errors import ConfigError, ZooError, name_choices
from zoo.evaluation.knn_probe import KnnProbe
from zoo.evaluation.zero_shot import ZeroShot
from zoo.layers.low_precision import products
from zoo.layers.low_precision.cpu import has_bf16, has_vnni
from zoo.layers.low_precision.modes import set_precision
from zoo.sources.digits import Digits
from zoo.sources.emoji import Emoji
from zoo.sources.fashion_mnist import FashionMnist
from zoo.storage.files import write_text_atomically

PER_TENSOR = "int8 per tensor"  # one scale for all rows of a batch; measured, never offered: an item would depend on the others
PRECISIONS = ("fp32", "bf16", "fp16", "int8", PER_TENSOR)
POINTS, SHARE = 0.3, 0.02  # largest loss: of a figure in percent, or relative


def digits(precision: str, limit: int) -> float:
    """Return the zero-shot accuracy in percent of the bundled clip_vit_nano on the test digits."""
    return _accuracy(ZeroShot(limit=limit, cache=False), _loaded("clip_vit_nano", precision), Digits())


def fashion(precision: str, limit: int) -> float:
    """Return the kNN accuracy in percent of DINOv2-small (focus) on Fashion-MNIST, with ``limit`` training and test items."""
    model, source = _loaded(fetched("dinov2_small_focus"), precision), FashionMnist(path=str(fetched("fashion_mnist")))
    return _accuracy(KnnProbe(limit=limit, train_limit=limit, batch_size=32), model, source)


def emoji(precision: str, limit: int) -> float:
    """Return the zero-shot accuracy in percent of the bundled clip_photos_minilm on Twemoji."""
    model = _loaded("clip_photos_minilm", precision)
    return _accuracy(ZeroShot(limit=limit, cache=False, batch_size=64), model, Emoji(path=str(fetched("emoji"))))


def sentences(precision: str, limit: int) -> float:
    """Return the rank correlation in percent of all cosine similarities of WordNet's glosses by MiniLM with those in fp32."""
    texts = glosses(limit)
    expected, found = (_similarities(_loaded(fetched("minilm"), word), texts) for word in ("fp32", precision))
    return 100 * _correlation(_ranks(expected), _ranks(found))


TASKS: dict[str, Callable[[str, int], float]] = {"digits": digits, "fashion": fashion, "emoji": emoji, "sentences": sentences}
LIMITS = {"digits": 2000, "fashion": 400, "emoji": 400, "sentences": 300}  # items of a task: a few minutes in all on one core


def glosses(limit: int) -> list[str]:
    """Return definitions of WordNet, spread evenly over its nouns."""
    lines = (fetched("wordnet") / "data.noun").read_text(encoding="utf-8").splitlines()
    found = [line.partition(" | ")[2].split(";")[0].strip() for line in lines if not line.startswith("  ")]
    return found[:: len(found) // limit][:limit]


@contextmanager
def one_scale() -> Iterator[None]:
    """Replace the scale of each row by the largest one of the tensor."""
    before = products.row_steps
    products.row_steps = lambda rows: before(rows).amax(0, keepdim=True).expand(len(rows), 1)  # type: ignore[assignment]
    try:
        yield
    finally:
        products.row_steps = before


def _loaded(source: str | Path, precision: str) -> Any:
    model: Any = zoo.load(source)
    return set_precision(model, "int8" if precision == PER_TENSOR else precision)


def _accuracy(evaluation: Any, model: Any, source: Any) -> float:
    result = evaluation(model, source, "test")
    return 100 * result.metrics["top1"]


@torch.inference_mode()
def _similarities(model: Any, texts: list[str]) -> Tensor:
    ids, mask = model.processor["text"](texts)
    vectors = torch.nn.functional.normalize(model(ids, mask, reads="pooled").pooled.double(), dim=-1)
    rows, columns = torch.triu_indices(len(texts), len(texts), 1)
    return (vectors @ vectors.T)[rows, columns]


def _ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def measure(task: str, limit: int) -> dict[str, float]:
    """Return the figure of each precision."""
    found = {}
    for precision in PRECISIONS:
        if precision == PER_TENSOR:
            with one_scale():
                found[precision] = TASKS[task](precision, limit)
        else:
            found[precision] = TASKS[task](precision, limit)
    return found


def passes(figure: float, reference: float) -> bool:
    """Return True if a figure in percent is within the allowed loss."""
    return reference - figure <= max(POINTS, SHARE * reference)


def main(arguments: list[str]) -> int:
    """Measure the chosen tasks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"tasks (default: all): {', '.join(TASKS)}")
    parser.add_argument("--limit", type=int, help="items of each task (default: that of the task)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args(arguments)
    shown, results = Table("task", "items", *PRECISIONS), {}
    try:
        for task in options.tasks or TASKS:
            if task not in TASKS:
                raise ConfigError(f"there is no task {task!r}; {name_choices(task, TASKS)}")
            limit = options.limit or LIMITS[task]
            found = results[task] = measure(task, limit)
            cells = [f"{figure:.2f}" + ("" if passes(figure, found["fp32"]) else " (refused)") for figure in found.values()]
            shown.add_row(task, str(limit), *cells)
    except ZooError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    Console().print(shown, f"int8 with VNNI: {has_vnni()}, bf16 instructions: {has_bf16()}")
    if options.json:
        write_text_atomically(options.json, json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
