"""Embed a folder of JPEG files of 1600 x 1200 pixels end to end: zoo against plain loops of other libraries; images per CPU second.

    python scripts/benchmarks/embed_folder.py --images 200
    python scripts/benchmarks/embed_folder.py --images 2000 --threads 2 --precision bf16

The files are photos of scikit-image, enlarged, turned and shifted so that no two are equal. All runs use CLIP ViT-B/32 with equal random
weights, except transformers, whose weights are random ones of its own. Peers: a loop over open_clip's transform and ``encode_image``;
a loop over transformers' image processor and vision tower, which is what ``encode`` of sentence-transformers runs for images. zoo runs
what ``zoo embed`` runs: threads read and decode while the model computes, and vectors are written to an index. The first batch of each
is a warm-up. ``difference`` is 1 minus the smallest cosine to open_clip's vectors.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.data import PHOTOS, QUALITY  # noqa: E402
from benchmarks.job import need  # noqa: E402

from zoo.assembly.placement import PRECISIONS  # noqa: E402
from zoo.assembly.save_load import load  # noqa: E402
from zoo.commands.index.embedding import embed_folder  # noqa: E402
from zoo.errors import ZooError  # noqa: E402

SIZE, BATCH, MODEL = (1600, 1200), 32, "ViT-B-32-quickgelu"


def write_photos(folder: Path, count: int) -> list[Path]:
    """Write JPEG files; each is one of a few photos, turned by a quarter, half or three quarters and shifted by its number."""
    samples, paths = need("skimage.data", "scikit-image"), []
    photos = [Image.fromarray(getattr(samples, name)()).convert("RGB") for name in PHOTOS]
    for number in range(count):
        turned = np.rot90(np.asarray(photos[number % len(photos)]), number // len(photos) % 4)
        shifted = np.roll(turned, 3 * number, axis=(0, 1))
        paths.append(folder / f"{number:05d}.jpg")
        Image.fromarray(np.ascontiguousarray(shifted)).resize(SIZE, Image.Resampling.BICUBIC).save(paths[-1], quality=QUALITY)
    return paths


def in_batches(encode: Callable[[list[Path]], Tensor]) -> Callable[[list[Path]], Tensor]:
    """Return a plain loop over batches of files that gives unit vectors."""

    @torch.inference_mode()
    def run(paths: list[Path]) -> Tensor:
        found = [encode(paths[first : first + BATCH]) for first in range(0, len(paths), BATCH)]
        return F.normalize(torch.cat(found), dim=-1)

    return run


def open_clip_model(folder: Path) -> tuple[Callable[[list[Path]], Tensor], Path]:
    """Return the loop over open_clip's functions, and a directory with its weights."""
    open_clip = need("open_clip", "open_clip_torch")
    model, _, transform = open_clip.create_model_and_transforms(MODEL)
    model.eval()
    directory = folder / "open_clip"
    directory.mkdir()
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config(MODEL), "preprocess_cfg": open_clip.get_model_preprocess_cfg(model)}
    (directory / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return in_batches(lambda paths: model.encode_image(torch.stack([transform(Image.open(path)) for path in paths]))), directory


def transformers_loop() -> Callable[[list[Path]], Tensor]:
    """Return the loop over the image processor and the vision tower of transformers."""
    transformers = need("transformers", "transformers")
    config = transformers.CLIPVisionConfig(hidden_size=768, intermediate_size=3072, projection_dim=512, patch_size=32)
    tower, processor = transformers.CLIPVisionModelWithProjection(config).eval(), transformers.CLIPImageProcessor()

    def encode(paths: list[Path]) -> Tensor:
        images = [Image.open(path).convert("RGB") for path in paths]
        return tower(**processor(images, return_tensors="pt")).image_embeds

    return in_batches(encode)


def zoo_runs(directory: Path, folder: Path, precision: str) -> Callable[[list[Path]], Tensor]:
    """Return what ``zoo embed`` runs, for files of one folder."""
    model: Any = load(directory, precision=precision)
    count = [0]

    def run(paths: list[Path]) -> Tensor:
        count[0] += 1
        chosen, index = folder / f"chosen{count[0]}", folder / f"index{count[0]}"
        chosen.mkdir()
        for path in paths:
            (chosen / path.name).hardlink_to(path)
        embed_folder(model, chosen, index, name=str(directory), batch_size=BATCH)
        return torch.from_numpy(np.load(index / "embeddings.npy"))

    return run


def main(arguments: list[str]) -> int:
    """Run the comparison, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="number of files (default: 200)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; two more read files for zoo (default: 1)")
    parser.add_argument("--precision", default="fp32", help=f"precision of zoo: {', '.join(PRECISIONS)} (default: fp32)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    table = Table(f"{options.images} JPEG files of {SIZE[0]} x {SIZE[1]}", "wall s", "CPU s", "images / CPU s", "difference")
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "photos").mkdir()
            paths = write_photos(folder / "photos", options.images)
            open_clip, directory = open_clip_model(folder)
            runs = {"open_clip, plain loop": open_clip, "transformers, plain loop": transformers_loop()}
            runs[f"zoo embed {options.precision}"] = zoo_runs(directory, folder, options.precision)
            wanted: Tensor | None = None
            for label, run in runs.items():
                run(paths[:BATCH])
                wall, cpu = time.perf_counter(), time.process_time()
                vectors = run(paths)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                wanted = vectors if wanted is None else wanted
                same = "-" if label.startswith("transformers") else f"{1 - (vectors * wanted).sum(1).min().item():.1e}"
                table.add_row(label, f"{wall:.1f}", f"{cpu:.1f}", f"{options.images / cpu:.1f}", same)
    except ZooError as error:
        print(f"embed_folder: {error}", file=sys.stderr)
        return 2
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
