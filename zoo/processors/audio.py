"""Audio processor: recordings, waveforms or ready tensors to ``mels`` (Whisper's log-mel, or CLAP's in dB)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.layers.hosted_features import HostedFeatures
from zoo.processors.media.audio_file import checked_rate, read_audio, resample, to_mono
from zoo.processors.media.clap_mel import PADDING as CLAP_PADDING
from zoo.processors.media.clap_mel import SPECTRA as CLAP_SPECTRA
from zoo.processors.media.clap_mel import ClapFeatures
from zoo.processors.media.log_mel import WHISPER, whisper_log_mel
from zoo.registry import register
from zoo.types import ModalityProcessor

PADDINGS = ("longest", "context")
TOO_LONG = ("error", "cut")
SPECTRA = ("whisper", *CLAP_SPECTRA)
FRAMES_PER_TOKEN = 2  # stride of the encoder's convolutions
PADDING = -2.0  # value of padded frames; Whisper's log-mel of audio, even of silence, is never below (-10 + 4) / 4 = -1.5


@register("processor")
class AudioProcessor(ModalityProcessor):
    """Processor of audio clips: decode, mix to mono, resample, compute Whisper's log-mel, and pad a batch at the end of each clip.

    A clip's mels do not depend on the other clips of its batch. They are equal to the frames of the reference implementation at the
    same positions; ``pad_to`` "longest" only gives fewer of them. Silence inside a clip is audio (-1.5 everywhere), not padding.

    A raw input is a path, the bytes of a file, ``(array, sample_rate_hz)``, an array of samples at the processor's own rate, or mels
    [num_mels, frames] as a tensor. The calling thread does all the work.

    Args:
        num_mels: 80, or 128 for Whisper large-v3 and later.
        context_length: tokens in the encoder's context; each token covers two frames of 10 ms.
        sample_rate_hz: sample rate at which mels are computed; only 16000 is allowed.
        pad_to: "longest" pads to the longest clip of the batch; "context" pads to the whole context (3000 frames), as the reference does.
        mask: return masks that are True at frames of the clip. If False, the encoder also attends to the silence after a clip, as in
            Whisper's training; ``pad_to`` must then be "context".
        max_seconds: longest clip allowed, in seconds; None allows the length that fills the context (30 s).
        too_long: "error" refuses a longer clip without decoding the rest of it; "cut" keeps its beginning.
        extractor: settings of a feature extractor of transformers (``preprocessor_config.json``), which then takes the place of Whisper's
            log-mel; it says sample rate, channels and padding. ``mels`` are its features, for example one channel of samples.
        spectrum: "whisper", "clap" (48 kHz, one view of 10 s) or "clap_fusion" (also four views of a longer clip); the last two say sample
            rate and padding.

    Raises:
        ConfigError: an unknown option, a number out of range, or options that contradict one another.
    """

    modality = "audio"
    sample_rate_hz: int
    context_length: int
    encoder_keys = ("num_mels", "context_length")

    def __init__(
        self,
        *,
        num_mels: int = 80,
        context_length: int = 1500,
        sample_rate_hz: int = WHISPER.sample_rate_hz,
        pad_to: str = "longest",
        mask: bool = True,
        max_seconds: float | None = None,
        too_long: str = "error",
        extractor: dict[str, Any] | None = None,
        spectrum: str = "whisper",
    ) -> None:
        for key, value, legal in (("pad_to", pad_to, PADDINGS), ("too_long", too_long, TOO_LONG), ("spectrum", spectrum, SPECTRA)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        self.spectrum, self._padding = spectrum, PADDING if spectrum == "whisper" else CLAP_PADDING
        self._features = _find_features(extractor, spectrum, num_mels)
        if isinstance(self._features, HostedFeatures):
            self._padding = None  # every value may occur in a clip
        if self._features is not None:
            sample_rate_hz, mask = self._features.sample_rate_hz, self._features.frames is None
            pad_to = pad_to if mask else "context"
            _refuse_channels(num_mels, self._features.channels)
        if not mask and pad_to != "context":
            raise ConfigError(f"mask: false makes features depend on the padding; it is allowed with pad_to=context only, got {pad_to!r}")
        if self._features is None and sample_rate_hz != WHISPER.sample_rate_hz:
            raise ConfigError(
                f"sample_rate_hz: got {sample_rate_hz}; Whisper's log-mel needs {WHISPER.sample_rate_hz} Hz (recordings at any other "
                "sample rate are resampled to it)"
            )
        if not 1 <= num_mels <= 256 or context_length < 1:
            raise ConfigError(f"audio processor: num_mels {num_mels}, context_length {context_length}; allowed are 1 to 256, and 1 or more")
        longest = context_length * FRAMES_PER_TOKEN * WHISPER.hop_samples / WHISPER.sample_rate_hz
        if self._features is not None:  # any length, or that of the extractor
            longest = self._features.limit_seconds
        if max_seconds is not None and not 0 < max_seconds <= longest:
            raise ConfigError(
                f"max_seconds: got {max_seconds}; with context_length {context_length}, allowed is more than 0 and at most {longest:g} s"
            )
        self.num_mels, self.context_length, self.sample_rate_hz = num_mels, context_length, sample_rate_hz
        self.pad_to, self.mask, self.max_seconds, self.too_long = pad_to, mask, max_seconds, too_long
        self.longest_seconds = longest if max_seconds is None else max_seconds
        if self._features is not None:
            self.longest_seconds = min(self.longest_seconds, self._features.longest_seconds) if max_seconds is None else max_seconds

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords, as written to ``processor.json``."""
        keys = ("num_mels", "context_length", "sample_rate_hz", "pad_to", "mask", "max_seconds", "too_long")
        own = {"extractor": self._features.settings} if isinstance(self._features, HostedFeatures) else {}
        other = {} if self.spectrum == "whisper" else {"spectrum": self.spectrum}
        return {**{key: getattr(self, key) for key in keys}, **own, **other}

    @property
    def context_frames(self) -> int:
        """Number of frames that fill the encoder's context."""
        if self._features is not None:
            return self._features.frames_of(self.longest_seconds)
        return self.context_length * FRAMES_PER_TOKEN

    def item(self, raw: Any) -> Float[Tensor, "num_mels frames"]:
        """Return one clip as mels: only the clip's own frames if ``mask`` is set, otherwise the whole context.

        Ready mels are checked and returned as float32.

        Raises:
            DataError: the input is not a recording, cannot be used, or is too long.
        """
        if isinstance(raw, Tensor) and raw.ndim == 2:
            return self._checked(raw)
        if self._features is not None:
            return self._features(self.waveform(raw))
        waveform = torch.from_numpy(self.waveform(raw))
        return whisper_log_mel(waveform, self.num_mels, num_frames=self.context_frames, pad=not self.mask)

    def waveform(self, raw: Any) -> Float[np.ndarray, " samples"]:
        """Return mono samples at the processor's rate, at most ``longest_seconds`` long.

        Raises:
            DataError: as ``item``.
        """
        cut, name = self.too_long == "cut", "a waveform"
        if isinstance(raw, str | Path | bytes):
            samples, rate = read_audio(raw, max_seconds=self.longest_seconds, cut=cut)
            name = "audio in memory" if isinstance(raw, bytes) else str(raw)
        else:
            samples, rate = _samples_and_rate(raw, self.sample_rate_hz)
        if len(samples) > self.longest_seconds * rate and not cut:
            raise ItemError(
                f"{name} lasts {len(samples) / rate:.1f} s; max_seconds allows {self.longest_seconds:g}: take its beginning with "
                "too_long=cut, or cut it into pieces",
                "audio",
            )
        samples = resample(samples[: int(self.longest_seconds * rate)], rate, self.sample_rate_hz)
        return samples[: int(self.longest_seconds * self.sample_rate_hz)]  # resampling may round up to one sample more

    def collate(
        self, items: Sequence[Float[Tensor, "num_mels _"]]
    ) -> tuple[Float[Tensor, "batch num_mels frames"], Bool[Tensor, "batch frames"] | None]:
        """Pad clips at the end and stack them; the mask is True at real frames, or None if ``mask`` is off."""
        frames = torch.tensor([item.shape[1] for item in items])
        longest = self.context_frames if self.pad_to == "context" else int(frames.max())
        mels = torch.full((len(items), self.num_mels, longest), 0.0 if self._padding is None else self._padding)
        for row, item in zip(mels, items, strict=True):
            row[:, : item.shape[1]] = item
        return mels, torch.arange(longest) < frames[:, None] if self.mask else None

    def __call__(self, raw: Any) -> tuple[Float[Tensor, "batch num_mels frames"], Bool[Tensor, "batch frames"] | None]:
        """Process a list of raw clips, or check ready mels [batch, num_mels, frames]; trailing frames of the padding value are padding."""
        if isinstance(raw, Tensor):
            if raw.ndim != 3 or raw.shape[1] != self.num_mels or not raw.is_floating_point():
                raise DataError(
                    f"mels are {raw.dtype} of shape {list(raw.shape)}; allowed is a float tensor [batch, {self.num_mels}, frames], or a "
                    "list of clips"
                )
            return raw, self._real(raw) if self.mask else None
        return self.collate([self.item(clip) for clip in ([raw] if isinstance(raw, str | Path | bytes) else raw)])

    def meta(self, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Return an empty batch of the largest shape on the meta device, for checks of shapes."""
        mask = torch.empty(batch_size, self.context_frames, dtype=torch.bool, device="meta") if self.mask else None
        return torch.empty(batch_size, self.num_mels, self.context_frames, device="meta"), mask

    def _checked(self, mels: Tensor) -> Float[Tensor, "num_mels frames"]:
        frames, most = mels.shape[1], self.context_frames
        if not mels.is_floating_point() or len(mels) != self.num_mels or not (1 <= frames <= most if self.mask else frames == most):
            allowed = f"1 to {most}" if self.mask else f"{most}"
            raise ItemError(
                f"mels are {mels.dtype} of shape {list(mels.shape)}; allowed are float mels [{self.num_mels}, {allowed} frames], a "
                "waveform [samples], or (array, sample_rate_hz) for several channels or another sample rate",
                "audio",
            )
        return mels.float()

    def _real(self, mels: Float[Tensor, "batch num_mels frames"]) -> Bool[Tensor, "batch frames"]:
        """Return a mask of the real frames of ready mels: in each row, all up to the last frame that is not filled with the padding value.

        Ready features of an extractor of transformers are real everywhere, because no value is reserved for padding.
        """
        if self._padding is None:
            return torch.ones(len(mels), mels.shape[2], dtype=torch.bool, device=mels.device)
        sound = (mels != self._padding).any(1)  # [B, frames]
        positions = torch.arange(1, mels.shape[2] + 1, device=mels.device)
        return positions <= (sound * positions).amax(1, keepdim=True)


def _find_features(extractor: dict[str, Any] | None, spectrum: str, num_mels: int) -> HostedFeatures | ClapFeatures | None:
    """Return the front end that takes the place of Whisper's log-mel; None if that is used.

    Raises:
        ConfigError: both an extractor and another spectrum are given.
    """
    if spectrum == "whisper":
        return None if extractor is None else HostedFeatures(extractor)
    if extractor is not None:
        raise ConfigError(f"spectrum: {spectrum!r} and an extractor are two front ends; give one of them")
    return ClapFeatures(spectrum, num_mels)


def _refuse_channels(num_mels: int, channels: int) -> None:
    if num_mels != channels:
        raise ConfigError(f"num_mels: got {num_mels}; the extractor gives {channels} features per frame")


def _samples_and_rate(raw: Any, own_rate: int) -> tuple[Float[np.ndarray, " samples"], int]:
    """Return the mono samples and the sample rate in Hz of a raw clip that is not a file."""
    values, rate = raw if isinstance(raw, tuple) and len(raw) == 2 else (raw, own_rate)
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype is torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    if not isinstance(values, np.ndarray) or (values is raw and values.ndim != 1):
        kind = f"array {values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ItemError(
            f"a clip cannot be made from {kind}; give a path, the bytes of a file, samples [n] at {own_rate} Hz as an array, or "
            "(array, sample_rate_hz)",
            "audio",
        )
    return to_mono(values), checked_rate(rate)
