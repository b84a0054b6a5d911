"""Mels to waveforms by other people's neural vocoders, each with the mels that it was trained on.

Griffin-Lim needs none of them (``zoo.processors.media.griffin_lim``). References: torchaudio ``pipelines.TACOTRON2_WAVERNN_CHAR_LJSPEECH``; the package
``vocos`` (Siuzdak 2023, arXiv 2306.00814).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.processors.media.tacotron_mel import Framing, expand

VOCODERS = ("griffin_lim", "wavernn", "vocos")
WAVERNN = Framing(sample_rate_hz=22050, num_fft=2048, window_samples=1100, hop_samples=275, num_mels=80, lowest_hz=40.0, highest_hz=11025.0)
VOCOS = Framing(sample_rate_hz=24000, num_fft=1024, window_samples=1024, hop_samples=256, num_mels=100, highest_hz=12000.0)
Vocoder = Callable[[Float[Tensor, "num_mels frames"]], Float[Tensor, " samples"]]


def find_vocoder(name: str, framing: Framing) -> Vocoder:
    """A vocoder for mels that are made as ``framing`` says.

    Args:
        name: "wavernn" (torchaudio's bundle), or "vocos" with the hub's name or the folder of its weights behind a colon.

    Raises:
        ConfigError: there is none, it is not installed, or it was trained on other mels.
        WeightsError: its weights cannot be fetched.
    """
    kind, _, place = name.partition(":")
    if kind not in VOCODERS[1:]:
        raise ConfigError(f"vocoder: there is no {name!r}; {name_choices(name, VOCODERS)}")
    _refuse_other_mels(kind, framing)
    return _wavernn(framing) if kind == "wavernn" else _vocos(place or "charactr/vocos-mel-24khz", framing)


def _refuse_other_mels(kind: str, framing: Framing) -> None:
    wanted = WAVERNN if kind == "wavernn" else VOCOS
    for key in ("sample_rate_hz", "num_fft", "window_samples", "hop_samples", "num_mels", "lowest_hz", "highest_hz"):
        ours, theirs = getattr(framing, key), getattr(wanted, key)
        if ours != theirs:
            raise ConfigError(
                f"vocoder: {kind} was trained on mels with {key} {theirs:g}, this model's are made with {ours:g}; train with "
                f"system.processor.speech.{key}={theirs:g}, or use griffin_lim"
            )


def _wavernn(framing: Framing) -> Vocoder:
    try:
        from torchaudio.pipelines import TACOTRON2_WAVERNN_CHAR_LJSPEECH as BUNDLE
    except ImportError as error:
        raise ConfigError("vocoder: wavernn is torchaudio's; pip install 'multimodal-zoo[audio]'") from error
    try:
        vocoder = BUNDLE.get_vocoder().eval()
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"vocoder: the weights of wavernn cannot be fetched ({error}); they need a network once") from error

    def speak(mels: Tensor) -> Tensor:
        with torch.inference_mode():
            waveforms, lengths = vocoder(expand(mels, framing).clamp(min=1e-5).log()[None], torch.tensor([mels.shape[1]]))
        return waveforms[0, : int(lengths[0])]

    return speak


def _vocos(place: str, framing: Framing) -> Vocoder:
    try:
        from vocos import Vocos  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("vocoder: vocos is not installed; pip install 'multimodal-zoo[vocoder]'") from error
    try:
        vocoder = Vocos.from_pretrained(place).eval()
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"vocoder: the weights {place!r} of vocos cannot be fetched ({error}); they need a network once") from error

    def speak(mels: Tensor) -> Tensor:
        with torch.inference_mode():
            return vocoder.decode(expand(mels, framing).clamp(min=1e-7).log()[None])[0]

    return speak
