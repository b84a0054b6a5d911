"""Settings of the feature extractor beside a Whisper's weights, which have to be those of our spectrograms.

Reference: transformers 5.17 ``WhisperFeatureExtractor``. faster-whisper reads the same file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from zoo.errors import ConfigError
from zoo.interop.base.library_files import read_optional
from zoo.processors.media.log_mel import WHISPER

FILES = ("preprocessor_config.json", "processor_config.json")
FRAMES_PER_TOKEN = 2  # the encoder's second convolution halves the frames
FIXED = {  # our value of each setting
    "feature_extractor_type": "WhisperFeatureExtractor",
    "sampling_rate": WHISPER.sample_rate_hz,
    "hop_length": WHISPER.hop_samples,
    "n_fft": WHISPER.num_fft,
    "padding_value": 0.0,
    "padding_side": "right",
    "dither": 0.0,
    "do_normalize": False,
}
# The library's values for 30 s. It writes them also beside an encoder of another length, which then decides.
USUAL = {"chunk_length": 30, "n_samples": 480_000, "nb_max_frames": 3000}


def refuse_other_sound(directory: Path, encoder: Mapping[str, Any]) -> None:
    """Raise ConfigError if the feature extractor of a directory makes other spectrograms than ours.

    Args:
        encoder: keywords of the encoder beside it.
    """
    frames = FRAMES_PER_TOKEN * encoder["context_length"]
    samples = frames * WHISPER.hop_samples
    ours = {**FIXED, "feature_size": encoder["num_mels"]}
    sizes = {"chunk_length": samples / WHISPER.sample_rate_hz, "n_samples": samples, "nb_max_frames": frames}
    for name in FILES:
        found = read_optional(directory / name)
        settings = found.get("feature_extractor") or found
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{directory / name}: feature_extractor: got {settings!r}; allowed is an object: fetch the directory again")
        for key, value in ours.items():
            if settings.get(key) not in (None, value):
                _refuse(directory / name, key, settings[key], value)
        for key, value in sizes.items():
            if settings.get(key) not in (None, value, USUAL[key]):
                _refuse(directory / name, key, settings[key], value)


def _refuse(path: Path, key: str, got: Any, ours: Any) -> NoReturn:
    raise ConfigError(f"{path}: {key}: got {got!r}; our spectrograms have {ours!r}, and no other")
