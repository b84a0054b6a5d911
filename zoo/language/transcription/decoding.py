"""Batched decoding of windows of recordings to text, with temperature fallback.

Reference: openai-whisper ``transcribe.py``, ``decode_with_fallback``, and ``decoding.py``, ``DecodingTask``.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.language.transcription.rules import LATEST_START, Rules, Symbols
from zoo.language.transcription.search import Text, beams, begin, choose, likeliest, room
from zoo.language.transcription.settings import Settings
from zoo.layers.memory import Memory
from zoo.layers.whisper_decoder import WhisperDecoder
from zoo.processors.media.voice_activity import Detector

MOST_TRIES = 32  # temperatures per window; spaces the numbers that seed the sampling so that no two tries share one


@dataclass(frozen=True)
class Window:
    """A window of a recording to decode.

    Attributes:
        mels: log-mel spectrogram of the window, without padding; at most as many frames as the encoder accepts.
        start: first frame of the window in the recording.
        language: language code of the speech.
        previous: token ids of the preceding text, used as prompt.
        can_split: a text that repeats itself is not decoded at higher temperatures, because the window can be decoded in pieces instead.
    """

    mels: Float[Tensor, "num_mels frames"]
    start: int
    language: str
    previous: tuple[int, ...] = ()
    can_split: bool = False


@dataclass(frozen=True)
class Decoded:
    """Decoding result of one window.

    Attributes:
        token_ids: text and timestamp tokens.
        text: decoded text, without special tokens.
        temperature: temperature at which the text was decoded.
        average_log_probability: mean log-probability of the tokens, including the end token.
        compression_ratio: bytes of the text / bytes of the text compressed by zlib.
        no_speech_probability: probability of the no-speech token.
        memory: cross-attention keys and values of this window.
    """

    token_ids: list[int]
    text: str
    temperature: float
    average_log_probability: float
    compression_ratio: float
    no_speech_probability: float
    memory: Memory


class Recogniser:
    """Speech recogniser: audio encoder, Whisper decoder, tokenizer and settings.

    Args:
        encode: function from mels [windows, num_mels, frames] and an optional mask of their frames to an ``Encoded``.
        symbols: tokenizer with Whisper's special tokens.
        window_frames: number of frames of a full window, the encoder's maximum.
        tail_frames: frames of silence that short mode appends to a window. Without them, a model that was trained on padded windows
            repeats itself.
        new_detector: function that makes a voice-activity detector for one recording, or None to transcribe it as a whole.
        leaves_out_silence: leave out the long pauses that the detector finds; False uses it only to cut fixed windows at pauses.
        alignment_heads: pairs (layer, head) of the cross-attention heads used for word times; None uses all heads of the upper half of
            the layers, as openai-whisper does.
        latest_start: maximum of a window's first timestamp, in steps of 20 ms.
        most_tokens: function from the length of a prompt to the maximum number of tokens of its text; None is half the context, as in
            openai-whisper.

    Raises:
        ConfigError: the model does not support the settings.
    """

    def __init__(
        self,
        *,
        encode: Callable[[Tensor, Tensor | None], Any],
        decoder: WhisperDecoder,
        symbols: Symbols,
        num_mels: int,
        window_frames: int = 3000,
        tail_frames: int = 0,
        alignment_heads: Sequence[Sequence[int]] | None = None,
        new_detector: Callable[[], Detector | None] = lambda: None,
        leaves_out_silence: bool = True,
        settings: Settings,
        latest_start: int = LATEST_START,
        most_tokens: Callable[[int], int] | None = None,
    ) -> None:
        self.encode, self.decoder, self.symbols = encode, decoder, symbols
        self.num_mels, self.window_frames, self.tail_frames = num_mels, window_frames, tail_frames
        depth, num_heads = len(decoder.blocks), decoder.num_heads
        # The reference's default for models without listed alignment heads.
        upper = [(layer, head) for layer in range(depth // 2, depth) for head in range(num_heads)]
        self.alignment_heads = upper if alignment_heads is None else [(layer, head) for layer, head in alignment_heads]
        self.new_detector, self.leaves_out_silence = new_detector, leaves_out_silence
        self.settings = settings
        self.device = decoder.embedding.weight.device
        self.with_times = settings.timestamps is not False
        self.most_tokens = (lambda length: room(decoder, length)) if most_tokens is None else most_tokens
        self.rules = Rules(
            symbols,
            timestamps=self.with_times,
            device=self.device,
            suppressed=settings.suppress_tokens,
            blank=settings.begin_suppress_tokens,
            latest_start=latest_start,
        )
        self._refuse()

    def remember(self, pieces: Sequence[Float[Tensor, "num_mels _"]]) -> Memory:
        """Encode windows of recordings; returns the decoder's cross-attention keys and values.

        Each window is padded to a full window, or in short mode by ``tail_frames``.
        """
        # Padding is zero as in the reference, although silence has lower log-mel values.
        short = bool(self.settings.short)
        frames = torch.tensor([min(piece.shape[1] + self.tail_frames, self.window_frames) for piece in pieces])
        length = int(frames.max()) if short else self.window_frames
        mels = pieces[0].new_zeros(len(pieces), self.num_mels, length)
        for row, piece in zip(mels, pieces, strict=True):
            row[:, : piece.shape[1]] = piece
        mask = torch.arange(length) < frames[:, None] if short else None
        encoded = self.encode(mels, mask)
        return self.decoder.remember(encoded.tokens, encoded.mask if short else None)

    @torch.inference_mode()
    def decode(self, windows: Sequence[Window]) -> list[Decoded]:
        """Decode a batch of windows; the text of a window does not depend on the others.

        A text that fails a threshold of the settings is decoded again at the next temperature.

        Raises:
            DataError: the model's scores are not finite.
        """
        memory = self.remember([window.mels for window in windows])
        found: dict[int, Decoded] = {}
        waiting = list(range(len(windows)))
        # As in the reference, the text of the last temperature counts even if it fails the thresholds.
        for number, temperature in enumerate(self.settings.tries):
            tried = self._try([windows[i] for i in waiting], _rows(memory, waiting, len(windows)), temperature, number)
            found |= dict(zip(waiting, tried, strict=True))
            waiting = [i for i in waiting if self._is_bad(found[i]) and not (windows[i].can_split and self.repeats(found[i]))]
            if not waiting:
                break
        return [found[i] for i in range(len(windows))]

    def identify(self, mels: Float[Tensor, "num_mels frames"]) -> str:
        """Return the code of the most probable language of a full window.

        Raises:
            ConfigError: the model is not multilingual.
        """
        languages = self.symbols.languages
        if not languages:
            raise ConfigError("language: this model is not multilingual, so that it cannot detect a language; set the language")
        with torch.inference_mode():
            start = torch.tensor([[self.symbols.sot]], device=self.device)
            logits = self.decoder(start, self.remember([mels]))[0, 0]
        ids = torch.tensor(list(languages.values()), device=self.device)
        return list(languages)[int(logits[ids].argmax())]

    def prompt(self, window: Window) -> tuple[list[int], int]:
        """Return the token ids before the text, and the index in them of the start-of-transcript token."""
        start = self.symbols.start(window.language, self.settings.task)
        start = start if self.with_times else [*start, self.symbols.no_timestamps]
        # Previous text takes at most half the context, minus the token in front of it; the other half is for the transcript.
        kept = list(window.previous[-(self.decoder.context_length // 2 - 1) :])
        before = [self.symbols.sot_prev, *kept] if kept else []
        return before + start, len(before)

    def _try(self, windows: Sequence[Window], memory: Memory, temperature: float, number: int) -> list[Decoded]:
        """Decode at one temperature; windows whose prompts have equal length form one batch."""
        prompts = [self.prompt(window) for window in windows]
        # Prompts are not padded, because the decoder's positions count from the first token of a row.
        groups: dict[tuple[int, int], list[int]] = {}
        for i, (prompt, sot_place) in enumerate(prompts):
            groups.setdefault((len(prompt), sot_place), []).append(i)
        found: dict[int, Decoded] = {}
        for (length, sot_place), members in groups.items():
            most, part = self.most_tokens(length), _rows(memory, members, len(windows))
            begun = begin(
                self.decoder,
                part,
                [prompts[i][0] for i in members],
                sot_place=sot_place,
                no_speech=self.symbols.no_speech,
                most=most,
            )
            silence = begun.no_speech
            texts = self._texts(begun, most, temperature, [windows[i].start * MOST_TRIES + number for i in members])
            for place, i in enumerate(members):
                own = _rows(memory, [i], len(windows))
                found[i] = self._decoded(likeliest(texts[place], self.settings.length_penalty), temperature, silence[place], own)
        return [found[i] for i in range(len(windows))]

    def _texts(self, begun: Any, most: int, temperature: float, places: Sequence[int]) -> list[list[Text]]:
        settings = self.settings
        if temperature == 0 and settings.num_beams is not None:
            return beams(begun, self.rules, most=most, num_beams=settings.num_beams, patience=settings.patience or 1.0)
        count = (settings.best_of or 1) if temperature > 0 else 1
        return choose(begun, self.rules, most=most, temperature=temperature, count=count, seed=settings.seed, places=places)

    def _decoded(self, text: Text, temperature: float, silence: float, memory: Memory) -> Decoded:
        average = text.log_probability / (len(text.token_ids) + 1)  # + 1: the end token
        if average != average:  # NaN
            raise DataError("the model's scores are not finite (NaN); check its weights and its precision")
        plain = self.symbols.decode(text.token_ids).strip()
        return Decoded(text.token_ids, plain, temperature, average, compression_ratio(plain), silence, memory)

    def _is_bad(self, decoded: Decoded) -> bool:
        """Return True if the text repeats itself or is improbable; an improbable text of a silent window is accepted."""
        settings = self.settings
        improbable = settings.log_probability_threshold is not None and decoded.average_log_probability < settings.log_probability_threshold
        return (self.repeats(decoded) or improbable) and not (
            improbable and _above(decoded.no_speech_probability, settings.no_speech_threshold)
        )

    def repeats(self, decoded: Decoded) -> bool:
        """Return True if the text repeats itself: zlib compresses it too well."""
        return _above(decoded.compression_ratio, self.settings.compression_ratio_threshold)

    def is_silent(self, decoded: Decoded) -> bool:
        """Return True if the window has no speech: a high no-speech probability, and an improbable text."""
        limit = self.settings.log_probability_threshold
        probable = limit is not None and decoded.average_log_probability > limit
        return _above(decoded.no_speech_probability, self.settings.no_speech_threshold) and not probable

    def _refuse(self) -> None:
        """Raise ConfigError unless the model supports the settings."""
        if self.with_times and self.symbols.timestamp_begin >= self.decoder.vocab_size:
            raise ConfigError("timestamps: true, but this model's vocabulary has no timestamp tokens; set timestamps to false")
        # Raises if the model does not know the language or the task.
        self.symbols.start(self.settings.language, self.settings.task)


def compression_ratio(text: str) -> float:
    """Return bytes of the text / bytes compressed by zlib: about 8.3 for 'a' a hundred times, 0.9 for a short sentence."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def _above(value: float, threshold: float | None) -> bool:
    return threshold is not None and value > threshold


def _rows(memory: Memory, rows: Sequence[int], count: int) -> Memory:
    """Select rows of a memory; returns views for all rows or a single row, copies otherwise."""
    if list(rows) == list(range(count)):
        return memory
    if len(rows) == 1:
        at = slice(rows[0], rows[0] + 1)
        return Memory(memory.keys[:, at], memory.values[:, at], None if memory.mask is None else memory.mask[at])
    return memory.select(torch.tensor(rows, device=memory.keys.device))
