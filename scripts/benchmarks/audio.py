"""Audio benchmarks: log-mel and encoder of Whisper against openai-whisper, and clips without padding against padding to 30 s."""

from collections.abc import Callable

import numpy as np
import torch
from benchmarks.job import Entry, Job, need
from torch import Tensor

from zoo.assembly.create import create_model
from zoo.interop.whisper import encoder as whisper
from zoo.processors.audio import AudioProcessor
from zoo.processors.media.log_mel import whisper_log_mel
from zoo.storage.tensors import load_strictly

RATE_HZ = 16000
CONTEXT_SECONDS = 30


def log_mel(size: int) -> Job:
    """Compute log-mel spectrograms of ``size`` clips of 30 s, one by one; run it with --threads 1."""
    module = need("whisper.audio", "openai-whisper")
    clips = [torch.randn(CONTEXT_SECONDS * RATE_HZ) * 0.1 for _ in range(size)]

    def peer() -> list[Tensor]:
        return [module.log_mel_spectrogram(clip) for clip in clips]

    def ours() -> list[Tensor]:
        return [whisper_log_mel(clip, num_frames=3000) for clip in clips]

    return Job(peer, ours, lambda: max((a - b).abs().max().item() for a, b in zip(peer(), ours(), strict=True)))


def encoder(name: str) -> Callable[[int], Job]:
    """Return the benchmark of the encoder's forward pass on ``size`` clips of 30 s."""

    def make(size: int) -> Job:
        model = create_model(name)
        config = model.config["encoder"]
        sizes = (config.get("num_mels", 80), 1500, *(config[key] for key in ("dim", "num_heads", "depth")))
        reference = need("whisper.model", "openai-whisper").AudioEncoder(*sizes).eval()
        load_strictly(model, whisper.to_zoo({f"encoder.{k}": v for k, v in reference.state_dict().items()}), origin="openai-whisper")
        mels = torch.randn(size, sizes[0], 3000)

        @torch.inference_mode()
        def peer() -> Tensor:
            return reference(mels)

        @torch.inference_mode()
        def ours() -> Tensor:
            return model(mels).tokens

        return Job(peer, ours, lambda: (peer() - ours()).abs().max().item())

    return make


def short_clip(silence: int) -> Callable[[int], Job]:
    """Return the benchmark of processor and encoder on clips of 3 s: padded to 30 s (the reference) and not padded.

    The difference compares the masked encoder with and without padding. The padded reference run has no mask, so its outputs also depend
    on the silence.

    Args:
        silence: seconds of silence appended to each clip in the unpadded run; ``zoo transcribe`` uses four.
    """

    def entry(size: int) -> Job:
        model = create_model("whisper_tiny_encoder")
        clips = [(torch.randn(3 * RATE_HZ) * 0.1).numpy() for _ in range(size)]
        shown = [np.concatenate([clip, np.zeros(silence * RATE_HZ, dtype=np.float32)]) for clip in clips]
        strict, short = AudioProcessor(pad_to="context", mask=False), AudioProcessor()

        @torch.inference_mode()
        def run(processor: AudioProcessor, sounds: list[np.ndarray]) -> Tensor:
            return model(*processor(sounds)).tokens

        @torch.inference_mode()
        def difference() -> float:
            longer = model(*AudioProcessor(pad_to="context")(shown)).tokens[:, : 50 * (3 + silence)]
            return (run(short, shown) - longer).abs().max().item()

        return Job(lambda: run(strict, clips), lambda: run(short, shown), difference)

    return entry


ENTRIES = {
    "log_mel": Entry(log_mel, 4, "openai-whisper", 2e-6),
    "whisper_encoder": Entry(encoder("whisper_tiny_encoder"), 1, "openai-whisper tiny", 1e-4),
    "whisper_encoder_base": Entry(encoder("whisper_base_encoder"), 1, "openai-whisper base", 1e-4),
    "whisper_short_clip": Entry(short_clip(silence=0), 1, "padding to 30 s", 1e-4),
    "whisper_short_clip_silence": Entry(short_clip(silence=4), 1, "padding to 30 s", 1e-4),
}
