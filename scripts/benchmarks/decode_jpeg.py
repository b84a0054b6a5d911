"""From the bytes of a JPEG file of 1600 x 1200 pixels to 224 x 224: ways to decode and resize, their CPU milliseconds and grey levels off.

    python scripts/benchmarks/decode_jpeg.py --rounds 5

The reference is PIL at full size. ``simplejpeg`` (libjpeg-turbo, ``zoo install bench``) can decode at half size, which is faster, but not
within one grey level. All of them resize by the same function except PIL, whose filters are the reference. Seconds are the least of all
rounds, on one thread.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from sys import path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.data import IMAGE_SIZE, PHOTOS, QUALITY  # noqa: E402
from benchmarks.job import need  # noqa: E402

from zoo.processors.image import ImageProcessor, to_pixels  # noqa: E402
from zoo.processors.media.image_file import read_pixels  # noqa: E402

SIZE = (1600, 1200)
Decode = Callable[[bytes], np.ndarray]


def photos() -> list[bytes]:
    """Return one JPEG file per photo of scikit-image."""
    samples, files = need("skimage.data", "scikit-image"), []
    for name in PHOTOS:
        file = io.BytesIO()
        Image.fromarray(getattr(samples, name)()).convert("RGB").resize(SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files


def ways(processor: ImageProcessor) -> dict[str, Decode]:
    """Return the functions from a file to pixels [height, width, 3]."""
    simplejpeg = need("simplejpeg", "simplejpeg")

    def sized(pixels: np.ndarray) -> np.ndarray:
        return processor.at_size(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()

    def reduced(file: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(file))
        image.draft("RGB", (2 * IMAGE_SIZE, 2 * IMAGE_SIZE))  # half size: 1/4 would be smaller than this
        return sized(to_pixels(image.convert("RGB")).permute(1, 2, 0).numpy())

    return {
        "PIL": lambda file: np.asarray(processor.resized(Image.open(io.BytesIO(file)).convert("RGB"))),
        "PIL draft (half size)": reduced,
        "zoo (torchvision's decoder)": lambda file: sized(read_pixels(file)),
        "simplejpeg": lambda file: sized(simplejpeg.decode_jpeg(file, "RGB")),
        "simplejpeg, fast upsampling": lambda file: sized(simplejpeg.decode_jpeg(file, "RGB", fastupsample=True)),
        "simplejpeg, half size": lambda file: sized(simplejpeg.decode_jpeg(file, "RGB", min_height=SIZE[1] // 2, min_width=SIZE[0] // 2)),
    }


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds over all photos (default: 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files, decoders = photos(), ways(ImageProcessor(image_size=IMAGE_SIZE))
    least = dict.fromkeys(decoders, float("inf"))
    for _ in range(options.rounds):
        for name, decode in decoders.items():
            start = time.process_time()
            for file in files:
                decode(file)
            least[name] = min(least[name], 1e3 * (time.process_time() - start) / len(files))
    expected = np.stack([decoders["PIL"](file) for file in files]).astype(int)
    table = Table(f"{len(files)} photos of {SIZE[0]} x {SIZE[1]}", "CPU ms", "largest difference", "values more than one level off")
    for name, decode in decoders.items():
        off = np.abs(np.stack([decode(file) for file in files]) - expected)
        table.add_row(name, f"{least[name]:.1f}", str(off.max()), f"{100 * (off > 1).mean():.2f} %")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
