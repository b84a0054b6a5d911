"""Conversation processor: conversations to token ids with placeholders for images and audio clips.

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
from zoo.layers.tiling import TiledCounts
from zoo.processors.chat.conversation_tokens import Tokens, Written, collate_tokens, supervised
from zoo.processors.chat.kosmos_template import KOSMOS_WORDS
from zoo.processors.chat.media_runs import Writing, expanded, item_ids
from zoo.processors.chat.messages import MARKERS, Conversation, Message, as_conversation
from zoo.processors.chat.template_pieces import ChatTemplate, Piece, Symbols
from zoo.processors.chat.templates import SPANS, STOPS, TAKE_DOCUMENTS, TEMPLATES, TOKENIZERS_OWN, build_template, checked_spans
from zoo.processors.tokenizers.chat_tokenizer import SMALLEST_VOCABULARY, TEMPLATE_FILE, GivenTokenizer, train_tokenizer, with_markers
from zoo.processors.tokenizers.tokenizer_file import read_tokenizer_file
from zoo.registry import register
from zoo.storage.outside import read_text
from zoo.types import ModalityProcessor

__all__ = ["Conversation", "ConversationProcessor", "Message", "Tokens", "as_conversation"]

TOKENIZERS = (*SMALLEST_VOCABULARY, "given")


@register("processor")
class ConversationProcessor(ModalityProcessor):
    """Processor of conversations: apply a chat template, tokenize, and expand each marker to one placeholder per connector token.

    ``counts[modality](item)`` gives the number of connector tokens of a processed image or clip; the code that assembles the system
    sets it. A conversation that is too long is cut at the end, never inside an image; a prompt is never cut.

    Args:
        vocab_size: rows of the language model's embedding table; the tokenizer may have fewer entries.
        context_length: largest number of tokens that the language model takes.
        tokenizer: source of the tokenizer: "trained" on a run's captions (byte-level BPE), "characters" (one token for each character
            of the captions), or "given" (comes with the language model's weights).
        template: name in ``zoo.processors.chat.templates.TEMPLATES``; "tokenizer" is the Jinja template that comes with the tokenizer.
        system: system prompt of conversations that have none; None takes the template's default.
        max_length: cut conversations to this many tokens; None takes ``context_length``.
        max_images: a conversation with more images is an error; None allows any number.
        names: special tokens by transformers' names; None takes those of the tokenizer.
        eos_token_ids: ids that end a text, in addition to ``names["eos_token"]`` and the end symbol of the template.
        spans: symbols before and after the tokens of an image or clip, by modality: ``{image: [<image>, </image>]}``. None takes
            those of the template (only kosmos has some); an empty mapping switches them off.

    Raises:
        ConfigError: an unknown option, or sizes out of range.
    """

    modality = "conversation"
    context_length: int
    language_keys = ("vocab_size", "context_length")  # taken from the language model, and never larger than its values
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
        self.span_symbols = checked_spans(SPANS.get(template, {}) if spans is None else spans)
        self.counts: dict[str, Callable[[Any], int]] = {}
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
        self.spans: dict[str, tuple[int, int]] = {}  # ids of ``span_symbols``, by modality, if the tokenizer has both
        self.tokenizer: Tokenizer | None = None
        self.chat_template: str | None = None
        self.symbols = Symbols()
        self._template: ChatTemplate | None = None
        self._modalities: dict[int, str] = {}  # id of a marker to its modality

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords, as written to ``processor.json``."""
        keys = ("vocab_size", "context_length", "system", "max_length", "max_images", "names")
        chosen = {"tokenizer": self.source, "template": self.template_name, "eos_token_ids": self.further_ends}
        return {**{key: getattr(self, key) for key in keys}, **chosen, "spans": self.given_spans}

    @property
    def _new_symbols(self) -> list[str]:
        """Symbols around items and tiles to add to a tokenizer that is trained here."""
        of_tilers = [word for count in self.counts.values() if isinstance(count, TiledCounts) for word in count.tiler.symbols]
        return list(dict.fromkeys([*(word for words in self.span_symbols.values() for word in words), *of_tilers]))

    @property
    def is_fitted(self) -> bool:
        """True if there is a tokenizer."""
        return self.tokenizer is not None

    def fit(self, captions: Iterable[str]) -> None:
        """Train the tokenizer; the result depends on the captions only, not on their order.

        Raises:
            ConfigError: ``tokenizer`` is "given", so that it must come with the language model.
        """
        if self.source == "given":
            raise ConfigError(f"system.processor.conversation.tokenizer: given, but no tokenizer was found: {self._how_to_get_one()}")
        texts = [*captions, *([KOSMOS_WORDS] if self.template_name == "kosmos" else [])]  # the template's letters need tokens too
        self.use(train_tokenizer(texts, vocab_size=self.vocab_size, kind=self.source, symbols=self._new_symbols))

    def use(self, given: GivenTokenizer) -> None:
        """Use a ready tokenizer; ``names`` from the config override the tokenizer's special tokens.

        Raises:
            WeightsError: the tokenizer has ids of ``vocab_size`` or more, or lacks a special token of ``names``.
            ConfigError: ``template`` is "tokenizer", but the tokenizer has no chat template.
        """
        vocabulary = given.tokenizer.get_vocab(with_added_tokens=True)
        # Markers become placeholders before the language model sees them, so that their ids may exceed its table.
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
        """Chat template.

        Raises:
            DataError: there is no tokenizer yet.
        """
        if self._template is None:
            raise DataError(f"this system has no tokenizer yet: {self._how_to_get_one()}")
        return self._template

    @property
    def pad_token_id(self) -> int:
        """Id that pads shorter texts; the mask hides it, so that any id is correct."""
        return next((self._id(name) for name in ("pad_token", "eos_token") if name in (self.names or {})), 0)

    @property
    def bos_token_id(self) -> int | None:
        """Id that begins a text; None if the tokenizer has none."""
        return self._id("bos_token") if "bos_token" in (self.names or {}) else None

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids that end an answer, sorted."""
        ends = {*self.further_ends, *([self._id("eos_token")] if "eos_token" in (self.names or {}) else [])}
        if self.template.end in self.symbols.special:
            ends |= {number for number in [self._known.token_to_id(self.template.end)] if number is not None}
        return sorted(ends | {start for start, _ in self.spans.values()})  # a model cannot generate an image

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings, not special tokens, that end an answer, for example the new line of LLaVA's plain template."""
        end = self.template.end
        return (*(() if not end or end in self.symbols.special else (end,)), *STOPS.get(self.template_name, ()))

    def conversation(self, raw: Any, id: str = "", *, answer: str | None = None) -> Conversation:
        """Convert input of any form that ``as_conversation`` takes to a ``Conversation``.

        With template kosmos, a string, or a list of strings, images and audio, is the beginning of a document, not a question.

        Args:
            id: name of the conversation in error messages.
            answer: text of an assistant message to append.

        Raises:
            ItemError: the input is not a conversation.
        """
        given = as_conversation(raw, id, "document" if self.template_name == "kosmos" else "user")
        return given if answer is None else replace(given, messages=(*given.messages, Message("assistant", answer)))

    def render(self, conversation: Conversation, *, for_generation: bool = False) -> list[Piece]:
        """Render a conversation as pieces of text in which the markers are not yet expanded.

        Raises:
            ItemError: the template refuses the messages, an answer is empty, or nothing is supervised.
        """
        messages = conversation.messages
        for number, message in enumerate(messages):
            if message.role == "assistant" and not message.text.strip() and not (for_generation and message is messages[-1]):
                raise ItemError(f"{conversation.name}: message {number + 1} (assistant) is empty; give it a text", "empty")
        if any(message.role == "document" for message in messages) and self.template_name not in TAKE_DOCUMENTS:
            raise ItemError(
                f"{conversation.name} is a document, which template {self.template_name} does not support; set "
                f"system.processor.conversation.template to {' or '.join(TAKE_DOCUMENTS)}",
                "roles",
            )
        if not for_generation and all(message.role not in ("assistant", "document") for message in messages):
            raise ItemError(f"{conversation.name} has no assistant message, so there is nothing to learn; add an answer", "conversation")
        try:
            return self.template.pieces(messages, for_generation=for_generation)
        except ItemError as error:
            raise ItemError(f"{conversation.name}: {error}", error.reason) from error

    def item(self, raw: Any, media: Mapping[str, Sequence[Any]] | None = None, *, for_generation: bool = False) -> Tokens:
        """Return one conversation as token ids.

        Args:
            media: its images and clips, already processed, by modality and in order.
            for_generation: render a prompt, which ends with the assistant's prefix or with an unfinished answer to continue.

        Raises:
            DataError: a prompt is too long, or the conversation cannot be used.
        """
        conversation, media = as_conversation(raw), media or {}
        counts = {modality: [self.written(modality, each) for each in listed] for modality, listed in media.items()}
        written = self._write(conversation, counts, for_generation)
        return self._cut(written, conversation, for_generation)

    def parts(self, conversation: Conversation, counts: Mapping[str, Sequence[Writing]]) -> list[Tokens]:
        """Return token ids as ``item``, but split a document that is too long into parts instead of cutting it.

        Args:
            counts: number of tokens of each image and clip, by modality and in order.

        Raises:
            ItemError: one image or clip is longer than the limit, or the conversation cannot be used.
        """
        written, limit = self._write(conversation, counts), self.max_length or self.context_length
        if [message.role for message in conversation.messages] != ["document"]:
            return [self._cut(written, conversation, False)]
        first = written.runs[0] if self.bos_token_id is not None and written.runs[0] == [self.bos_token_id] else []
        borders = written.borders(limit, len(first))
        if borders is None:
            raise ItemError(
                f"{conversation.name}: an image or clip takes more than the {limit} tokens that are allowed (max_length, context_length); "
                "raise the limit, or give smaller images and shorter clips",
                "length",
            )
        places = [0, *borders, len(written.runs)]
        return [written.tokens(start, stop, first if start else ()) for start, stop in zip(places, places[1:], strict=False)]

    def _write(self, conversation: Conversation, counts: Mapping[str, Sequence[Writing]], for_generation: bool = False) -> Written:
        if self.max_images is not None and len(conversation.images) > self.max_images:
            raise ItemError(f"{conversation.name} holds {len(conversation.images)} images; max_images allows {self.max_images}", "images")
        pieces = self.render(conversation, for_generation=for_generation)
        text = "".join(piece.text for piece in pieces)
        ids, offsets = self._encode(text)
        runs, places = expanded(ids, self._modalities, counts, self._run, (conversation.name, self.template_name))
        if not any(runs):
            raise ItemError(
                f"{conversation.name}: template {self.template_name} gives an empty text; add text, an image or a clip", "empty"
            )
        return Written(text, runs, places, supervised(pieces, offsets), offsets)

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return token ids and their character offsets in the text.

        A start symbol that the tokenizer puts before every text is added as an id here, not encoded as text: LLaMA's tokenizer gives
        the first word another id after a start symbol that is part of the text. The tokenizer's own chat template is an exception:
        its start symbol is encoded as text, as in transformers.
        """
        start = "" if self.template_name == TOKENIZERS_OWN or not text.startswith(self.symbols.start) else self.symbols.start
        encoding, skipped = self._known.encode(text[len(start) :], add_special_tokens=False), len(start)
        first = [self._id("bos_token")] if start else []
        return first + encoding.ids, [(0, skipped)] * len(first) + [(begin + skipped, end + skipped) for begin, end in encoding.offsets]

    def _run(self, modality: str, writing: Writing) -> list[int]:
        """Return the ids of an image or clip, between the ids of its span symbols if it has any."""
        count = self.counts.get(modality)
        ids = item_ids(modality, writing, self._known, count.tiler.symbols if isinstance(count, TiledCounts) else ())
        if modality not in self.span_symbols:
            return ids
        if modality not in self.spans:
            raise WeightsError(
                f"the tokenizer has no {' and '.join(self.span_symbols[modality])} below vocab_size {self.vocab_size}, which must enclose "
                f"the tokens of each {modality}; set system.processor.conversation.spans.{modality} to two special tokens that it has"
            )
        start, end = self.spans[modality]
        return [start, *ids, end]

    def written(self, modality: str, item: Any) -> list[str | int]:
        """Return the numbers of placeholders that stand for a processed image or clip in the text, and the texts around its tiles.

        Raises:
            DataError: the system has no connector for the modality.
        """
        if modality not in self.counts:
            raise DataError(f"this system has no connector for {modality}; give its language model an encoder of {modality}")
        count = self.counts[modality]
        return count.written(item) if isinstance(count, TiledCounts) else [int(count(item))]

    def count(self, modality: str, item: Any) -> int:
        """Return the number of features that the language model gets for a processed image or clip.

        Raises:
            DataError: the system has no connector for the modality.
        """
        return sum(part for part in self.written(modality, item) if isinstance(part, int))

    def _cut(self, written: Written, conversation: Conversation, for_generation: bool) -> Tokens:
        """Cut to the allowed number of tokens, never inside an image.

        With 4 allowed, ``7 I I I 8 9`` becomes ``7 I I I``. With 3 allowed, it becomes ``7``, as the cut would divide the image.
        """
        limit = self.context_length if for_generation else self.max_length or self.context_length
        whole = written.fitting(limit)
        if for_generation and whole < len(written.runs):
            tokens = written.tokens()
            shown = int((tokens.token_ids < 0).sum())
            raise DataError(
                f"{conversation.name}: the prompt has {len(tokens.token_ids)} tokens ({shown} of them for images and clips); the language "
                f"model takes {limit} (context_length); shorten it, or give fewer images and clips"
            )
        cut = written.tokens(0, whole)
        if not for_generation and not cut.supervised.any():
            before = int(written.tokens().supervised.int().argmax())
            raise ItemError(
                f"{conversation.name}: {before} tokens stand before the first answer, but only {limit} are allowed in total (max_length, "
                "context_length), so that nothing is left to learn; raise the limit, or give fewer or smaller images",
                "length",
            )
        return cut

    def collate(
        self, items: Sequence[Tokens], *, padding_side: str = "right"
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Return token ids, mask (True at real tokens) and supervision (True at ids to predict), padded to the longest item."""
        return collate_tokens(items, self.pad_token_id, padding_side)

    def meta(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return an empty batch of the largest shape on the meta device, for checks of shapes."""
        shape = (batch_size, self.max_length or self.context_length)
        mask, supervised = (torch.empty(shape, dtype=torch.bool, device="meta") for _ in range(2))
        return torch.empty(shape, dtype=torch.int64, device="meta"), mask, supervised

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of token ids, without the placeholders."""
        return self._known.decode([int(i) for i in token_ids if int(i) >= 0], skip_special_tokens=skip_special_tokens)

    def save(self, directory: Path) -> None:
        """Write the tokenizer and its chat template to a directory, if there are any."""
        if self.tokenizer is not None:
            self.tokenizer.save(str(directory / self.tokenizer_file))
        if self.chat_template is not None:
            (directory / TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8", newline="")

    def load(self, directory: Path) -> None:
        """Read the files written by ``save``."""
        path, template = directory / self.tokenizer_file, directory / TEMPLATE_FILE
        if path.exists():
            text = read_text(template) if template.exists() else None
            self.use(GivenTokenizer(read_tokenizer_file(path), chat_template=text))

    @property
    def _known(self) -> Tokenizer:
        if self.tokenizer is None:
            raise DataError(f"this system has no tokenizer yet: {self._how_to_get_one()}")
        return self.tokenizer

    def _id(self, name: str) -> int:
        number = self._known.token_to_id((self.names or {})[name])
        assert number is not None, name  # checked in ``use``
        return number

    def _how_to_get_one(self) -> str:
        if self.source == "given":
            return "the language model's weights came without one; put tokenizer.json and tokenizer_config.json beside them"
        return "train it, or load trained weights"
