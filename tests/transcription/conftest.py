"""Small openai-whisper model with random weights, and ours with the same weights."""

import functools
import warnings

import numpy as np
import pytest
import torch
import whisper
import whisper.timing

from zoo.encoders.whisper import WhisperEncoder
from zoo.interop.base.rules import to_zoo, under
from zoo.interop.whisper import encoder as encoder_convert
from zoo.interop.whisper.names import OPENAI
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.settings import Settings
from zoo.layers.whisper_decoder import WhisperDecoder
from zoo.processors.tokenizers.whisper_tokens import find_tiktoken, tiktoken_tokenizer
from zoo.processors.transcript import TranscriptProcessor

SHARPNESS = 5.0  # of the random models' scores
SPREADS = {"positional": 3.0, "cross_attn.value": 3.0, "cross_attn.out": 3.0}  # what is heard and where counts more than what was said
END = 1.5  # the end symbol's share, so that some texts end
VOCABULARIES = {False: 51864, True: 51865}


@pytest.fixture(scope="session", autouse=True)
def _vocabularies():
    """Read openai-whisper's once; it leaves its files to the garbage collector, which warns of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for name in ("gpt2", "multilingual"):
            whisper.tokenizer.get_encoding(name)
            whisper.tokenizer.get_encoding(name=name, num_languages=99)


@pytest.fixture(scope="session", autouse=True)
def _uncompiled():
    """Let openai-whisper's warping run as plain Python; compiling it would take longer than all tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("dtw_cpu", "backtrace"):
            patch.setattr(whisper.timing, name, getattr(whisper.timing, name).py_func)
        yield


@pytest.fixture(scope="session")
def symbols():
    """Whisper's own vocabularies."""
    found = {}

    def of(multilingual):
        if multilingual not in found:
            part = TranscriptProcessor(
                vocab_size=VOCABULARIES[multilingual], context_length=448, tokenizer="given", multilingual=multilingual
            )
            part.use(tiktoken_tokenizer(find_tiktoken(multilingual=multilingual)))
            found[multilingual] = part
        return found[multilingual]

    return of


class Pair:
    """The same weights in both."""

    def __init__(self, reference, symbols):
        dims, state = reference.dims, reference.state_dict()
        self.reference, self.symbols = reference, symbols
        self.encoder = WhisperEncoder(
            num_mels=dims.n_mels, dim=dims.n_audio_state, depth=dims.n_audio_layer, num_heads=dims.n_audio_head, pool="none"
        ).eval()
        self.encoder.load_state_dict(encoder_convert.to_zoo(state))
        sizes = {"vocab_size": dims.n_vocab, "dim": dims.n_text_state, "depth": dims.n_text_layer, "num_heads": dims.n_text_head}
        self.decoder = WhisperDecoder(context_length=dims.n_text_ctx, **sizes).eval()
        own = {name: tensor for name, tensor in state.items() if name.startswith("decoder.")}
        self.decoder.load_state_dict(to_zoo(own, under("decoder.", "", OPENAI.decoder_rules), origin=OPENAI.name))

    def recogniser(self, new_detector=lambda: None, **settings):
        return Recogniser(
            encode=self.encoder,
            decoder=self.decoder,
            symbols=self.symbols,
            num_mels=self.encoder.num_mels,
            alignment_heads=self.reference.alignment_heads.indices().T.tolist(),
            new_detector=new_detector,
            settings=Settings(**settings),
        )


@pytest.fixture(scope="session")
def pair(symbols):
    """Make a pair with weights so large that tokens differ within and between windows."""

    @functools.cache
    def make(multilingual=False, seed=0, text_context=32):
        torch.manual_seed(seed)
        dims = whisper.model.ModelDimensions(80, 1500, 12, 2, 1, VOCABULARIES[multilingual], text_context, 12, 3, 3)
        reference = whisper.model.Whisper(dims).eval()
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                std = next((std for part, std in SPREADS.items() if part in name), 0.6 if parameter.ndim > 1 else 0.3)
                parameter.copy_(torch.randn_like(parameter) * std + (parameter.ndim == 1) * 0.5)
            table = reference.decoder.token_embedding.weight
            table.copy_(SHARPNESS * torch.nn.functional.normalize(table, dim=1))  # long rows would win everywhere
            table[symbols(multilingual).eot] *= END
        return Pair(reference, symbols(multilingual))

    return make


@pytest.fixture(scope="session")
def sound():
    """Noise that grows louder, at 16 kHz."""

    def make(seconds, seed=0):
        samples = round(seconds * 16000)
        noise = np.random.default_rng(seed).standard_normal(samples)
        return (0.1 * noise * np.sin(np.linspace(0, 9, samples))).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def bursts():
    """Noise with pauses: stretches of noise and of silence in turn, at 16 kHz."""

    def make(*seconds, seed=0):
        noise = np.random.default_rng(seed).standard_normal
        parts = [0.1 * noise(round(s * 16000)) if i % 2 == 0 else np.zeros(round(s * 16000)) for i, s in enumerate(seconds)]
        return np.concatenate(parts).astype(np.float32)

    return make
