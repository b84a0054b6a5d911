"""Transcript processor: converts the texts of recordings to Whisper's token ids for training, and token ids back to text.

Paper: Radford et al. 2022 (arXiv 2212.04356), section 2.3. Reference: openai-whisper ``tokenizer.py``.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.processors.tokenizers.chat_tokenizer import SMALLEST_VOCABULARY, train_tokenizer
from zoo.processors.tokenizers.tokenizer_file import read_tokenizer_file
from zoo.processors.tokenizers.whisper_generation import Generation
from zoo.processors.tokenizers.whisper_languages import language_code
from zoo.processors.tokenizers.whisper_tokens import (
    LANGUAGES,
    SECONDS_PER_TIMESTAMP,
    TASKS,
    SpecialIds,
    non_speech_ids,
    plain_tokenizer,
    without_unknown,
)
from zoo.registry import register
from zoo.types import SUPERVISED, Batch, ModalityProcessor, Sample

TOKENIZERS = ("trained", "characters", "given")
WHISPER_LANGUAGES, WHISPER_TIMESTAMPS = 99, 1501  # in the published models before large-v3; timestamps are 0 to 30 s
WHISPER_VOCABULARY = 51864  # smallest published vocabulary, of the English-only models


@register("processor")
class TranscriptProcessor(ModalityProcessor):
    """Conversion of texts to token ids: ``<|startoftranscript|><|en|><|transcribe|><|notimestamps|> text<|endoftext|>``.

    The preceding text may come first, as ``<|startofprev|> text``. With timestamps, each segment is enclosed by two of them. If the
    recording contains no speech, the text is ``<|nospeech|>``. English-only models have no language and task tokens. All tokens are
    supervised except the preceding text and the start symbol.

    Args:
        vocab_size: size of the decoder's vocabulary; special tokens have its last ids, the base vocabulary the ids before them.
        context_length: maximum number of tokens; longer transcripts raise an error. The preceding text may use half of it.
        tokenizer: origin of the base vocabulary: "trained" (byte-level BPE trained on a run's texts), "characters" (one token per
            character of these texts), or "given" (loaded with the weights; without it only token ids are accepted).
        multilingual: put language and task tokens into transcripts.
        num_languages: number of language ids; English-only models of Whisper also have them, but do not use them. None means 99 if the
            vocabulary is as large as Whisper's, otherwise 0.
        num_timestamps: number of timestamp ids, one per 20 ms from 0 s on. None means 1501 if the vocabulary is as large as
            Whisper's, otherwise 0.
        timestamps: use timestamps for samples that have segments.
        language: language code of samples that name none.
        task: task of samples that name none, "transcribe" or "translate" (to English).
        generation: decoding settings that came with the weights; the keys are the attributes of ``Generation``.

    Raises:
        ConfigError: a name is unknown, or the vocabulary is too small for its special tokens.
    """

    target = True  # fills targets of a head, beside the encoders' inputs
    modality = "text"  # the modality of samples that it reads
    context_length: int
    head_keys = ("vocab_size", "context_length")  # taken from the head if not given, and never larger than the head's
    tokenizer_file = "transcript_tokenizer.json"

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        tokenizer: str = "trained",
        multilingual: bool = False,
        num_languages: int | None = None,
        num_timestamps: int | None = None,
        timestamps: bool = False,
        language: str = "en",
        task: str = "transcribe",
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        if tokenizer not in TOKENIZERS:
            raise ConfigError(f"tokenizer: there is no {tokenizer!r}; {name_choices(tokenizer, TOKENIZERS)}")
        large = vocab_size >= WHISPER_VOCABULARY
        num_languages = (WHISPER_LANGUAGES if large else 0) if num_languages is None else num_languages
        num_timestamps = (WHISPER_TIMESTAMPS if large else 0) if num_timestamps is None else num_timestamps
        if not 0 <= num_languages <= len(LANGUAGES) or num_timestamps < 0 or (multilingual and not num_languages):
            raise ConfigError(
                f"num_languages: {num_languages}, num_timestamps: {num_timestamps}; allowed are 0 to {len(LANGUAGES)} languages "
                "(multilingual: 1 or more) and 0 or more timestamps"
            )
        self.generation = Generation.of(generation)
        self.ids = SpecialIds.of(vocab_size, num_languages, num_timestamps)
        smallest = SMALLEST_VOCABULARY.get(tokenizer, 1)
        if self.ids.base < smallest:
            raise ConfigError(
                f"vocab_size: {vocab_size} is too small; {vocab_size - self.ids.base} are special tokens ({num_languages} languages, "
                f"{num_timestamps} timestamps), and tokenizer {tokenizer} needs at least {smallest} more: raise it, or lower num_timestamps"
            )
        self.vocab_size, self.context_length, self.source, self.timestamps = vocab_size, context_length, tokenizer, timestamps
        self.is_multilingual, self.language, self.task = multilingual, language, task
        self.start(language, task)  # raises if the defaults are not allowed
        self.tokenizer: Tokenizer | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords, for ``processor.json``."""
        counts = {"num_languages": self.ids.num_languages, "num_timestamps": self.ids.num_timestamps}
        own = {key: getattr(self, key) for key in ("vocab_size", "context_length", "timestamps", "language", "task")}
        known = {"generation": self.generation.settings} if self.generation.settings else {}
        return {**own, **counts, "tokenizer": self.source, "multilingual": self.is_multilingual, **known}

    # Ids of special tokens.

    @property
    def eot(self) -> int:
        """Id of the end of the text."""
        return self.ids.base

    @property
    def sot(self) -> int:
        """Id of the start of the transcript."""
        return self.ids.sot

    @property
    def sot_prev(self) -> int:
        """Id of the start of the preceding text."""
        return self.ids.task("startofprev")

    @property
    def sot_lm(self) -> int:
        """Id of the start of a text without a recording."""
        return self.ids.task("startoflm")

    @property
    def no_speech(self) -> int:
        """Id of the token for a recording without speech."""
        return self.ids.task("nospeech")

    @property
    def no_timestamps(self) -> int:
        """Id of the token for a transcript without timestamps."""
        return self.ids.task("notimestamps")

    @property
    def transcribe(self) -> int:
        """Id of the task to transcribe the speech in its language."""
        return self.ids.task("transcribe")

    @property
    def translate(self) -> int:
        """Id of the task to translate the speech to English."""
        return self.ids.task("translate")

    @property
    def timestamp_begin(self) -> int:
        """Id of the timestamp of 0 s; the others follow in steps of 20 ms."""
        return self.ids.timestamp_begin

    @property
    def languages(self) -> dict[str, int]:
        """Ids of the languages by code; empty if the model is English-only."""
        if not self.is_multilingual:
            return {}
        return self.ids.languages if self.generation.languages is None else dict(self.generation.languages)

    @property
    def suppressed(self) -> tuple[int, ...]:
        """Ids that transcripts must not contain: those that came with the weights, or else ``unspoken``."""
        return self.unspoken if self.generation.suppress_tokens is None else self.generation.suppress_tokens

    @property
    def blank(self) -> tuple[int, ...]:
        """Ids with which transcripts must not begin: those that came with the weights, or else ``empty_beginnings``."""
        return self.empty_beginnings if self.generation.begin_suppress_tokens is None else self.generation.begin_suppress_tokens

    @cached_property
    def unspoken(self) -> tuple[int, ...]:
        """Ids of special tokens and, in Whisper's own vocabulary, non-speech symbols; in rising order."""
        special = {self.transcribe, self.translate, self.sot, self.sot_prev, self.sot_lm, self.no_speech}
        own = non_speech_ids(self.encode) if self.source == "given" and self.tokenizer is not None else set()
        return tuple(sorted(special | own))  # in a trained vocabulary, all symbols come from transcripts

    @cached_property
    def empty_beginnings(self) -> tuple[int, ...]:
        """Ids that begin an empty text: the end symbol and, in Whisper's own vocabulary, a single space."""
        own = self.encode(" ") if self.source == "given" and self.tokenizer is not None else ()
        return (*own, self.eot)

    def start(self, language: str | None = None, task: str | None = None) -> list[int]:
        """Return the ids at the start of a transcript: the start symbol and, in a multilingual model, language and task.

        Args:
            language: code, name or tag of a language; None means the processor's default.
            task: "transcribe" or "translate"; None means the processor's default.

        Raises:
            ConfigError: the model does not have this language or task.
        """
        language, task = language or self.language, task or self.task
        if task not in TASKS:
            raise ConfigError(f"task: there is no {task!r}; {name_choices(task, TASKS)}")
        code = language_code(language)
        if not self.is_multilingual:
            if code != "en" or task != "transcribe":
                raise ConfigError(f"language: {language!r}, task: {task!r}; this model only transcribes English: use a multilingual model")
            return [self.sot]
        if code not in self.languages:
            raise ConfigError(
                f"language: there is no {language!r} among the {len(self.languages)} of this model; {name_choices(code, self.languages)}"
            )
        return [self.sot, self.languages[code], self.ids.task(task)]

    # The tokenizer of the base vocabulary.

    @property
    def is_fitted(self) -> bool:
        """True if the processor has a tokenizer."""
        return self.tokenizer is not None

    def fit(self, captions: Iterable[str]) -> None:
        """Train the tokenizer; the result depends only on the set of texts, not on their order.

        Raises:
            ConfigError: ``tokenizer`` is "given", or the texts have more characters than the base vocabulary has ids.
        """
        if self.source == "given":
            raise ConfigError(
                "system.processor.transcript.tokenizer: given, but there is no tokenizer and it cannot be trained: "
                f"{self._how_to_get_one()}"
            )
        texts = [_spaced(caption) for caption in captions]
        self.use(train_tokenizer(texts, vocab_size=self.ids.base, kind=self.source).tokenizer)

    def use(self, tokenizer: Tokenizer) -> None:
        """Use an existing tokenizer without its special tokens; those of this processor are the ids after the base vocabulary.

        Raises:
            WeightsError: the tokenizer's special tokens have other ids.
        """
        self.tokenizer = plain_tokenizer(tokenizer, self.ids)
        # These cached properties depend on the tokenizer.
        for name in ("unspoken", "empty_beginnings"):
            self.__dict__.pop(name, None)

    def save(self, directory: Path) -> None:
        """Write the tokenizer if there is one."""
        if self.tokenizer is not None:
            self.tokenizer.save(str(directory / self.tokenizer_file))

    def load(self, directory: Path) -> None:
        """Read the tokenizer written by ``save``, if there is one."""
        if (path := directory / self.tokenizer_file).exists():
            self.use(read_tokenizer_file(path))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text without special tokens; unknown characters are left out.

        Raises:
            DataError: there is no tokenizer.
        """
        return list(without_unknown(self._known, text))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens and timestamps; incomplete UTF-8 sequences become U+FFFD.

        Raises:
            DataError: there is no tokenizer.
        """
        return self._known.decode([int(i) for i in token_ids if i < self.eot or i >= self.ids.end])

    @property
    def _known(self) -> Tokenizer:
        if self.tokenizer is None:
            raise DataError(f"this system has no tokenizer for transcripts yet: {self._how_to_get_one()}; or pass token ids")
        return self.tokenizer

    def _how_to_get_one(self) -> str:
        if self.source == "given":
            return "the weights came without one; put the model's tokenizer.json beside them, or install openai-whisper and load them again"
        return "train the system, or load trained weights"

    # Samples.

    def item_of(self, sample: Sample) -> tuple[Int[Tensor, " length"], int]:
        """Process one sample; see ``item``."""
        return self.item(sample.inputs)

    def item(self, raw: Any) -> tuple[Int[Tensor, " length"], int]:
        """Convert one transcript to token ids.

        Args:
            raw: the text, or a mapping with ``text`` and optionally ``segments``, a list of (start, end, text) in seconds, in which an
                end of None is beyond the recording; ``previous``, the preceding text; ``language``; ``task``.

        Returns:
            The token ids, and the number of ids at their beginning that are not supervised.

        Raises:
            ItemError: the transcript is too long, a time has no timestamp, or the model does not have the language or task.
        """
        given = {"text": raw} if isinstance(raw, str) else raw
        if not isinstance(given, Mapping) or not isinstance(given.get("text", ""), str) or not {"text", "segments"} & set(given):
            raise ItemError(
                f"a transcript must be a text, or a mapping with 'text' or 'segments'; got {type(raw).__name__} {str(raw)[:60]!r}", "text"
            )
        before = self._preceding(given.get("previous"))
        try:
            start = self.start(given.get("language"), given.get("task"))
        except ConfigError as fault:  # the sample's fault: the constructor has checked the defaults
            raise ItemError(f"a transcript's {fault}: {given.get('text', '')[:60]!r}", "language") from fault
        ids = [*before, *start, *self._text_ids(given), self.eot]
        if len(ids) > self.context_length:
            raise ItemError(
                f"a transcript has {len(ids)} tokens; context_length allows {self.context_length}: {given.get('text', '')[:60]!r}; cut the "
                "recording into shorter ones",
                "text",
            )
        return torch.tensor(ids), len(before) + 1

    def _preceding(self, previous: str | None) -> list[int]:
        """Return the start symbol and the end of the preceding text: context_length / 2 - 1 tokens at most, as in Whisper."""
        if not previous or not previous.strip():
            return []
        most = self.context_length // 2 - 1
        return [self.sot_prev, *self.encode(_spaced(previous))[-most:]]

    def _text_ids(self, given: Mapping[str, Any]) -> list[int]:
        segments = given.get("segments")
        if self.timestamps and segments:
            return [i for each in segments for i in self._segment(*each)]
        text = given["text"] if "text" in given else " ".join(str(text).strip() for _, _, text in segments or ())
        return [self.no_timestamps, *self.encode(_spaced(text))] if text.strip() else [self.no_speech]

    def _segment(self, start: float, end: float | None, text: str) -> list[int]:
        ids = self.encode(_spaced(text)) if text.strip() else []
        return [self._timestamp(start), *ids, *([] if end is None else [self._timestamp(end)])]

    def _timestamp(self, seconds: float) -> int:
        number = round(seconds / SECONDS_PER_TIMESTAMP)
        if not 0 <= number < self.ids.num_timestamps:
            most = (self.ids.num_timestamps - 1) * SECONDS_PER_TIMESTAMP
            raise ItemError(f"segments: got a time of {seconds:g} s; this vocabulary has timestamps from 0 to {most:g} s", "text")
        return self.timestamp_begin + number

    def collate(self, items: Sequence[tuple[Int[Tensor, " _"], int]]) -> Batch:
        """Pad transcripts at the end with the end symbol; the mask is True at real tokens, SUPERVISED at those to be learnt."""
        lengths, starts = (torch.tensor(numbers) for numbers in ([len(ids) for ids, _ in items], [start for _, start in items]))
        token_ids = torch.full((len(items), int(lengths.max())), self.eot)
        for row, (ids, _) in zip(token_ids, items, strict=True):
            row[: len(ids)] = ids
        return self._batch(token_ids, lengths, starts)

    def __call__(self, raw: Any) -> Batch:
        """Convert a list of transcripts, or token ids [batch, length] that end with the end symbol and are padded with it."""
        if not isinstance(raw, Tensor):
            return self.collate([self.item(each) for each in ([raw] if isinstance(raw, str | Mapping) else raw)])
        if raw.ndim != 2 or raw.dtype != torch.int64:
            raise DataError(f"token ids are {raw.dtype} of shape {list(raw.shape)}; allowed is int64 [batch, length]")
        ends, begins = (((raw == symbol).int()) for symbol in (self.eot, self.sot))
        lengths = torch.where(ends.any(1), ends.argmax(1) + 1, raw.shape[1])
        return self._batch(raw, lengths, begins.argmax(1) + 1)

    def _batch(self, token_ids: Tensor, lengths: Tensor, starts: Tensor) -> Batch:
        places = torch.arange(token_ids.shape[1])
        mask = places < lengths[:, None]
        return Batch({"text": token_ids}, {"text": mask}, {SUPERVISED: mask & (places >= starts[:, None])})

    def meta(self, batch_size: int) -> Batch:
        """Return a batch without data, for checks on the meta device."""
        shape = (batch_size, min(32, self.context_length))
        ids, mask, learnt = (torch.empty(shape, dtype=kind, device="meta") for kind in (torch.int64, torch.bool, torch.bool))
        return Batch({"text": ids}, {"text": mask}, {SUPERVISED: learnt})


def _spaced(text: str) -> str:
    """Return the text with exactly one space before it, as in Whisper's training data."""
    return " " + text.strip()
