"""SigLIP training on pictures of their own sizes beside padding them to squares: images per CPU second and accuracy at equal training.

    python scripts/benchmarks/native_sizes.py
    python scripts/benchmarks/native_sizes.py fit square --steps 300 --seed 1

The pictures are rows of one to five handwritten digits, 16 to 32 pixels high and up to 160 wide; the caption is the row. Each way trains
the same small model from the same seed on the same pictures. The accuracy is the share of 512 rows of test digits whose own caption is
the nearest of 512 captions.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.errors import ConfigError, name_choices
from zoo.sources.digits import draw_digit, load_digits, split_indices
from zoo.types import Batch

PATCH, SIDE, LONGEST = 8, 64, 5
WAYS = {  # settings of the image processor; each makes at most 64 patches of a row of digits, except the largest rows of "fit"
    "square": {"resize": "pad"},  # padded to a square of 64 x 64
    "budget": {"tiler": {"kind": "budget", "max_patches": (SIDE // PATCH) ** 2}},  # own shape, as large as 64 patches allow (NaFlex)
    "fit": {"tiler": {"kind": "fit", "merge": 1, "min_pixels": 64, "max_pixels": SIDE**2}},  # own shape and size, at most 64 patches
}
SYSTEM = [
    *(f"system.encoders.image.{key}={value}" for key, value in {"image_size": SIDE, "dim": 96, "depth": 3, "num_heads": 3}.items()),
    *("system.encoders.image.pool=attention", "system.encoders.image.class_token=false"),
]


class Rows:
    """Pictures of rows of digits of a split, with their captions."""

    def __init__(self, split: str, seed: int) -> None:
        self.images, self.labels = load_digits()
        self.indices, self.generator = split_indices(split), np.random.default_rng(seed)

    def draw(self, number: int) -> tuple[list[np.ndarray], list[tuple[int, ...]]]:
        """Return pictures [height, width] and the digits in each."""
        pictures, captions = [], []
        for _ in range(number):
            size, length = int(self.generator.integers(16, 33)), int(self.generator.integers(1, LONGEST + 1))
            chosen = self.generator.choice(self.indices, length)
            canvas = np.zeros((size, size * length), dtype=np.uint8)
            for place, index in enumerate(chosen):
                draw_digit(canvas, self.images[index], left=place * size, top=0, size=size)
            pictures.append(canvas)
            captions.append(tuple(int(self.labels[index]) for index in chosen))
        return pictures, captions


def token_ids(captions: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of captions: 3 to 12 are digits, 2 ends a caption."""
    ids = torch.zeros(len(captions), 8, dtype=torch.int64)
    for row, caption in enumerate(captions):
        ids[row, : len(caption) + 1] = torch.tensor([*(digit + 3 for digit in caption), 2])
    return ids, ids > 0


def make_batch(system: Any, pictures: Sequence[np.ndarray], captions: Sequence[tuple[int, ...]]) -> Batch:
    """Return a batch of a system; rows of equal digits are positives of each other."""
    batch = system.processor(image=list(pictures))
    batch.inputs["text"], batch.masks["text"] = token_ids(captions)
    batch.targets["groups"] = torch.tensor([int("1" + "".join(map(str, caption))) for caption in captions])
    return batch


def run(way: str, *, steps: int, batch_size: int, seed: int) -> dict[str, float]:
    """Train one way; return its figures."""
    torch.manual_seed(seed)
    words = json.dumps(WAYS[way]).replace('"', "")
    system = zoo.create_system("siglip_vit_nano", [*SYSTEM, f"system.processor.image={words}"]).train()
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    rows, patches, seconds = Rows("train", seed), 0, 0.0
    for _ in range(steps):
        drawn = rows.draw(batch_size)  # not timed: equal for all ways
        start = time.process_time()
        batch = make_batch(system, *drawn)
        loss = system(batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - start
        patches += int(batch.grids["image"].prod(1).sum()) if batch.grids else batch_size * (SIDE // PATCH) ** 2
    return {
        "images_per_cpu_second": steps * batch_size / seconds,
        "patches_per_image": patches / steps / batch_size,
        "cpu_seconds": seconds,
        "accuracy": 100 * accuracy(system.eval()),
        "loss": float(loss.detach()),
    }


@torch.inference_mode()
def accuracy(system: Any, number: int = 512) -> float:
    """Return the share of test rows whose own caption is the nearest of all."""
    rows, kept = Rows("test", 0), {}
    while len(kept) < number:
        pictures, captions = rows.draw(64)
        kept |= dict(zip(captions, pictures, strict=True))
    captions, pictures = list(kept)[:number], list(kept.values())[:number]
    images = system.embed("image", pictures)
    batch = make_batch(system, pictures[:1], captions)
    encoded = system.encode_ready("text", batch.inputs["text"], batch.masks["text"])
    scores = images @ system.head.project("text", encoded).T
    return float((scores.argmax(1) == torch.arange(number)).float().mean())


def main() -> None:
    """Run the ways that are named and print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", default=list(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for way in options.ways:
        if way not in WAYS:
            raise SystemExit(str(ConfigError(f"there is no way {way!r}; {name_choices(way, WAYS)}")))
    torch.set_num_threads(1)
    table = Table("way", "patches per image", "images per CPU second", "CPU seconds", "accuracy, %")
    for way in options.ways:
        found = run(way, steps=options.steps, batch_size=options.batch_size, seed=options.seed)
        print(json.dumps({"way": way, **found}), flush=True)
        names = ("patches_per_image", "images_per_cpu_second", "cpu_seconds", "accuracy")
        table.add_row(way, *(f"{found[name]:.1f}" for name in names))
    Console().print(table)


if __name__ == "__main__":
    main()
