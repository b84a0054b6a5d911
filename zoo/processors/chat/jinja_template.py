"""Jinja chat templates that come with a tokenizer, rendered in a sandbox as in transformers (``chat_template_utils.py``)."""

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from zoo.errors import ItemError, WeightsError
from zoo.processors.chat.messages import MARKERS, Message
from zoo.processors.chat.template_pieces import Piece, Symbols, with_system

# Template code may apply any operation to its inputs, divide by zero, or nest without end.
TEMPLATE_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)
IMAGE = MARKERS["image"]
PROBE = "q0z"  # a string that no template contains, so that a match shows where a message was rendered


class Jinja:
    """Chat template of a tokenizer, rendered as transformers renders it.

    To find an assistant's answer in the text, two texts are compared: the messages before it with the assistant's prefix, and the
    messages up to and including it. The first must be a prefix of the second. The answer ends with the next special token.

    Raises:
        WeightsError: the template cannot be parsed.
    """

    def __init__(self, source: str, symbols: Symbols, system: str | None) -> None:
        self.source, self.symbols, self.system = source, symbols, system or ""
        _compiled(source)

    @property
    def end(self) -> str:
        """Special token that ends an answer; empty if the template and the tokenizer have none."""
        try:
            pieces = self.pieces([Message("user", "a"), Message("assistant", PROBE)])
        except ItemError:
            return self.symbols.eos
        answer = next((piece.text for piece in pieces if piece.supervised), "")
        return answer.partition(PROBE)[2].strip() or self.symbols.eos

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """Return the pieces of messages, with the assistant's answers supervised; see ``ChatTemplate``.

        Raises:
            ItemError: the template refuses the messages, or renders earlier messages differently when others follow.
        """
        messages = with_system(messages, self.system)
        if for_generation and messages[-1].role != "assistant":
            return [Piece(self.render(messages, add_generation_prompt=True))]
        whole, done, pieces = self.render(messages), 0, []
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.render(messages[:number], add_generation_prompt=True)
            through = whole if number == len(messages) - 1 else self.render(messages[: number + 1])
            self._refuse_rewriting(before, through, number)
            self._refuse_rewriting(through, whole, number + 1)
            answer, rest = self._split_answer(through[len(before) :], message.text)
            if for_generation and number == len(messages) - 1:
                return [*pieces, Piece(whole[done : len(before)]), Piece(_through(answer, message.text.strip()))]
            pieces += [Piece(whole[done : len(before)]), Piece(answer, supervised=True)]
            done = len(through) - len(rest)
        return [*pieces, Piece(whole[done:])]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Return the text of messages; equal to the result of ``apply_chat_template`` in transformers."""
        if not messages:
            return self._rendered([], add_generation_prompt)
        rows: list[dict[str, Any]] = [{"role": message.role, "content": message.text} for message in messages]
        names = tuple(sorted(self.symbols.names.items()))
        word, needs = _image_word(self.source, names, self.symbols.special), _takes_parts(self.source, names)
        for row, message in zip(rows, messages, strict=True):
            if word and (needs or IMAGE in message.text):
                row["content"] = _parts(message.text)
            elif needs:
                row["content"] = _one_part(message.text)
        text = self._rendered(rows, add_generation_prompt)
        return text if not word else text.replace(word, IMAGE)

    def _rendered(self, rows: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        return _render(self.source, rows, self.symbols.names, add_generation_prompt)

    def _split_answer(self, text: str, answer: str) -> tuple[str, str]:
        """Split a text that begins with an answer after the first special token behind the answer."""
        place = text.find(answer.strip())
        after = 0 if place < 0 else place + len(answer.strip())
        ends = [text.index(word, after) + len(word) for word in self.symbols.special if word in text[after:]]
        end = min(ends, default=after or len(text))
        return text[:end], text[end:]

    def _refuse_rewriting(self, before: str, after: str, count: int) -> None:
        if not after.startswith(before):
            raise ItemError(
                f"the tokenizer's chat template renders the first {count} messages differently when more follow, so that the supervised "
                f"text cannot be located: {before[-60:]!r} does not begin {after[:60]!r}...; choose another template, for example chatml",
                "template",
            )


def _one_part(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _parts(text: str) -> list[dict[str, str]]:
    """Return the content of a message: parts of type "image" for markers of images, and the texts between them.

    A line break between a marker and a text is left out: it is how our conversations separate the two, and the template has its own way.
    """
    pieces = text.split(IMAGE)
    parts = []
    for number, piece in enumerate(pieces):
        inner = piece.removeprefix("\n") if number else piece
        inner = inner if number == len(pieces) - 1 else inner.removesuffix("\n")
        parts += [*([{"type": "image"}] if number else []), *(_one_part(inner) if inner else [])]
    return parts or _one_part(text)


def _through(text: str, word: str) -> str:
    """Return a text up to and including the first occurrence of a word; the whole text if the word is missing."""
    place = text.find(word)
    return text if place < 0 else text[: place + len(word)]


@functools.cache
def _takes_parts(source: str, names: tuple[tuple[str, str], ...]) -> bool:
    """Return True if a template renders content given as a list of parts but drops a plain string, as templates of processors do."""

    def shows(content: Any) -> bool:
        try:
            return PROBE in _render(source, [{"role": "user", "content": content}], dict(names), True)
        except ItemError:
            return False

    return not shows(PROBE) and shows([{"type": "text", "text": PROBE}])


@functools.cache
def _image_word(source: str, names: tuple[tuple[str, str], ...], special: frozenset[str]) -> str:
    """Return the special tokens that a template writes for a part of type "image"; empty if it writes none.

    They are our marker, or others, for example ``<IMG_CONTEXT>`` of InternVL, or a pad token between its start and end.
    """
    try:
        shown = _render(source, [{"role": "user", "content": [{"type": "image"}, *_one_part(PROBE)]}], dict(names), True)
        plain = _render(source, [{"role": "user", "content": _one_part(PROBE)}], dict(names), True)
    except ItemError:
        return ""
    if IMAGE in shown:
        return IMAGE if shown.count(IMAGE) == 1 else ""
    before = shown.partition(PROBE)[0]
    common = next((i for i, (a, b) in enumerate(zip(before, plain, strict=False)) if a != b), len(before))
    word = before[common:].strip()
    rest = word
    for token in special:
        rest = rest.replace(token, "")
    return word if PROBE in shown and not rest else ""


def _render(source: str, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], add_generation_prompt: bool) -> str:
    from jinja2.exceptions import TemplateError

    from zoo.processors.chat.template_limits import rendered

    values = {"messages": rows, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt, **names}
    try:
        return rendered(_compiled(source), values)
    except (TemplateError, *TEMPLATE_ERRORS) as error:
        raise ItemError(f"the tokenizer's chat template refuses {[row['role'] for row in rows]}: {error}", "template") from error


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    """Compile a Jinja template in a sandbox set up as in transformers; it cannot reach Python's objects."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols

    from zoo.processors.chat.template_limits import LimitedEnvironment

    class Generation(Extension):
        """Tag ``{% generation %}...{% endgeneration %}`` that marks the assistant's text; its content is rendered unchanged."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return environment.from_string(source)
    except (TemplateError, *TEMPLATE_ERRORS, SyntaxError) as error:
        raise WeightsError(
            f"the tokenizer's chat template cannot be parsed ({error}); choose another template, for example chatml"
        ) from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Encode JSON without escaping HTML, unlike Jinja's own filter; the keywords are those that templates pass."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
