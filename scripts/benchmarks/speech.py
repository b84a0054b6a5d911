"""Tacotron 2 against torchaudio's, with equal weights; dropout is held on both sides, so that both do the same work and say the same."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from benchmarks.job import Entry, Job, need
from torch import Tensor, nn

from zoo.build import create_system
from zoo.convert import torchaudio_tacotron2
from zoo.types import MELS, Batch

CHARACTERS, FRAMES = 80, 200  # a sentence of LJSpeech, and two seconds and a third of it


def pair() -> tuple[nn.Module, nn.Module]:
    """The model of torchaudio in full size, and ours with its weights; neither drops anything, and neither stops by itself."""
    models = need("torchaudio.models", "torchaudio")
    reference = models.Tacotron2(n_symbol=38, decoder_max_step=FRAMES, decoder_dropout=0.0, attention_dropout=0.0)
    with torch.no_grad():
        reference.decoder.gate_layer.bias.fill_(-100.0)
    system = create_system(torchaudio_tacotron2.system_config(reference.state_dict()))
    system.load_state_dict(torchaudio_tacotron2.to_zoo(reference.state_dict()))
    system.head.decoder.prenet.dropout = system.head.decoder.hidden_dropout = 0.0
    for layer in (*system.encoders["text"].convolutions, *system.head.postnet):
        layer.dropout = 0.0
    return reference, system


@contextmanager
def held_dropout() -> Iterator[None]:
    """The dropout of torchaudio, which is partly on in evaluation too, passes everything."""
    with patch("torchaudio.models.tacotron2.F.dropout", lambda x, *words, **more: x), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the step limit was reached
        yield


def inference(size: int) -> Job:
    """Frames of ``size`` texts."""
    reference, system = (model.eval() for model in pair())
    token_ids, lengths = torch.randint(1, 38, (size, CHARACTERS)), torch.full((size,), CHARACTERS)

    @torch.inference_mode()
    def peer() -> Tensor:
        with held_dropout():
            return reference.infer(token_ids, lengths)[0]

    @torch.inference_mode()
    def ours() -> Tensor:
        return system.head.say(system.encode_ready("text", token_ids), max_steps=FRAMES).frames

    return Job(peer, ours, lambda: (peer() - ours()).abs().max().item())


def training_step(size: int) -> Job:
    """Forward with teacher forcing, the loss of NVIDIA's code, and backward, for ``size`` texts."""
    reference, system = (model.train() for model in pair())
    token_ids, lengths = torch.randint(1, 38, (size, CHARACTERS)), torch.full((size,), CHARACTERS)
    mels, frames = torch.randn(size, 80, FRAMES), torch.full((size,), FRAMES)
    ends = torch.zeros(size, FRAMES)
    ends[:, -1] = 1
    batch = Batch({"text": token_ids}, targets={MELS: mels})

    def theirs() -> Tensor:
        with held_dropout():
            before, after, stops, _ = reference(token_ids, lengths, mels, frames)
        stop = nn.functional.binary_cross_entropy_with_logits(stops, ends)
        return nn.functional.mse_loss(before, mels) + nn.functional.mse_loss(after, mels) + stop

    def step(model: nn.Module, loss: Tensor) -> None:
        model.zero_grad()
        loss.backward()

    def difference() -> float:
        return (theirs() - system(batch).loss).abs().item()

    return Job(lambda: step(reference, theirs()), lambda: step(system, system(batch).loss), difference)


ENTRIES = {
    "tacotron2_inference": Entry(inference, 1, "torchaudio Tacotron2", 1e-4, "tacotron2"),
    "tacotron2_training_step": Entry(training_step, 8, "torchaudio Tacotron2", 1e-4, "tacotron2"),
}
