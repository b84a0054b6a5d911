"""Feature extractors of transformers, which turn a waveform into the input of an audio model: the waveform itself, or mels.

Reference: transformers 5.17, ``feature_extraction_*.py``. The library's extractor runs on one clip at a time, so that a clip's features do
not depend on the other clips of its batch.
"""

import importlib
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError
from zoo.layers.hosted_transformers import import_transformers, quiet_and_offline

KIND = "feature_extractor_type"
SUFFIX = "FeatureExtractor"
NEEDLESS = ("processor_class", "transformers_version", "mel_filters", "mel_filters_slaney", "image_processor_type")
USUAL_SECONDS = 30.0  # longest clip of models that take any length
FRAMES_PER_SECOND = 100  # of extractors that give their length in frames (AST)
KALDI = "torchaudio.compliance.kaldi"  # filters of AST, Speech2Text and others


@contextmanager
def _with_values() -> Iterator[None]:
    """Let tensors be made on the CPU, even while a model is built on the meta device.

    The module ``KALDI`` makes a constant when it is imported. If that happened on the meta device, the constant has no value, and every
    later call would fail; the module is then loaded again.
    """
    with torch.device("cpu"):
        module = sys.modules.get(KALDI)
        constant = None if module is None else vars(module).get("EPSILON")
        if module is not None and isinstance(constant, Tensor) and constant.is_meta:
            importlib.reload(module)
        yield


def default_settings(model_type: str) -> dict[str, Any]:
    """Return the settings of the extractor that transformers has for a model type.

    Raises:
        ConfigError: it has none.
    """
    import_transformers()
    from transformers.models.auto.auto_mappings import FEATURE_EXTRACTOR_MAPPING_NAMES

    # transformers names another class for Wav2Vec2-BERT; its checkpoints hold that of SeamlessM4T.
    name = {**FEATURE_EXTRACTOR_MAPPING_NAMES, "wav2vec2-bert": "SeamlessM4TFeatureExtractor"}.get(model_type)
    if name is None:
        raise ConfigError(
            f"preprocessing.extractor: transformers has none for {model_type!r}; give the content of preprocessor_config.json"
        )
    return HostedFeatures({KIND: name}).settings


class HostedFeatures:
    """One extractor of transformers: a mono waveform at ``sample_rate_hz`` to features [channels, frames].

    Args:
        given: the content of ``preprocessor_config.json``; ``feature_extractor_type`` names the class.

    Raises:
        ConfigError: transformers has no such class, or refuses a setting.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        name, library = given.get(KIND), import_transformers()
        kind = getattr(library, name, None) if isinstance(name, str) and name.endswith(SUFFIX) else None
        if kind is None:
            raise ConfigError(f"extractor.{KIND}: transformers has no {name!r}; an example is Wav2Vec2FeatureExtractor")
        settings = {key: value for key, value in given.items() if key not in (KIND, *NEEDLESS)}
        try:
            with quiet_and_offline(), _with_values():
                self._extractor = kind(**settings)
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            raise ConfigError(f"extractor: {name} refuses these settings: {error}") from error
        kept = self._extractor.to_dict()
        self.settings: dict[str, Any] = {key: value for key, value in kept.items() if key not in NEEDLESS}
        self.sample_rate_hz = int(self._extractor.sampling_rate)

    def __call__(self, waveform: Float[np.ndarray, " samples"]) -> Float[Tensor, "channels frames"]:
        """Return the features of one clip."""
        found = self._raw(waveform)
        return torch.from_numpy(np.ascontiguousarray(found.T if self._layout[2] else found)).float()

    @property
    def channels(self) -> int:
        """Features per frame; 1 if they are the waveform."""
        return self._layout[0]

    @property
    def frames(self) -> int | None:
        """Number of frames of every clip; None if it depends on the clip."""
        return self._layout[1]

    @property
    def longest_seconds(self) -> float:
        """Length of the longest clip of which nothing is cut off."""
        if self.frames is None:
            return USUAL_SECONDS
        samples = self.settings.get("n_samples") or self.settings.get("nb_max_samples")
        return samples / self.sample_rate_hz if samples else self.frames / FRAMES_PER_SECOND

    @property
    def limit_seconds(self) -> float:
        """Largest value of ``max_seconds``: any length, or that of the extractor."""
        return math.inf if self.frames is None else self.longest_seconds

    def frames_of(self, seconds: float) -> int:
        """Return the number of frames of a clip of this length."""
        samples = int(seconds * self.sample_rate_hz)
        if self.frames is not None or self.channels == 1:
            return self.frames or samples
        return self(np.zeros(samples, dtype=np.float32)).shape[1]

    @cached_property
    def _layout(self) -> tuple[int, int | None, bool]:
        """Find channels, fixed number of frames and if frames come first, from noise of two lengths."""
        noise = np.random.default_rng(0).standard_normal(self.sample_rate_hz).astype(np.float32)
        short, long = (self._raw(noise[: int(self.sample_rate_hz * share)]).shape for share in (0.5, 0.8))
        if short != long:
            frames_first = short[0] != long[0]
            return short[1 if frames_first else 0], None, frames_first
        frames_first = short[0] != self.settings.get("feature_size")  # of a fixed shape, Whisper's features come first
        return short[1 if frames_first else 0], short[0 if frames_first else 1], frames_first

    def _raw(self, waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "a b"]:
        """Call the library; a waveform gets an axis of one channel, and of CLAP's four equal channels one is kept."""
        with quiet_and_offline(), _with_values():
            output = self._extractor(waveform, sampling_rate=self.sample_rate_hz, return_tensors="np")
        found = np.asarray(output[self._extractor.model_input_names[0]][0])
        if found.ndim == 1:
            return found[None]
        found = found[0] if found.ndim == 3 else found
        mask = output.get("attention_mask")
        # Frames of padding, which some extractors add up to an even number, are left out.
        return found[: int(mask[0].sum())] if mask is not None and mask.shape[1] == len(found) else found
