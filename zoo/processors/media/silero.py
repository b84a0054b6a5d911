"""Silero's voice-activity model: the probability that each 32 ms of a recording are speech.

Reference: the package ``silero-vad`` 6.2, whose TorchScript file (MIT licence) holds the weights and gives the same probabilities. Where
we differ: all frames of a block pass the convolutions together, and one LSTM call follows, while the package runs frame by frame, which
takes 15 times as long; its code is neither run nor imported, because importing it sets torch to one thread.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError
from zoo.storage.torchscript import read_torchscript

FRAME_SAMPLES = 512  # 32 ms at 16 kHz
CONTEXT_SAMPLES = 64  # samples before a frame that the model sees with it
FFT_SAMPLES, HOP_SAMPLES, BINS, DIM = 256, 128, 129, 128
WEIGHTS = "data/silero_vad.jit"  # in the package; its safetensors are of an older version with other probabilities
NAMES = {  # in the archive, and here; its second model, for 8 kHz, is left out
    "stft.forward_basis_buffer": "spectrum.weight",
    "decoder.rnn.weight_ih": "lstm.weight_ih_l0",
    "decoder.rnn.weight_hh": "lstm.weight_hh_l0",
    "decoder.rnn.bias_ih": "lstm.bias_ih_l0",
    "decoder.rnn.bias_hh": "lstm.bias_hh_l0",
    "decoder.decoder.2.weight": "output.weight",
    "decoder.decoder.2.bias": "output.bias",
}
NAMES |= {f"encoder.{i}.reparam_conv.{kind}": f"convolutions.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
State = tuple[Tensor, Tensor]


class SileroModel(nn.Module):
    """Spectrum of four steps per frame, four convolutions, an LSTM over frames, and one probability per frame."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = nn.Conv1d(1, 2 * BINS, FFT_SAMPLES, stride=HOP_SAMPLES, bias=False)
        sizes = ((BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, DIM, 1))  # channels in and out, stride
        self.convolutions = nn.ModuleList([nn.Conv1d(i, o, 3, stride=stride, padding=1) for i, o, stride in sizes])
        self.lstm = nn.LSTM(DIM, DIM)
        self.output = nn.Conv1d(DIM, 1, 1)

    def forward(self, frames: Float[Tensor, "frames samples"], state: State | None = None) -> tuple[Float[Tensor, " frames"], State]:
        """Return the probability of speech of consecutive frames, and the state that the next frames need.

        Args:
            frames: each frame with the ``CONTEXT_SAMPLES`` samples before it.
        """
        padded = F.pad(frames[:, None], (0, CONTEXT_SAMPLES), mode="reflect")
        parts = self.spectrum(padded)  # [frames, 2 * BINS, 4]: real and imaginary parts
        x = (parts[:, :BINS] ** 2 + parts[:, BINS:] ** 2).sqrt()
        for convolution in self.convolutions:
            x = convolution(x).relu()
        hidden, following = self.lstm(x.transpose(1, 2), state)  # [frames, 1, DIM]
        return self.output(hidden.transpose(1, 2).relu()).sigmoid().flatten(), following


@cache
def silero_model() -> SileroModel:
    """Load the model from the installed package ``silero-vad``.

    Raises:
        ConfigError: the package is missing.
        WeightsError: its weights are not those of version 6.
    """
    path = silero_file()
    if path is None:
        raise ConfigError("vad_filter: 'silero' needs the package silero-vad; install it with: zoo install vad")
    model = SileroModel().eval().requires_grad_(False)
    tensors = read_torchscript(path)
    try:
        model.load_state_dict({ours: tensors[f"_model.{theirs}"] for theirs, ours in NAMES.items()})
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path}: not the weights of silero-vad 6 ({error}); zoo install vad") from error
    return model


def silero_file() -> Path | None:
    """Return the path of the weights in the installed package ``silero-vad``; None without the package or without this file."""
    found = find_spec("silero_vad")
    places = [] if found is None else list(found.submodule_search_locations or ())
    return next((path for place in places if (path := Path(place, WEIGHTS)).is_file()), None)


class SileroDetector:
    """Speech probabilities of one recording, which is given in blocks of samples at 16 kHz."""

    def __init__(self) -> None:
        self.model = silero_model()
        self.rest = np.zeros(CONTEXT_SAMPLES, dtype=np.float32)  # the last frame's end, and samples that fill no frame yet
        self.state: State | None = None
        self.found: list[np.ndarray] = []

    def take(self, samples: Float32[np.ndarray, " samples"]) -> None:
        """Take the next samples of the recording."""
        self.rest = np.concatenate([self.rest, samples])
        whole = (len(self.rest) - CONTEXT_SAMPLES) // FRAME_SAMPLES
        if whole:
            self.found.append(self._run(self.rest[: CONTEXT_SAMPLES + whole * FRAME_SAMPLES]))
            self.rest = self.rest[whole * FRAME_SAMPLES :]

    def finish(self) -> Float32[np.ndarray, " frames"]:
        """Return the probabilities of all frames; samples that fill no frame are followed by silence."""
        left = len(self.rest) - CONTEXT_SAMPLES
        if left:
            self.take(np.zeros(FRAME_SAMPLES - left, dtype=np.float32))
        return np.concatenate(self.found) if self.found else np.empty(0, dtype=np.float32)

    @torch.inference_mode()
    def _run(self, samples: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(samples).unfold(0, CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES)
        probabilities, self.state = self.model(frames, self.state)
        return probabilities.numpy()
