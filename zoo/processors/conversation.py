"""Conversations to token ids, in which placeholders stand for the pictures and clips that a language model is shown.

Reference: transformers ``processing_llava.py`` (a run of placeholders for each marker). Where we differ: placeholders are negative ids
outside every vocabulary (``PLACEHOLDER_IDS``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

from zoo.errors import ConfigError, DataError, ItemError, WeightsError, name_choices
from zoo.processors.chat.conversation_tokens import Tokens, Written, collate_tokens, supervised
from zoo.processors.chat.kosmos_template import KOSMOS_WORDS
from zoo.processors.chat.messages import MARKERS, PLURALS, Conversation, Message, as_conversation
from zoo.processors.chat.template_pieces import ChatTemplate, Piece, Symbols
from zoo.processors.chat.templates import SPANS, STOPS, TAKE_DOCUMENTS, TEMPLATES, TOKENIZERS_OWN, build_template
from zoo.processors.tokenizers.chat_tokenizer import SMALLEST_VOCABULARY, TEMPLATE_FILE, GivenTokenizer, train_tokenizer, with_markers
from zoo.registry import register
from zoo.types import PLACEHOLDER_IDS

__all__ = ["Conversation", "ConversationProcessor", "Message", "Tokens", "as_conversation"]

TOKENIZERS = (*SMALLEST_VOCABULARY, "given")


@register("processor")
class ConversationProcessor:
    """Messages through a chat template and a tokenizer, with markers expanded to as many placeholders as the connector makes tokens.

    How many that are is asked of ``counts[modality](item)``, which whoever assembles the system sets. A conversation that is too long
    loses its tail, never a part of a picture; a prompt is never cut.

    Args:
        vocab_size: rows of the language model's table; the tokenizer may have fewer entries.
        context_length: the most tokens that the language model takes.
        tokenizer: where it comes from: "trained" on a run's captions (byte-level BPE), "characters" (those of the captions), "given"
            (with the language model's weights).
        template: a word of ``zoo.processors.chat.templates.TEMPLATES``; "tokenizer" is the one that came with it.
        system: what the assistant is told first, where a conversation does not say; None is the template's own.
        max_length: cut to fewer tokens than the language model could take.
        max_images: more pictures in a conversation make it unusable.
        names: special tokens by transformers' names; None takes those of the tokenizer.
        eos_token_ids: ids that end a text, beside ``names["eos_token"]`` and the template's own.
        spans: symbols that stand before and behind a picture's or clip's tokens, by modality: ``{image: [<image>, </image>]}``; None
            takes the template's (kosmos has these), an empty mapping none.

    Raises:
        ConfigError: an unknown word, or sizes that cannot be.
    """

    encoder_keys = ()
    language_keys = ("vocab_size", "context_length")  # what it is told by the language model, and may not exceed
    tokenizer_file = "conversation_tokenizer.json"

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int,
        tokenizer: str = "trained",
        template: str = "chatml",
        system: str | None = None,
        max_length: int | None = None,
        max_images: int | None = None,
        names: Mapping[str, str] | None = None,
        eos_token_ids: Sequence[int] = (),
        spans: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        for key, value, legal in (("tokenizer", tokenizer, TOKENIZERS), ("template", template, TEMPLATES)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        self.span_symbols = _checked_spans(SPANS.get(template, {}) if spans is None else spans)
        smallest = SMALLEST_VOCABULARY.get(tokenizer, 1) + (len(self._new_symbols) if tokenizer in SMALLEST_VOCABULARY else 0)
        if vocab_size < smallest:
            raise ConfigError(f"vocab_size: {vocab_size} is too small; tokenizer {tokenizer} needs at least {smallest}")
        if context_length < 2 or not 2 <= (max_length or context_length) <= context_length:
            raise ConfigError(f"max_length: {max_length} with context_length {context_length}; allowed is 2 to context_length, or null")
        if max_images is not None and max_images < 0:
            raise ConfigError(f"max_images: {max_images}; allowed is 0 or more, or null for any number")
        if template == TOKENIZERS_OWN and tokenizer != "given":
            raise ConfigError(f"template: {template} comes with a given tokenizer, but tokenizer is {tokenizer}; choose chatml or another")
        self.vocab_size, self.context_length, self.source, self.template_name = vocab_size, context_length, tokenizer, template
        self.system, self.max_length, self.max_images = system, max_length, max_images
        self.names, self.further_ends = None if names is None else dict(names), list(eos_token_ids)
        self.given_spans = None if spans is None else {modality: list(words) for modality, words in spans.items()}
        self.counts: dict[str, Callable[[Tensor], int]] = {}
        self.spans: dict[str, tuple[int, int]] = {}  # ids of ``span_symbols`` that the tokenizer has
        self.tokenizer: Tokenizer | None = None
        self.chat_template: str | None = None
        self.symbols = Symbols()
        self._template: ChatTemplate | None = None
        self._modalities: dict[int, str] = {}  # by id of a marker

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords, for ``processor.json``."""
        keys = ("vocab_size", "context_length", "system", "max_length", "max_images", "names")
        chosen = {"tokenizer": self.source, "template": self.template_name, "eos_token_ids": self.further_ends}
        return {**{key: getattr(self, key) for key in keys}, **chosen, "spans": self.given_spans}

    @property
    def _new_symbols(self) -> list[str]:
        """Symbols of spans that a tokenizer which is trained here has to be given."""
        return list(dict.fromkeys(word for words in self.span_symbols.values() for word in words))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a tokenizer to use."""
        return self.tokenizer is not None

    def fit(self, captions: Iterable[str]) -> None:
        """Train the tokenizer; the result depends on the captions only, not on their order.

        Raises:
            ConfigError: the tokenizer should have come with the language model.
        """
        if self.source == "given":
            raise ConfigError(f"system.processor.conversation.tokenizer: given, and there is none: {self._how_to_get_one()}")
        said = [*captions, *([KOSMOS_WORDS] if self.template_name == "kosmos" else [])]  # whose letters a tokenizer needs too
        self.use(train_tokenizer(said, vocab_size=self.vocab_size, kind=self.source, symbols=self._new_symbols))

    def use(self, given: GivenTokenizer) -> None:
        """Take a ready tokenizer; names of special tokens that the config gives go before its own.

        Raises:
            WeightsError: it has ids that the language model has no row for.
            ConfigError: the template is to be the tokenizer's, which has none.
        """
        vocabulary = given.tokenizer.get_vocab(with_added_tokens=True)
        known = {i: word for word, i in vocabulary.items() if word not in MARKERS.values()}
        if not known or max(known) >= self.vocab_size:
            raise WeightsError(
                f"the tokenizer has ids up to {max(known, default=-1)} ({known.get(max(known, default=-1))!r}); vocab_size allows "
                f"ids below {self.vocab_size} (system.processor.conversation.vocab_size)"
            )
        self.tokenizer = with_markers(given.tokenizer)
        self.names = {**given.names, **(self.names or {})}
        for name, word in self.names.items():
            if self.tokenizer.token_to_id(word) is None:
                raise WeightsError(
                    f"the tokenizer has no {name} {word!r}; set system.processor.conversation.names.{name} to one that it has"
                )
        self.further_ends = sorted({*self.further_ends, *given.eos_token_ids})
        self.symbols = GivenTokenizer(self.tokenizer, self.names).symbols()
        self.chat_template = given.chat_template
        self._template = build_template(self.template_name, self.symbols, self.system, self.chat_template)
        found = {modality: [vocabulary.get(word, self.vocab_size) for word in words] for modality, words in self.span_symbols.items()}
        self.spans = {modality: (ids[0], ids[1]) for modality, ids in found.items() if max(ids) < self.vocab_size}
        self._modalities = {
            self.tokenizer.encode(marker, add_special_tokens=False).ids[-1]: modality for modality, marker in MARKERS.items()
        }

    @property
    def template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            DataError: there is no tokenizer yet.
        """
        if self._template is None:
            raise DataError(f"this system has no tokenizer yet: {self._how_to_get_one()}")
        return self._template

    @property
    def pad_token_id(self) -> int:
        """What stands behind shorter texts; it is masked, so that any id will do."""
        return next((self._id(name) for name in ("pad_token", "eos_token") if name in (self.names or {})), 0)

    @property
    def bos_token_id(self) -> int | None:
        """What a text begins with, where the tokenizer has such a token."""
        return self._id("bos_token") if "bos_token" in (self.names or {}) else None

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids that end what the assistant says."""
        ends = {*self.further_ends, *([self._id("eos_token")] if "eos_token" in (self.names or {}) else [])}
        if self.template.end in self.symbols.special:
            ends |= {number for number in [self._known.token_to_id(self.template.end)] if number is not None}
        return sorted(ends | {start for start, _ in self.spans.values()})  # a picture is nothing that could be said

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings that end what the assistant says, where that is no special token (LLaVA's plain template: a new line)."""
        end = self.template.end
        return (*(() if not end or end in self.symbols.special else (end,)), *STOPS.get(self.template_name, ()))

    def conversation(self, raw: Any, id: str = "", *, answer: str | None = None) -> Conversation:
        """What people give as a conversation; with an answer, that the assistant gives it last.

        To template kosmos a string, or a list of strings, images and audio, is how a document begins, not a question.

        Raises:
            ItemError: it is none.
        """
        given = as_conversation(raw, id, "document" if self.template_name == "kosmos" else "user")
        return given if answer is None else replace(given, messages=(*given.messages, Message("assistant", answer)))

    def render(self, conversation: Conversation, *, for_generation: bool = False) -> list[Piece]:
        """The text of a conversation in pieces, with markers still in it.

        Raises:
            ItemError: the template refuses it, or the assistant says nothing.
        """
        messages = conversation.messages
        for number, message in enumerate(messages):
            if message.role == "assistant" and not message.text.strip() and not (for_generation and message is messages[-1]):
                raise ItemError(f"{conversation.name}: message {number + 1}, the assistant's, is empty; give it a text", "empty")
        if any(message.role == "document" for message in messages) and self.template_name not in TAKE_DOCUMENTS:
            raise ItemError(
                f"{conversation.name} is a document, for which template {self.template_name} has no place; set "
                f"system.processor.conversation.template to {' or '.join(TAKE_DOCUMENTS)}",
                "roles",
            )
        if not for_generation and all(message.role not in ("assistant", "document") for message in messages):
            raise ItemError(f"{conversation.name} holds nothing that the assistant says, so there is nothing to learn", "conversation")
        try:
            return self.template.pieces(messages, for_generation=for_generation)
        except ItemError as error:
            raise ItemError(f"{conversation.name}: {error}", error.reason) from error

    def item(self, raw: Any, media: Mapping[str, Sequence[Tensor]] | None = None, *, for_generation: bool = False) -> Tokens:
        """One conversation as token ids.

        Args:
            media: what the other processors made of its pictures and clips, in order.
            for_generation: a prompt, which ends with the assistant's prefix or with the answer that is to be continued.

        Raises:
            DataError: what does not fit, or a conversation that cannot be used.
        """
        conversation, media = as_conversation(raw), media or {}
        counts = {modality: [self.count(modality, each) for each in listed] for modality, listed in media.items()}
        written = self._write(conversation, counts, for_generation)
        return self._cut(written, conversation, for_generation)

    def parts(self, conversation: Conversation, counts: Mapping[str, Sequence[int]]) -> list[Tokens]:
        """As ``item``, and of a document that is too long all of it, in parts that the language model takes.

        Args:
            counts: of how many tokens its pictures and clips are, in order.

        Raises:
            ItemError: a picture alone is too long, or a conversation that cannot be used.
        """
        written, limit = self._write(conversation, counts), self.max_length or self.context_length
        if [message.role for message in conversation.messages] != ["document"]:
            return [self._cut(written, conversation, False)]
        first = written.runs[0] if self.bos_token_id is not None and written.runs[0] == [self.bos_token_id] else []
        borders = written.borders(limit, len(first))
        if borders is None:
            raise ItemError(
                f"{conversation.name}: a picture or clip takes more than the {limit} tokens that are allowed (max_length, context_length)",
                "length",
            )
        places = [0, *borders, len(written.runs)]
        return [written.tokens(start, stop, first if start else ()) for start, stop in zip(places, places[1:], strict=False)]

    def _write(self, conversation: Conversation, counts: Mapping[str, Sequence[int]], for_generation: bool = False) -> Written:
        if self.max_images is not None and len(conversation.images) > self.max_images:
            raise ItemError(f"{conversation.name} holds {len(conversation.images)} images; max_images allows {self.max_images}", "images")
        pieces = self.render(conversation, for_generation=for_generation)
        text = "".join(piece.text for piece in pieces)
        ids, offsets = self._encode(text)
        runs, places = self._expanded(ids, counts, conversation)
        if not any(runs):
            raise ItemError(f"{conversation.name}: template {self.template_name} leaves nothing to read; say or show something", "empty")
        return Written(text, runs, places, supervised(pieces, offsets), offsets)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and where they stand in the text.

        What a tokenizer begins each text with is put before the others, as the tokenizer does: LLaMA's gives a word another id after a
        start symbol that is spelt out. A tokenizer's own chat template does spell it out, in transformers too.
        """
        start = "" if self.template_name == TOKENIZERS_OWN or not text.startswith(self.symbols.start) else self.symbols.start
        encoding, skipped = self._known.encode(text[len(start) :], add_special_tokens=False), len(start)
        first = [self._id("bos_token")] if start else []
        return first + encoding.ids, [(0, skipped)] * len(first) + [(begin + skipped, end + skipped) for begin, end in encoding.offsets]

    def _expanded(
        self, ids: Sequence[int], counts: Mapping[str, Sequence[int]], conversation: Conversation
    ) -> tuple[list[list[int]], list[str | None]]:
        """For each token the ids that it becomes, and its modality where it is a marker."""
        runs, places, seen = [], [], dict.fromkeys(MARKERS, 0)
        for number in ids:
            modality = self._modalities.get(number)
            places.append(modality)
            if modality is None:
                runs.append([number])
                continue
            if seen[modality] < len(counts.get(modality, ())):
                runs.append(self._run(modality, counts[modality][seen[modality]]))
            seen[modality] += 1
        for modality, count in seen.items():
            if count != len(counts.get(modality, ())):
                raise ItemError(
                    f"{conversation.name} holds {len(counts.get(modality, ()))} {PLURALS[modality]}, of which template "
                    f"{self.template_name} shows {count}; choose another template, or give media and markers in the user's messages",
                    "markers",
                )
        return runs, places

    def _run(self, modality: str, count: int) -> list[int]:
        """The ids of a picture or clip, between those of its span's symbols where it has any."""
        placeholders = [PLACEHOLDER_IDS[modality]] * count
        if modality not in self.span_symbols:
            return placeholders
        if modality not in self.spans:
            raise WeightsError(
                f"the tokenizer has no {' and '.join(self.span_symbols[modality])} below vocab_size {self.vocab_size}, which stand around "
                f"the tokens of each {modality}; set system.processor.conversation.spans.{modality} to two special tokens that it has"
            )
        start, end = self.spans[modality]
        return [start, *placeholders, end]

    def count(self, modality: str, item: Tensor) -> int:
        """How many tokens the language model is shown of a processed picture or clip.

        Raises:
            DataError: the system has no connector for it.
        """
        if modality not in self.counts:
            raise DataError(f"this system has no connector for {modality}; give its language model an encoder of {modality}")
        return int(self.counts[modality](item))

    def _cut(self, written: Written, conversation: Conversation, for_generation: bool) -> Tokens:
        """The first tokens, as many as are allowed.

        With 4 allowed, ``7 I I I 8 9`` becomes ``7 I I I``; with 3, where the cut would go through the picture, ``7``.
        """
        limit = self.context_length if for_generation else self.max_length or self.context_length
        whole = written.fitting(limit)
        if for_generation and whole < len(written.runs):
            tokens = written.tokens()
            shown = int((tokens.token_ids < 0).sum())
            raise DataError(
                f"{conversation.name}: the prompt takes {len(tokens.token_ids)} tokens ({shown} of them pictures and clips); the language "
                f"model takes {limit} (context_length); shorten it or show less"
            )
        cut = written.tokens(0, whole)
        if not for_generation and not cut.supervised.any():
            before = int(written.tokens().supervised.int().argmax())
            raise ItemError(
                f"{conversation.name}: {before} tokens stand before the first answer, but only {limit} are allowed in all (max_length, "
                "context_length), so that nothing is left to learn; raise them, or show fewer or smaller pictures",
                "length",
            )
        return cut

    def collate(
        self, items: Sequence[Tokens], *, padding_side: str = "right"
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Token ids, mask (True at real tokens) and what is supervised, padded to the longest."""
        return collate_tokens(items, self.pad_token_id, padding_side)

    def meta(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """A batch without data, for the check on the meta device."""
        shape = (batch_size, self.max_length or self.context_length)
        mask, supervised = (torch.empty(shape, dtype=torch.bool, device="meta") for _ in range(2))
        return torch.empty(shape, dtype=torch.int64, device="meta"), mask, supervised

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; placeholders have none."""
        return self._known.decode([int(i) for i in token_ids if int(i) >= 0], skip_special_tokens=skip_special_tokens)

    def save(self, directory: Path) -> None:
        """Write the tokenizer where there is one, and its chat template where it has one."""
        if self.tokenizer is not None:
            self.tokenizer.save(str(directory / self.tokenizer_file))
        if self.chat_template is not None:
            (directory / TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8", newline="")

    def load(self, directory: Path) -> None:
        """Read what ``save`` wrote."""
        path, template = directory / self.tokenizer_file, directory / TEMPLATE_FILE
        if path.exists():
            text = template.read_bytes().decode("utf-8") if template.exists() else None
            self.use(GivenTokenizer(Tokenizer.from_file(str(path)), chat_template=text))

    @property
    def _known(self) -> Tokenizer:
        if self.tokenizer is None:
            raise DataError(f"this system has no tokenizer yet: {self._how_to_get_one()}")
        return self.tokenizer

    def _id(self, name: str) -> int:
        number = self._known.token_to_id((self.names or {})[name])
        assert number is not None, name  # ``use`` looked
        return number

    def _how_to_get_one(self) -> str:
        if self.source == "given":
            return "the language model's weights brought none; put tokenizer.json and tokenizer_config.json beside them"
        return "train it, or load trained weights"


def _checked_spans(spans: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    found = {}
    for modality, words in spans.items():
        if modality not in MARKERS:
            raise ConfigError(f"spans: there is no modality {modality!r}; {name_choices(str(modality), MARKERS)}")
        if isinstance(words, str) or len(words) != 2 or not all(isinstance(word, str) and word for word in words) or words[0] == words[1]:
            raise ConfigError(f"spans.{modality}: {words!r}; give two different special tokens, for example ['<image>', '</image>']")
        found[modality] = (words[0], words[1])
    return found
