"""SigLIP training on pictures of their own sizes beside padding them to squares: images per CPU second and accuracy at equal training.

    python scripts/benchmarks/native_sizes.py
    python scripts/benchmarks/native_sizes.py fit square --steps 300 --seed 1

A picture shows one handwritten digit of 16 to 32 pixels somewhere in a wide or tall canvas, up to five times as long; the caption names the
digit. Each way trains the same small model from the same seed on the same pictures. The accuracy is zero-shot, on 1,000 pictures of test
digits.
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
    *("system.encoders.image.pool=mean", "system.encoders.image.class_token=false"),
    "system.head.logit_bias=-2.2",  # the logarithm of the odds of a positive: one pair in ten shows the same digit
]


class Pictures:
    """Pictures of digits of a split, with the digits."""

    def __init__(self, split: str, seed: int) -> None:
        self.images, self.labels = load_digits()
        self.indices, self.generator = split_indices(split), np.random.default_rng(seed)

    def draw(self, number: int) -> tuple[list[np.ndarray], list[int]]:
        """Return pictures [height, width] and the digit in each."""
        pictures, digits = [], []
        for _ in range(number):
            size, length = int(self.generator.integers(16, 33)), int(self.generator.integers(1, LONGEST + 1))
            index, place = self.generator.choice(self.indices), int(self.generator.integers(size * (length - 1) + 1))
            canvas, wide = np.zeros((size * length, size * length), dtype=np.uint8), self.generator.random() < 0.5
            draw_digit(canvas, self.images[index], left=place * wide, top=place * (not wide), size=size)
            pictures.append(canvas[:size] if wide else canvas[:, :size])
            digits.append(int(self.labels[index]))
        return pictures, digits


def token_ids(digits: Sequence[int]) -> torch.Tensor:
    """Return the ids of captions: 3 to 12 are digits, 2 ends a caption."""
    return torch.tensor([[digit + 3, 2] for digit in digits])


def make_batch(system: Any, pictures: Sequence[np.ndarray], digits: Sequence[int]) -> Batch:
    """Return a batch of a system; equal digits are positives of each other."""
    batch = system.processor(image=list(pictures))
    batch.inputs["text"], batch.targets["groups"] = token_ids(digits), torch.tensor(digits)
    return batch


def run(way: str, *, steps: int, batch_size: int, seed: int) -> dict[str, float]:
    """Train one way; return its figures."""
    torch.manual_seed(seed)
    words = json.dumps(WAYS[way]).replace('"', "")
    system = zoo.create_system("siglip_vit_nano", [*SYSTEM, f"system.processor.image={words}"]).train()
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    pictures, patches, seconds = Pictures("train", seed), 0, 0.0
    for _ in range(steps):
        drawn = pictures.draw(batch_size)  # not timed: equal for all ways
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
def accuracy(system: Any, number: int = 1000) -> float:
    """Return the share of test pictures whose own digit is the nearest caption."""
    pictures, digits = Pictures("test", 0).draw(number)
    texts = system.head.project("text", system.encode_ready("text", token_ids(range(10))))
    return float(((system.embed("image", pictures) @ texts.T).argmax(1) == torch.tensor(digits)).float().mean())


def main() -> None:
    """Run the ways that are named and print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", default=list(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--steps", type=int, default=250)
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
