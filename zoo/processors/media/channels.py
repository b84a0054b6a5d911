"""Channels of a recording to one.

The mean of the channels loses everything if one channel is another with the opposite sign, as a balanced cable that is wired as stereo, or
one swapped wire, makes it. Then the louder channel is taken, and a warning says so.
"""

import numpy as np
from jaxtyping import Float, Float32

from zoo.processors.media.sound_faults import say_once

# Energy of the mean, as a share of what independent channels would have. Below it (-17 dB) the channels cancel each other out.
CANCELLED = 0.02
SILENT = 1e-9  # mean square of a channel (-90 dB of full scale) up to which there is nothing that could be cancelled


def mix(values: Float[np.ndarray, "samples channels"], name: str) -> Float32[np.ndarray, " samples"]:
    """Return the mean of the channels, or the loudest one if they cancel each other out.

    Args:
        name: of the recording, for the warning.
    """
    if values.shape[1] == 1:
        return np.ascontiguousarray(values[:, 0], dtype=np.float32)
    mean = values.mean(axis=1)
    with np.errstate(all="ignore"):  # damaged float samples may be as large as 1e38, or not finite; the caller refuses them
        energies, left = np.square(values).sum(axis=0), np.square(mean).sum()
        cancels = energies.max() > SILENT * len(values) and left < CANCELLED * energies.sum() / values.shape[1] ** 2
    if cancels:
        say_once(
            f"{name}: its channels cancel each other out (one has the opposite sign of the other); the loudest is used instead of the mean"
        )
        mean = values[:, int(energies.argmax())]
    return np.ascontiguousarray(mean, dtype=np.float32)
