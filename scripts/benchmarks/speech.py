"""Speech benchmarks: Tacotron 2 against torchaudio, Whisper's decoder against openai-whisper and transformers.

Weights are equal. In Tacotron 2 dropout is disabled on both sides, so the outputs are equal. In Whisper the end-of-text token is
suppressed, so all decode the same number of tokens.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.job import Entry, Job, need
from torch import Tensor, nn

from zoo.assembly.create import create_system
from zoo.interop import tacotron2 as torchaudio_tacotron2
from zoo.interop.whisper import system as whisper_system
from zoo.language.transcription.rules import Rules
from zoo.language.transcription.search import begin, choose
from zoo.registry import find_part
from zoo.types import MELS, Batch

WHISPER, AUDIO_TOKENS, NEW_TOKENS = "whisper_base", 1500, 64
CHARACTERS, FRAMES = 80, 200  # characters of an LJSpeech sentence; 200 frames are 2.3 seconds


def pair() -> tuple[nn.Module, nn.Module]:
    """Return the full-size model of torchaudio and that of zoo with the same weights; dropout and stop prediction are disabled."""
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
    """Disable the dropout of torchaudio, part of which is active in evaluation too."""
    with patch("torchaudio.models.tacotron2.F.dropout", lambda x, *args, **kwargs: x), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warning that the step limit was reached
        yield


def inference(size: int) -> Job:
    """Generate spectrogram frames of ``size`` texts."""
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
    """Run a training step on ``size`` texts: forward with teacher forcing, the loss of NVIDIA's code, backward."""
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


def decoding(peer: Callable[[Any, Tensor, list[int], list[int]], Callable[[], Tensor]]) -> Callable[[int], Job]:
    """Return the benchmark of decoding 64 greedy tokens for each of ``size`` encoded windows.

    Blank and special tokens are suppressed, as in Whisper. The cross-attention to the recording is part of the work. The difference is the
    fraction of unequal tokens.
    """

    def make(size: int) -> Job:
        system = create_system(WHISPER)
        symbols, decoder = system.processor["transcript"], system.head.decoder  # type: ignore[index]
        prompt = [*symbols.start("en", "transcribe"), symbols.no_timestamps]
        never = [*symbols.suppressed, symbols.eot]
        encoded = torch.randn(size, AUDIO_TOKENS, decoder.dim)
        special = SimpleNamespace(eot=symbols.eot, timestamp_begin=symbols.timestamp_begin, suppressed=never, blank=[])
        rules = Rules(special, timestamps=False)  # type: ignore[arg-type]

        @torch.inference_mode()
        def ours() -> Tensor:
            memory = decoder.remember(encoded)
            begun = begin(decoder, memory, [prompt] * size, sot_place=0, no_speech=symbols.no_speech, most=NEW_TOKENS)
            texts = choose(begun, rules, most=NEW_TOKENS, temperature=0.0, count=1, seed=0, places=range(size))
            return torch.tensor([text.token_ids for (text,) in texts])

        theirs = peer(system, encoded, prompt, never)
        return Job(theirs, ours, lambda: (theirs() != ours()).float().mean().item())

    return make


def keywords(system: Any) -> list[dict[str, Any]]:
    """Return the constructor arguments of encoder and head, including defaults that the config omits."""
    found = []
    for kind, config in (("encoder", system.config["encoders"]["audio"]), ("head", system.config["head"])):
        defaults = {name: parameter.default for name, parameter in inspect.signature(find_part(kind, config["name"])).parameters.items()}
        found.append({**defaults, **config})
    return found


def openai_decoding(system: Any, encoded: Tensor, prompt: list[int], never: list[int]) -> Callable[[], Tensor]:
    """Return a function that decodes tokens with ``decode`` of openai-whisper and the same weights."""
    module = need("whisper", "openai-whisper")
    dims = whisper_system.dimensions(*keywords(system))
    model = module.model.Whisper(module.model.ModelDimensions(**dims)).eval()
    model.load_state_dict(whisper_system.from_zoo(system.state_dict(), origin="openai-whisper"))
    words = {"temperature": 0.0, "sample_len": NEW_TOKENS, "without_timestamps": True, "suppress_blank": False, "fp16": False}
    options = module.DecodingOptions(language="en", suppress_tokens=never, **words)

    def tokens() -> Tensor:
        return torch.tensor([result.tokens for result in module.decode(model, encoded, options)])

    return tokens


def transformers_decoding(system: Any, encoded: Tensor, prompt: list[int], never: list[int]) -> Callable[[], Tensor]:
    """Return a function that decodes new tokens with ``generate`` of transformers and the same weights."""
    transformers = need("transformers", "transformers")
    config = transformers.WhisperConfig(**whisper_system.config(*keywords(system)))
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.load_state_dict(whisper_system.from_zoo(system.state_dict()), strict=False)  # the state dict has the tied embedding once
    model.tie_weights()
    generate = transformers.GenerationMixin.generate  # the override of Whisper expects audio features
    words = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "suppress_tokens": never, "begin_suppress_tokens": None}
    settings = transformers.GenerationConfig(decoder_start_token_id=prompt[0], eos_token_id=None, pad_token_id=0, use_cache=True, **words)
    start = torch.tensor([prompt] * len(encoded))

    @torch.inference_mode()
    def tokens() -> Tensor:
        audio = transformers.modeling_outputs.BaseModelOutput(encoded)
        return generate(model, encoder_outputs=audio, decoder_input_ids=start, generation_config=settings)[:, len(prompt) :]

    return tokens


ENTRIES = {
    "whisper_decode": Entry(decoding(openai_decoding), 1, "openai-whisper decode, base", 0.0, "whisper_base"),
    "whisper_decode_transformers": Entry(decoding(transformers_decoding), 1, "transformers generate, Whisper base", 0.0),
    "tacotron2_inference": Entry(inference, 1, "torchaudio Tacotron2", 1e-4, "tacotron2"),
    "tacotron2_training_step": Entry(training_step, 8, "torchaudio Tacotron2", 1e-4, "tacotron2"),
}
