"""Log-mel spectrogram of a recording of any length, computed window by window.

Reference: openai-whisper ``audio.py``, ``log_mel_spectrogram``, of the whole recording followed by 30 s of silence. The reference clips
values more than 80 dB below the maximum of the whole recording, so that no window is final before all of it was read. Where we differ:
a recording is read once for the maximum and once more for its windows; one of at most ``KEPT_FRAMES`` frames is read only once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ItemError
from zoo.processors.media.audio_file import Recording, checked_rate, resample, stream_blocks, to_mono
from zoo.processors.media.log_mel import DYNAMIC_RANGE, WHISPER, mel_power

FRAMES_PER_SECOND = WHISPER.sample_rate_hz // WHISPER.hop_samples
BLOCK_SECONDS = 30.0
KEPT_FRAMES = 10 * 60 * FRAMES_PER_SECOND  # 19 MB at 80 mels
EDGE_FRAMES = 2  # frames at a block's edge whose FFT window reaches beyond it: half an FFT window, in hops, rounded up


class RecordingMels:
    """Log-mel windows of one recording, read in order of their first frame.

    Args:
        source: a path or the bytes of a file, samples at 16 kHz, ``(array, sample_rate_hz)``, or precomputed mels [num_mels, frames].
        watch: function that gets all samples at 16 kHz, block by block, before the constructor returns; not called for mels.

    Attributes:
        num_frames: number of frames of the recording, without the silence after it.
        duration_s: duration of the recording in seconds.

    Raises:
        ItemError: the source is not a readable recording; the whole file is checked here, before anything is transcribed.
    """

    def __init__(self, source: Any, num_mels: int, watch: Callable[[np.ndarray], None] | None = None) -> None:
        self.num_mels = num_mels
        self.source: Any = source if isinstance(source, Recording) else _array(source, num_mels)
        self.kept, self.begins_at = torch.empty(num_mels, 0), 0  # log10 of the power of frames from ``begins_at`` on
        self.blocks: Iterator[Tensor] = iter(())
        if isinstance(self.source, Tensor):
            self.kept, self.num_frames, self.floor = self.source, self.source.shape[1], -10.0
            self.duration_s = self.num_frames / FRAMES_PER_SECOND
            return
        kept, count, loudest = [], 0, -10.0
        self.num_samples = 0
        for block in self._power(watch):
            loudest, count = max(loudest, block.max().item()), count + block.shape[1]
            kept = [*kept, block] if count <= KEPT_FRAMES else []
        self.floor = loudest - DYNAMIC_RANGE
        self.num_frames = self.num_samples // WHISPER.hop_samples
        self.duration_s = self.num_samples / WHISPER.sample_rate_hz
        if kept:
            self.kept = torch.cat(kept, dim=1)
        else:
            self.blocks = self._power()

    def window(self, start: int, count: int) -> Float[Tensor, "num_mels count"]:
        """Return frames ``start`` to ``start + count``, padded with silence after the end of the recording.

        ``start`` must not be smaller than in the previous call, because earlier frames may have been dropped.
        """
        assert start >= self.begins_at
        while self.begins_at + self.kept.shape[1] < start + count and (block := next(self.blocks, None)) is not None:
            self._forget(start)
            self.kept = torch.cat([self.kept, block], dim=1)
        self._forget(start)
        found = self.kept[:, start - self.begins_at :][:, :count]
        if isinstance(self.source, Tensor):
            return F.pad(found, (0, count - found.shape[1]), value=float(self.source.min()))
        found = F.pad(found, (0, count - found.shape[1]), value=-10.0)
        return (found.clamp(min=self.floor) + 4.0) / 4.0

    def _forget(self, start: int) -> None:
        """Drop the frames before ``start``, unless the whole recording is kept."""
        if self.begins_at + self.kept.shape[1] < self.num_frames or self.begins_at:
            dropped = min(start - self.begins_at, self.kept.shape[1])
            self.kept, self.begins_at = self.kept[:, dropped:], self.begins_at + dropped

    @property
    def is_given(self) -> bool:
        """True if the source was mels, so that there are no samples."""
        return isinstance(self.source, Tensor)

    def _power(self, watch: Callable[[np.ndarray], None] | None = None) -> Iterator[Float[Tensor, "num_mels frames"]]:
        """Yield log10 of the mel power in blocks, for all frames whose FFT window contains a sample of the recording."""
        edge = EDGE_FRAMES * WHISPER.hop_samples
        rest, before, count = np.empty(0, dtype=np.float32), 0, 0  # samples before the first frame that is still to be made
        for block in self._blocks():
            count += len(block)
            if watch is not None:
                watch(block)
            rest = np.concatenate([rest, block])
            whole = (len(rest) - before) // WHISPER.hop_samples - EDGE_FRAMES
            if whole > 0:
                yield self._log_power(rest, before)[:, :whole]
                rest, before = rest[before + whole * WHISPER.hop_samples - edge :], edge
        self.num_samples = count
        silence = np.zeros(2 * WHISPER.num_fft, dtype=np.float32)
        last = -(-(len(rest) - before + WHISPER.num_fft // 2) // WHISPER.hop_samples)
        yield self._log_power(np.concatenate([rest, silence]), before)[:, :last]

    def _log_power(self, samples: np.ndarray, before: int) -> Float[Tensor, "num_mels frames"]:
        power = mel_power(torch.from_numpy(samples), WHISPER, self.num_mels)[before // WHISPER.hop_samples :]
        return power.clamp_(min=1e-10).log10_().T

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the samples at 16 kHz in blocks of at most 30 s."""
        if isinstance(self.source, np.ndarray):
            size = int(BLOCK_SECONDS * WHISPER.sample_rate_hz)
            return (self.source[start : start + size] for start in range(0, len(self.source), size))
        return stream_blocks(self.source, sample_rate_hz=WHISPER.sample_rate_hz, seconds=BLOCK_SECONDS)


def _array(source: Any, num_mels: int) -> np.ndarray | Float[Tensor, "num_mels frames"]:
    """Return samples at 16 kHz as an array, or precomputed mels as a tensor.

    Raises:
        ItemError: the source is neither samples nor mels.
    """
    values, rate = source if isinstance(source, tuple) and len(source) == 2 else (source, WHISPER.sample_rate_hz)
    if isinstance(values, Tensor) and values.ndim == 2 and values is source:
        if len(values) != num_mels or not values.is_floating_point() or not values.shape[1]:
            raise ItemError(f"mels: {values.dtype} of shape {list(values.shape)}; allowed are floats [{num_mels}, frames]", "audio")
        return values.detach().float().cpu()
    if isinstance(values, Tensor):
        values = values.detach().float().cpu().numpy()
    if not isinstance(values, np.ndarray) or (values is source and values.ndim != 1):
        kind = f"array {values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ItemError(
            f"cannot read audio from {kind}; give a path, the bytes of a file, samples [n] at {WHISPER.sample_rate_hz} Hz as an "
            "array, or (array, sample_rate_hz)",
            "audio",
        )
    return resample(to_mono(values), checked_rate(rate), WHISPER.sample_rate_hz)
