"""Chat templates: render messages as one text for a language model, with the supervised parts marked.

References: haotian-liu/LLaVA ``conversation.py`` (plain, vicuna_v1, llama2: ``conv_llava_plain``, ``conv_vicuna_v1``,
``conv_llava_llama_2``) and ``train.py`` (its masks); OpenAI's ChatML. Where we differ: supervised tokens are found by their character
offsets in the text, not by counting tokens, so that no tokenizer can shift them by one. A single image or audio clip moves to the front
of its message as in LLaVA; several stay in place. Jinja templates of tokenizers are in ``zoo.processors.chat.jinja_template``, the
template of documents in ``zoo.processors.chat.kosmos_template``.
"""

from collections.abc import Mapping, Sequence

from zoo.errors import ConfigError, ItemError, name_choices
from zoo.processors.chat.jinja_template import Jinja
from zoo.processors.chat.kosmos_template import KOSMOS_SPANS, KOSMOS_STOP, Kosmos
from zoo.processors.chat.messages import MARKERS, Message
from zoo.processors.chat.template_pieces import ChatTemplate, Piece, Symbols, answer_piece, in_turn, markers, media_first, with_system

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


class Plain:
    r"""Template of a caption after its images and clips: ``<image>a cat\n`` (LLaVA, stage 1); it drops the text of the user's message."""

    end = "\n"

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system = symbols, system or ""

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """Return the pieces of at most one user message and one answer.

        Raises:
            ItemError: the messages have other roles.
        """
        roles = [message.role for message in messages if message.role != "system"]
        if roles not in (["user"], ["user", "assistant"], ["assistant"]):
            raise ItemError(
                f"template plain takes one user message with images or clips and one caption (assistant); got {', '.join(roles)}", "roles"
            )
        shown = "".join(markers(message.text) for message in messages if message.role == "user")
        pieces = [Piece(self.symbols.start + self.system + shown)]
        return pieces + [answer_piece(message.text, self.end, for_generation) for message in messages if message.role == "assistant"]


class Vicuna:
    """Template ``SYSTEM USER: question ASSISTANT: answer</s>USER: ...`` (Vicuna v1.1, v1.5; LLaVA 1.5)."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system = symbols, VICUNA_SYSTEM if system is None else system
        self.end = symbols.eos or "</s>"

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """Return the pieces of alternating questions and answers.

        Raises:
            ItemError: user and assistant do not alternate.
        """
        system, rounds = in_turn(messages, "vicuna_v1")
        system = self.system if system is None else system
        pieces = [Piece(self.symbols.start + (system + " " if system else ""))]
        for number, (question, answer) in enumerate(rounds):
            pieces.append(Piece(f"USER: {media_first(question)} ASSISTANT:"))
            if answer is not None:
                pieces.append(answer_piece(" " + answer, self.end, for_generation and number == len(rounds) - 1))
        return pieces


class Llama2:
    r"""Template ``<s>[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nquestion [/INST] answer </s><s>[INST] ...`` (LLaMA-2-chat, as in LLaVA)."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system = symbols, LLAMA2_SYSTEM if system is None else system
        self.end = symbols.eos or "</s>"

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """Return the pieces of alternating questions and answers.

        Raises:
            ItemError: user and assistant do not alternate.
        """
        system, rounds = in_turn(messages, "llama2")
        system = self.system if system is None else system
        pieces = []
        for number, (question, answer) in enumerate(rounds):
            prefix = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system and not number else ""
            pieces.append(Piece(f"{self.symbols.bos}[INST] {prefix}{media_first(question)} [/INST]"))
            if answer is not None:
                unfinished = for_generation and number == len(rounds) - 1
                pieces.append(answer_piece(" " + answer, " " + self.end, unfinished))
        return pieces


class Chatml:
    r"""Template ``<|im_start|>user\nquestion<|im_end|>\n<|im_start|>assistant\nanswer<|im_end|>\n``; roles in any order."""

    end = CHATML_END

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system = symbols, system or ""

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """Return the pieces of messages with roles in any order."""
        pieces = []
        for message in with_system(messages, self.system):
            head = f"{CHATML_START}{message.role}\n"
            if message.role != "assistant":
                pieces.append(Piece(f"{head}{message.text}{CHATML_END}\n"))
                continue
            unfinished = for_generation and message is messages[-1]
            pieces += [Piece(head), answer_piece(message.text, CHATML_END, unfinished), *([] if unfinished else [Piece("\n")])]
        if for_generation and messages[-1].role != "assistant":
            pieces.append(Piece(f"{CHATML_START}assistant\n"))
        return pieces


class Nothing:
    """Template that concatenates the texts unchanged and ends an answer with the end symbol; for models without chat training."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system, self.end = symbols, system or "", symbols.eos

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """Return the pieces of messages with roles in any order."""
        pieces = [Piece(self.symbols.start + self.system)]
        for message in messages:
            last = message is messages[-1]
            if message.role == "assistant" or (message.role == "document" and last):
                pieces.append(answer_piece(message.text, self.end, for_generation and last))
            else:
                pieces.append(Piece(message.text))
        return pieces


class PaliGemma:
    r"""Template ``<image><bos>question\nanswer<eos>``: images first, one question, one answer (arXiv 2407.07726)."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        if system:
            raise ConfigError(f"system: {system!r:.60}, but template paligemma has no system prompt; set it to null")
        self.symbols, self.end = symbols, symbols.eos

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """Return the pieces of at most one question and one answer.

        Raises:
            ItemError: the messages have other roles.
        """
        roles = [message.role for message in messages]
        if roles not in (["user"], ["user", "assistant"]):
            raise ItemError(f"template paligemma takes one user message and one answer (assistant); got {', '.join(roles)}", "roles")
        shown, text = markers(messages[0].text), messages[0].text
        for marker in MARKERS.values():
            text = text.replace(marker, "")
        pieces = [Piece(f"{shown}{self.symbols.bos}{text.strip()}\n")]
        return pieces + [answer_piece(message.text, self.end, for_generation) for message in messages[1:]]


NAMED = {"plain": Plain, "vicuna_v1": Vicuna, "llama2": Llama2, "chatml": Chatml, "none": Nothing, "kosmos": Kosmos, "paligemma": PaliGemma}
TEMPLATES = (*NAMED, TOKENIZERS_OWN)
TAKE_DOCUMENTS = ("kosmos", "none")  # the other templates have no place for a text without a speaker
SPANS = {"kosmos": KOSMOS_SPANS}  # by template: symbols before and after the tokens of an image or clip
STOPS = {"kosmos": (KOSMOS_STOP,)}  # by template: strings that end an answer, in addition to its end symbol


def build_template(name: str, symbols: Symbols, system: str | None, source: str | None) -> ChatTemplate:
    """Build a chat template by name.

    Args:
        system: system prompt; None takes the template's default.
        source: the tokenizer's Jinja template; None if it has none.

    Raises:
        ConfigError: the name is unknown, or the tokenizer has no chat template.
    """
    if name in NAMED:
        return NAMED[name](symbols, system)
    if name != TOKENIZERS_OWN:
        raise ConfigError(f"template: there is no {name!r}; {name_choices(name, TEMPLATES)}")
    if source is None:
        raise ConfigError(f"template: {name}, but the tokenizer has no chat template; choose one of {', '.join(NAMED)}")
    return Jinja(source, symbols, system)


def checked_spans(spans: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Return the symbols before and after the tokens of an item, by modality; raise ConfigError if they cannot be used."""
    found = {}
    for modality, words in spans.items():
        if modality not in MARKERS:
            raise ConfigError(f"spans: there is no modality {modality!r}; {name_choices(str(modality), MARKERS)}")
        if isinstance(words, str) or len(words) != 2 or not all(isinstance(word, str) and word for word in words) or words[0] == words[1]:
            raise ConfigError(f"spans.{modality}: {words!r}; give two different special tokens, for example ['<image>', '</image>']")
        found[modality] = (words[0], words[1])
    return found
