"""Plain JPEG files decoded with torchvision: the same values as with Pillow, but without Pillow's copies.

Both libraries call libjpeg-turbo with the same settings (slow integer DCT, smooth upsampling of colour), so the values are equal; tests
check this. Pillow still reads the header, and decodes every file that is not a plain JPEG or that torchvision refuses. If a damaged
file decodes without an error, the pixels after the damage are noise, and this noise may differ from Pillow's.

Files are decoded at full size. At half of it, libjpeg is faster, but the resized image is up to 6 grey levels off
(``scripts/benchmarks/decode_jpeg.py``).
"""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

START = b"\xff\xd8\xff"
_RGB = 3  # torchvision.io.ImageReadMode.RGB


@functools.cache
def _decoder() -> Callable[[Tensor, int, bool], Tensor] | None:
    """Load and return torchvision's JPEG operator; None if it is not available.

    Only the operator's library is loaded (4 ms), because an import of torchvision takes 1.4 s.
    """
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder).glob("image.*")):
            try:
                torch.ops.load_library(str(path))
                return torch.ops.image.decode_jpeg
            except (OSError, AttributeError):  # built for another torch, or without JPEG
                continue
    return None


def decode_plain(data: bytes, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"] | None:
    """Decode a grey or RGB JPEG of a known size in pixels; None if torchvision is missing or refuses the data.

    If damaged data decodes without an error, libjpeg writes a line to standard error.
    """
    decoder = _decoder()
    if decoder is None:
        return None
    try:
        pixels = decoder(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).numpy() if tuple(pixels.shape) == (3, height, width) else None  # [height, width, 3]
