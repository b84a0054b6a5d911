"""Chat templates that come with a tokenizer: Jinja, rendered in the sandbox of transformers (its ``chat_template_utils.py``)."""

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from zoo.errors import ConfigError, ItemError, WeightsError
from zoo.processors.chat.messages import Message
from zoo.processors.chat.template_pieces import Piece, Symbols, with_system

PROBE = "q0z"  # a word that stands in no template


class Jinja:
    """A tokenizer's own template, rendered as transformers does.

    What the assistant says is found by rendering the messages before it with the assistant's prefix, and then with it: each text must
    begin the next one. An answer ends with the special token behind it.

    Raises:
        WeightsError: the template cannot be parsed.
    """

    def __init__(self, source: str, symbols: Symbols, system: str | None) -> None:
        self.source, self.symbols, self.system = source, symbols, system or ""
        _compiled(source)

    @property
    def end(self) -> str:
        """The special token behind an answer; empty where there is none."""
        try:
            pieces = self.pieces([Message("user", "a"), Message("assistant", PROBE)])
        except ItemError:
            return self.symbols.eos
        said = next((piece.text for piece in pieces if piece.supervised), "")
        return said.partition(PROBE)[2].strip() or self.symbols.eos

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """The pieces of any messages that the template takes.

        Raises:
            ItemError: the template refuses them, or writes earlier messages anew when others follow.
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
            said, rest = self._said(through[len(before) :], message.text)
            if for_generation and number == len(messages) - 1:
                return [*pieces, Piece(whole[done : len(before)]), Piece(_through(said, message.text.strip()))]
            pieces += [Piece(whole[done : len(before)]), Piece(said, supervised=True)]
            done = len(through) - len(rest)
        return [*pieces, Piece(whole[done:])]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The text of messages, as ``apply_chat_template`` of transformers gives it."""
        if not messages:
            return self._rendered([], add_generation_prompt)
        rows = [{"role": message.role, "content": message.text} for message in messages]
        if _takes_parts(self.source, tuple(sorted(self.symbols.names.items()))):
            rows = [{"role": message.role, "content": [{"type": "text", "text": message.text}]} for message in messages]
        return self._rendered(rows, add_generation_prompt)

    def _rendered(self, rows: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        return _render(self.source, rows, self.symbols.names, add_generation_prompt)

    def _said(self, text: str, answer: str) -> tuple[str, str]:
        """An answer through the first special token behind it, and what follows that."""
        place = text.find(answer.strip())
        after = 0 if place < 0 else place + len(answer.strip())
        ends = [text.index(word, after) + len(word) for word in self.symbols.special if word in text[after:]]
        end = min(ends, default=after or len(text))
        return text[:end], text[end:]

    def _refuse_rewriting(self, before: str, after: str, count: int) -> None:
        if not after.startswith(before):
            raise ItemError(
                f"the tokenizer's chat template writes its first {count} messages otherwise when more follow, so that what is to be learnt "
                f"cannot be found: {before[-60:]!r} does not begin {after[:60]!r}...; choose another template, for example chatml",
                "template",
            )


def _through(text: str, word: str) -> str:
    """A text as far as a word, and that too."""
    place = text.find(word)
    return text if place < 0 else text[: place + len(word)]


@functools.cache
def _takes_parts(source: str, names: tuple[tuple[str, str], ...]) -> bool:
    """Whether a template loses a message that is a string and shows one that is a list of parts, as those of processors do."""

    def shows(content: Any) -> bool:
        try:
            return PROBE in _render(source, [{"role": "user", "content": content}], dict(names), True)
        except ItemError:
            return False

    return not shows(PROBE) and shows([{"type": "text", "text": PROBE}])


def _render(source: str, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], add_generation_prompt: bool) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return _compiled(source).render(messages=rows, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **names)
    except (TemplateError, TypeError, ValueError) as error:  # a template may do anything to what it is given
        raise ItemError(f"the tokenizer's chat template refuses {[row['role'] for row in rows]}: {error}", "template") from error


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    """A Jinja template in transformers' sandbox: nothing of Python can be reached from it."""
    try:
        from jinja2 import nodes
        from jinja2.exceptions import TemplateError
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ConfigError(f"template: tokenizer needs jinja2 ({error}); install it with: pip install jinja2") from error

    class Generation(Extension):
        """``{% generation %}...{% endgeneration %}``, around what the assistant says: shown as it is."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise WeightsError(
            f"the tokenizer's chat template cannot be parsed ({error}); choose another template, for example chatml"
        ) from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Jinja's own escapes what means something in HTML; the keywords are those that templates use."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
