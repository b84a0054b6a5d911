"""Neural vocoders of other packages, which convert mels to waveforms, and the mel settings that each was trained with.

The Griffin-Lim algorithm needs no vocoder (``zoo.processors.media.griffin_lim``). References: the package ``vocos`` (Siuzdak 2023, arXiv
2306.00814); torchaudio ``pipelines.TACOTRON2_WAVERNN_CHAR_LJSPEECH``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.processors.media.tacotron_mel import Framing, expand

# The mel settings with which the published weights were trained; a vocoder cannot be used with other ones.
VOCODERS = ("griffin_lim", "wavernn", "vocos")
WAVERNN = Framing(sample_rate_hz=22050, num_fft=2048, window_samples=1100, hop_samples=275, num_mels=80, lowest_hz=40.0, highest_hz=11025.0)
VOCOS = Framing(sample_rate_hz=24000, num_fft=1024, window_samples=1024, hop_samples=256, num_mels=100, highest_hz=12000.0)
Vocoder = Callable[[Float[Tensor, "num_mels frames"]], Float[Tensor, " samples"]]


def find_vocoder(name: str, framing: Framing) -> Vocoder:
    """Load a vocoder for mels made with the settings of ``framing``.

    Args:
        name: "wavernn" (torchaudio's bundle); or "vocos", optionally followed by a colon and a hub name or folder of its weights.
        framing: settings with which the model's mels are made.

    Returns:
        A function from compressed mels [num_mels, frames] to a waveform [samples].

    Raises:
        ConfigError: the vocoder is unknown or not installed, or was trained with other mel settings.
        WeightsError: the weights cannot be downloaded.
    """
    kind, _, place = name.partition(":")
    if kind not in VOCODERS[1:]:
        raise ConfigError(f"vocoder: there is no {name!r}; {name_choices(name, VOCODERS)}")
    _refuse_other_mels(kind, framing)
    return _wavernn(framing) if kind == "wavernn" else _vocos(place or "charactr/vocos-mel-24khz", framing)


def _refuse_other_mels(kind: str, framing: Framing) -> None:
    required = WAVERNN if kind == "wavernn" else VOCOS
    # compression is not compared, because mels are converted to the vocoder's logarithm.
    for key in ("sample_rate_hz", "num_fft", "window_samples", "hop_samples", "num_mels", "lowest_hz", "highest_hz"):
        found, expected = getattr(framing, key), getattr(required, key)
        if found != expected:
            raise ConfigError(
                f"vocoder: {kind} was trained on mels with {key} {expected:g}, but this model's mels have {key} {found:g}; train with "
                f"system.processor.speech.{key}={expected:g}, or use griffin_lim"
            )


def _wavernn(framing: Framing) -> Vocoder:
    try:
        from torchaudio.pipelines import TACOTRON2_WAVERNN_CHAR_LJSPEECH as BUNDLE
    except ImportError as error:
        raise ConfigError("vocoder: wavernn needs torchaudio; install it with: zoo install audio") from error
    try:
        vocoder = BUNDLE.get_vocoder().eval()
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"vocoder: the weights of wavernn cannot be downloaded ({error}); the first use needs a network connection"
        ) from error

    def speak(mels: Tensor) -> Tensor:
        with torch.inference_mode():
            # 1e-5 is the smallest magnitude in the training of Tacotron 2 and this WaveRNN.
            waveforms, lengths = vocoder(expand(mels, framing).clamp(min=1e-5).log()[None], torch.tensor([mels.shape[1]]))
        return waveforms[0, : int(lengths[0])]

    return speak


def _vocos(place: str, framing: Framing) -> Vocoder:
    try:
        from vocos import Vocos  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("vocoder: vocos is not installed; install it with: zoo install vocoder") from error
    try:
        vocoder = Vocos.from_pretrained(place).eval()
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"vocoder: the weights {place!r} of vocos cannot be downloaded ({error}); the first use needs a network connection"
        ) from error

    def speak(mels: Tensor) -> Tensor:
        with torch.inference_mode():
            return vocoder.decode(expand(mels, framing).clamp(min=1e-7).log()[None])[0]  # 1e-7: vocos' safe_log

    return speak
