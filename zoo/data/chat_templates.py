"""Chat templates: messages to the one text that a language model reads, with the part that it learns to say marked.

References: haotian-liu/LLaVA ``conversation.py`` (plain, vicuna_v1, llama2: ``conv_llava_plain``, ``conv_vicuna_v1``,
``conv_llava_llama_2``) and ``train.py`` (its masks); OpenAI's ChatML; transformers ``chat_template_utils.py`` (Jinja templates,
which are rendered in the same sandbox). Where we differ: what is learnt is found by where a text stands, not by counting tokens, so
that no tokenizer can put it off by one; a single picture or clip moves to the front of its message as in LLaVA, several stay where
they are.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from zoo.data.messages import MARKERS, Message
from zoo.errors import ConfigError, ItemError, WeightsError, name_choices

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LLAMA2_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
CHATML_START, CHATML_END = "<|im_start|>", "<|im_end|>"
TOKENIZERS_OWN = "tokenizer"  # the template that came with the tokenizer
PROBE = "q0z"  # a word that stands in no template


@dataclass(frozen=True)
class Piece:
    """A part of the text; what is supervised is learnt."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Symbols:
    """What a tokenizer calls its special tokens.

    Attributes:
        names: by transformers' names, as Jinja templates ask for them: ``{"bos_token": "<s>", "eos_token": "</s>"}``.
        starts: whether the tokenizer begins every text with ``bos_token``.
        special: the words of all special tokens.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    starts: bool = False
    special: frozenset[str] = frozenset()

    @property
    def bos(self) -> str:
        """What begins a text; empty without."""
        return self.names.get("bos_token", "")

    @property
    def eos(self) -> str:
        """What ends a text; empty without."""
        return self.names.get("eos_token", "")

    @property
    def start(self) -> str:
        """What the tokenizer would put before a text by itself."""
        return self.bos if self.starts else ""


@runtime_checkable
class ChatTemplate(Protocol):
    """Messages to pieces of text.

    ``end`` is what ends an answer. For generation, messages that end with the user's are followed by the assistant's prefix, and an
    answer that is begun is to be continued.
    """

    @property
    def end(self) -> str: ...

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]: ...


class Plain:
    r"""A caption behind its pictures and clips: ``<image>a cat\n``; what the user says beside them is left out (LLaVA, stage 1)."""

    end = "\n"

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system = symbols, system or ""

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """The pieces of one question and its answer."""
        roles = [message.role for message in messages if message.role != "system"]
        if roles not in (["user"], ["user", "assistant"], ["assistant"]):
            raise ItemError(f"template plain takes one caption behind its pictures; got {', '.join(roles)}", "roles")
        shown = "".join(_markers(message.text) for message in messages if message.role == "user")
        pieces = [Piece(self.symbols.start + self.system + shown)]
        return pieces + [_answer(message.text, self.end, for_generation) for message in messages if message.role == "assistant"]


class Vicuna:
    """``SYSTEM USER: question ASSISTANT: answer</s>USER: ...`` (Vicuna v1.1, v1.5; LLaVA 1.5)."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system = symbols, VICUNA_SYSTEM if system is None else system
        self.end = symbols.eos or "</s>"

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """The pieces of questions and answers in turn."""
        system, rounds = _rounds(messages, "vicuna_v1")
        system = self.system if system is None else system
        pieces = [Piece(self.symbols.start + (system + " " if system else ""))]
        for number, (question, answer) in enumerate(rounds):
            pieces.append(Piece(f"USER: {_media_first(question)} ASSISTANT:"))
            if answer is not None:
                pieces.append(_answer(" " + answer, self.end, for_generation and number == len(rounds) - 1))
        return pieces


class Llama2:
    r"""``<s>[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nquestion [/INST] answer </s><s>[INST] ...`` (LLaMA-2-chat, LLaVA's of it)."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system = symbols, LLAMA2_SYSTEM if system is None else system
        self.end = symbols.eos or "</s>"

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """The pieces of questions and answers in turn."""
        system, rounds = _rounds(messages, "llama2")
        system = self.system if system is None else system
        pieces = []
        for number, (question, answer) in enumerate(rounds):
            said = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system and not number else ""
            pieces.append(Piece(f"{self.symbols.bos}[INST] {said}{_media_first(question)} [/INST]"))
            if answer is not None:
                unfinished = for_generation and number == len(rounds) - 1
                pieces.append(_answer(" " + answer, " " + self.end, unfinished))
        return pieces


class Chatml:
    r"""``<|im_start|>user\nquestion<|im_end|>\n<|im_start|>assistant\nanswer<|im_end|>\n``; any order of roles."""

    end = CHATML_END

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system = symbols, system or ""

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """The pieces of any messages."""
        pieces = []
        for message in _with_system(messages, self.system):
            head = f"{CHATML_START}{message.role}\n"
            if message.role != "assistant":
                pieces.append(Piece(f"{head}{message.text}{CHATML_END}\n"))
                continue
            unfinished = for_generation and message is messages[-1]
            pieces += [Piece(head), _answer(message.text, CHATML_END, unfinished), *([] if unfinished else [Piece("\n")])]
        if for_generation and messages[-1].role != "assistant":
            pieces.append(Piece(f"{CHATML_START}assistant\n"))
        return pieces


class Nothing:
    """The texts as they are, one behind the other, and the end symbol behind an answer: a language model that knows no chat."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system, self.end = symbols, system or "", symbols.eos

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """The pieces of any messages."""
        pieces = [Piece(self.symbols.start + self.system)]
        for message in messages:
            if message.role == "assistant":
                pieces.append(_answer(message.text, self.end, for_generation and message is messages[-1]))
            else:
                pieces.append(Piece(message.text))
        return pieces


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
        messages = _with_system(messages, self.system)
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


NAMED = {"plain": Plain, "vicuna_v1": Vicuna, "llama2": Llama2, "chatml": Chatml, "none": Nothing}
TEMPLATES = (*NAMED, TOKENIZERS_OWN)


def build_template(name: str, symbols: Symbols, system: str | None, source: str | None) -> ChatTemplate:
    """The template of a name.

    Args:
        system: what the assistant is told first; None is the template's own sentence.
        source: the tokenizer's Jinja template, where it has one.

    Raises:
        ConfigError: there is no such template, or the tokenizer has none.
    """
    if name in NAMED:
        return NAMED[name](symbols, system)
    if name != TOKENIZERS_OWN:
        raise ConfigError(f"template: there is no {name!r}; {name_choices(name, TEMPLATES)}")
    if source is None:
        raise ConfigError(f"template: {name}, but the tokenizer brings no chat template; choose one of {', '.join(NAMED)}")
    return Jinja(source, symbols, system)


def _answer(text: str, end: str, unfinished: bool) -> Piece:
    """What the assistant says, to be learnt with its end; or said in part, to be continued."""
    return Piece(text) if unfinished else Piece(text + end, supervised=True)


def _markers(text: str) -> str:
    """The markers of a text alone, in order."""
    places = sorted((at, marker) for marker in MARKERS.values() for at in _places(text, marker))
    return "".join(marker for _, marker in places)


def _places(text: str, word: str) -> list[int]:
    found, at = [], text.find(word)
    while at >= 0:
        found.append(at)
        at = text.find(word, at + len(word))
    return found


def _media_first(text: str) -> str:
    r"""A single marker at the front, on a line of its own: "what is <image>?" -> "<image>\nwhat is ?"; several stay."""
    marker = _markers(text)
    if marker not in MARKERS.values():
        return text
    return f"{marker}\n{text.replace(marker, '').strip()}".strip()


def _with_system(messages: Sequence[Message], system: str) -> list[Message]:
    said = [Message("system", system)] if system and messages[0].role != "system" else []
    return [*said, *messages]


def _rounds(messages: Sequence[Message], template: str) -> tuple[str | None, list[tuple[str, str | None]]]:
    """What the system says, where it does, and the questions with their answers; the last may have none yet."""
    system = messages[0].text if messages[0].role == "system" else None
    turns = messages[system is not None :]
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            raise ItemError(
                f"template {template} takes user and assistant in turn, and system first only; message {number + 1} (without "
                f"the system's) is the {message.role}'s, not the {expected}'s; join what one side says, or choose template chatml",
                "roles",
            )
    if not turns:
        raise ItemError(f"template {template} needs a message of the user; got the system's alone", "roles")
    answers = [*(message.text for message in turns[1::2]), *([None] if len(turns) % 2 else [])]
    return system, list(zip((message.text for message in turns[::2]), answers, strict=True))


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
