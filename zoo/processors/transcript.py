"""Transcripts: what is said in a recording as Whisper's token ids, to be learnt or read, and token ids back to text.

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
from zoo.types import SUPERVISED, Batch, Sample

TOKENIZERS = ("trained", "characters", "given")
WHISPER_LANGUAGES, WHISPER_TIMESTAMPS = 99, 1501  # of the published models before large-v3; 0 to 30 s
WHISPER_VOCABULARY = 51864  # the smallest that has both, English's


@register("processor")
class TranscriptProcessor:
    """Texts of recordings to token ids: ``<|startoftranscript|><|en|><|transcribe|><|notimestamps|> text<|endoftext|>``.

    Before them may stand what was said before, ``<|startofprev|> text``; with timestamps each segment stands between two of them, and
    where nothing is said ``<|nospeech|>`` stands alone. English-only models have neither language nor task. All but the text before
    and the start symbol is learnt.

    Args:
        vocab_size: of the decoder; special tokens are its last ids, and what is before them is the base vocabulary.
        context_length: longer transcripts are refused; of what was said before the last half is kept.
        tokenizer: of the base vocabulary: "trained" on a run's texts (byte-level BPE), one token a letter ("characters"), or "given"
            (with weights; without one token ids alone are taken).
        multilingual: whether languages and tasks are told.
        num_languages: how many have ids; English-only models of Whisper have them too, without use. None: 99 in a vocabulary as large
            as Whisper's, none in a smaller one.
        num_timestamps: one each 20 ms from 0 s on. None: 1501 and none, likewise.
        timestamps: learn them, of samples that have segments.
        language: of samples that do not say theirs, by code; likewise ``task``, "transcribe" or "translate" (to English).

    Raises:
        ConfigError: an unknown word, or a vocabulary too small for its special tokens.
    """

    target = True  # of a head, beside the encoders' inputs
    modality = "text"  # of samples, that it reads
    encoder_keys = ()
    head_keys = ("vocab_size", "context_length")  # what it is told by the head, and may not exceed
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
    ) -> None:
        if tokenizer not in TOKENIZERS:
            raise ConfigError(f"tokenizer: there is no {tokenizer!r}; {name_choices(tokenizer, TOKENIZERS)}")
        large = vocab_size >= WHISPER_VOCABULARY
        num_languages = (WHISPER_LANGUAGES if large else 0) if num_languages is None else num_languages
        num_timestamps = (WHISPER_TIMESTAMPS if large else 0) if num_timestamps is None else num_timestamps
        if not 0 <= num_languages <= len(LANGUAGES) or num_timestamps < 0 or (multilingual and not num_languages):
            raise ConfigError(
                f"num_languages: {num_languages}, num_timestamps: {num_timestamps}; allowed are 0 to {len(LANGUAGES)} (multilingual: 1 or "
                "more), and 0 or more"
            )
        self.ids = SpecialIds.of(vocab_size, num_languages, num_timestamps)
        smallest = SMALLEST_VOCABULARY.get(tokenizer, 1)
        if self.ids.base < smallest:
            raise ConfigError(
                f"vocab_size: {vocab_size} is too small; {vocab_size - self.ids.base} are special tokens ({num_languages} languages, "
                f"{num_timestamps} timestamps), and tokenizer {tokenizer} needs at least {smallest} more: raise it, or lower num_timestamps"
            )
        self.vocab_size, self.context_length, self.source, self.timestamps = vocab_size, context_length, tokenizer, timestamps
        self.is_multilingual, self.language, self.task = multilingual, language, task
        self.start(language, task)
        self.tokenizer: Tokenizer | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords, for ``processor.json``."""
        counts = {"num_languages": self.ids.num_languages, "num_timestamps": self.ids.num_timestamps}
        own = {key: getattr(self, key) for key in ("vocab_size", "context_length", "timestamps", "language", "task")}
        return {**own, **counts, "tokenizer": self.source, "multilingual": self.is_multilingual}

    # Ids of special tokens.

    @property
    def eot(self) -> int:
        """End of the text."""
        return self.ids.base

    @property
    def sot(self) -> int:
        """Start of the transcript."""
        return self.ids.sot

    @property
    def sot_prev(self) -> int:
        """Start of what was said before."""
        return self.ids.task("startofprev")

    @property
    def sot_lm(self) -> int:
        """Start of a text without a recording."""
        return self.ids.task("startoflm")

    @property
    def no_speech(self) -> int:
        """Nothing is said."""
        return self.ids.task("nospeech")

    @property
    def no_timestamps(self) -> int:
        """No timestamps follow."""
        return self.ids.task("notimestamps")

    @property
    def transcribe(self) -> int:
        """The task to write down what is said."""
        return self.ids.task("transcribe")

    @property
    def translate(self) -> int:
        """The task to write it in English."""
        return self.ids.task("translate")

    @property
    def timestamp_begin(self) -> int:
        """The timestamp of 0 s; the others follow, 20 ms apart."""
        return self.ids.timestamp_begin

    @property
    def languages(self) -> dict[str, int]:
        """Ids by code; none where the model knows English alone."""
        return self.ids.languages if self.is_multilingual else {}

    @cached_property
    def suppressed(self) -> tuple[int, ...]:
        """Ids that no transcript holds: special ones, and of Whisper's own vocabulary symbols that are not said, in rising order."""
        special = {self.transcribe, self.translate, self.sot, self.sot_prev, self.sot_lm, self.no_speech}
        own = non_speech_ids(self.encode) if self.source == "given" and self.tokenizer is not None else set()
        return tuple(sorted(special | own))  # a vocabulary that was trained here has the symbols of its texts

    @cached_property
    def blank(self) -> tuple[int, ...]:
        """Ids with which no transcript begins: of the end and, where spaces are parts of words, of a space alone."""
        own = self.encode(" ") if self.source == "given" and self.tokenizer is not None else ()
        return (*own, self.eot)

    def start(self, language: str | None = None, task: str | None = None) -> list[int]:
        """What a transcript begins with: the start symbol and, of a multilingual model, language and task.

        Args:
            language: its code; None is the processor's own, and so with ``task``.

        Raises:
            ConfigError: a language or task that the model does not know.
        """
        language, task = language or self.language, task or self.task
        if task not in TASKS:
            raise ConfigError(f"task: there is no {task!r}; {name_choices(task, TASKS)}")
        if not self.is_multilingual:
            if language != "en" or task != "transcribe":
                raise ConfigError(f"language: {language!r}, task: {task!r}; this model transcribes English alone, take a multilingual one")
            return [self.sot]
        if language not in self.languages:
            raise ConfigError(f"language: there is no {language!r} among the {len(self.languages)} of this model; {self._near(language)}")
        return [self.sot, self.languages[language], self.ids.task(task)]

    def _near(self, language: str) -> str:
        codes = {name: code for code, name in LANGUAGES.items()}
        code = codes.get(language.lower())
        return f"the code of {language} is {code!r}" if code in self.languages else name_choices(language, self.languages)

    # The tokenizer of the base vocabulary.

    @property
    def is_fitted(self) -> bool:
        """Whether there is a tokenizer to use."""
        return self.tokenizer is not None

    def fit(self, captions: Iterable[str]) -> None:
        """Train the tokenizer; the result depends on the texts only, not on their order.

        Raises:
            ConfigError: the tokenizer should have come with the weights, or there are more characters than it may have.
        """
        if self.source == "given":
            raise ConfigError(f"system.processor.transcript.tokenizer: given, and there is none: {self._how_to_get_one()}")
        texts = [_spaced(caption) for caption in captions]
        self.use(train_tokenizer(texts, vocab_size=self.ids.base, kind=self.source).tokenizer)

    def use(self, tokenizer: Tokenizer) -> None:
        """Take a ready tokenizer; of its special tokens none is kept, since ours are known by their place.

        Raises:
            WeightsError: its special tokens stand elsewhere.
        """
        self.tokenizer = plain_tokenizer(tokenizer, self.ids)
        for name in ("suppressed", "blank"):
            self.__dict__.pop(name, None)

    def save(self, directory: Path) -> None:
        """Write the tokenizer where there is one."""
        if self.tokenizer is not None:
            self.tokenizer.save(str(directory / self.tokenizer_file))

    def load(self, directory: Path) -> None:
        """Read what ``save`` wrote."""
        if (path := directory / self.tokenizer_file).exists():
            self.use(Tokenizer.from_file(str(path)))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as it stands, with nothing around it; letters that the tokenizer does not know are left out.

        Raises:
            DataError: there is no tokenizer.
        """
        return list(without_unknown(self._known, text))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens and timestamps left out; bytes that are no letter yet become U+FFFD.

        Raises:
            DataError: there is no tokenizer.
        """
        return self._known.decode([int(i) for i in token_ids if i < self.eot])

    @property
    def _known(self) -> Tokenizer:
        if self.tokenizer is None:
            raise DataError(f"this system has no tokenizer of transcripts yet: {self._how_to_get_one()}, or give token ids")
        return self.tokenizer

    def _how_to_get_one(self) -> str:
        if self.source == "given":
            return (
                "its weights brought none; put the tokenizer.json of the model beside them, or install openai-whisper and load them again"
            )
        return "train it, or load trained weights"

    # Samples.

    def item_of(self, sample: Sample) -> tuple[Int[Tensor, " length"], int]:
        """Token ids of one sample, as ``item``."""
        return self.item(sample.inputs)

    def item(self, raw: Any) -> tuple[Int[Tensor, " length"], int]:
        """Token ids of one transcript, and how many of them come before what is learnt.

        Args:
            raw: the text, or a mapping with ``text`` and what else is known: ``segments`` as a list of (start, end, text) in seconds, an
                end of None being beyond the recording; ``previous``, what was said before; ``language``; ``task``.

        Raises:
            ItemError: it is too long, times that cannot be, or a language or task that the model does not know.
        """
        given = {"text": raw} if isinstance(raw, str) else raw
        if not isinstance(given, Mapping) or not isinstance(given.get("text", ""), str) or not {"text", "segments"} & set(given):
            raise ItemError(
                f"a transcript is a text, or a mapping with 'text' or 'segments'; got {type(raw).__name__} {str(raw)[:60]!r}", "text"
            )
        before = self._before(given.get("previous"))
        try:
            start = self.start(given.get("language"), given.get("task"))
        except ConfigError as fault:  # the processor's own were looked at when it was made
            raise ItemError(f"a transcript's {fault}: {given.get('text', '')[:60]!r}", "language") from fault
        ids = [*before, *start, *self._said(given), self.eot]
        if len(ids) > self.context_length:
            raise ItemError(
                f"a transcript has {len(ids)} tokens; context_length allows {self.context_length}: {given.get('text', '')[:60]!r}; cut the "
                "recording into shorter ones",
                "text",
            )
        return torch.tensor(ids), len(before) + 1

    def _before(self, previous: str | None) -> list[int]:
        """The last half of a context, but for one token, of what was said before."""
        if not previous or not previous.strip():
            return []
        most = self.context_length // 2 - 1
        return [self.sot_prev, *self.encode(_spaced(previous))[-most:]]

    def _said(self, given: Mapping[str, Any]) -> list[int]:
        segments = given.get("segments")
        if self.timestamps and segments:
            return [i for each in segments for i in self._segment(*each)]
        text = given["text"] if "text" in given else " ".join(str(text).strip() for _, _, text in segments or ())
        return [self.no_timestamps, *self.encode(_spaced(text))] if text.strip() else [self.no_speech]

    def _segment(self, start: float, end: float | None, text: str) -> list[int]:
        said = self.encode(_spaced(text)) if text.strip() else []
        return [self._timestamp(start), *said, *([] if end is None else [self._timestamp(end)])]

    def _timestamp(self, seconds: float) -> int:
        number = round(seconds / SECONDS_PER_TIMESTAMP)
        if not 0 <= number < self.ids.num_timestamps:
            most = (self.ids.num_timestamps - 1) * SECONDS_PER_TIMESTAMP
            raise ItemError(f"segments: a time of {seconds:g} s; this vocabulary has timestamps from 0 to {most:g} s", "text")
        return self.timestamp_begin + number

    def collate(self, items: Sequence[tuple[Int[Tensor, " _"], int]]) -> Batch:
        """Pad behind the transcripts with the end symbol; the mask is True at real tokens, and what is learnt is told apart."""
        lengths, starts = (torch.tensor(numbers) for numbers in ([len(ids) for ids, _ in items], [start for _, start in items]))
        token_ids = torch.full((len(items), int(lengths.max())), self.eot)
        for row, (ids, _) in zip(token_ids, items, strict=True):
            row[: len(ids)] = ids
        return self._batch(token_ids, lengths, starts)

    def __call__(self, raw: Any) -> Batch:
        """A list of transcripts, or ready ids [batch, length], which end with the end symbol and are padded with it."""
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
        """A batch without data, for the check on the meta device."""
        shape = (batch_size, min(32, self.context_length))
        ids, mask, learnt = (torch.empty(shape, dtype=kind, device="meta") for kind in (torch.int64, torch.bool, torch.bool))
        return Batch({"text": ids}, {"text": mask}, {SUPERVISED: learnt})


def _spaced(text: str) -> str:
    """A text as Whisper has it, with one space before it."""
    return " " + text.strip()
