"""The one stream of text and pictures of Kosmos: documents, pairs of picture and caption, and questions with their answers.

Paper: Huang et al. 2023, "Language Is Not All You Need: Aligning Perception with Language Models" (arXiv 2302.14045), section 2.2 (the
sequences) and table 1; section 4.1 for "Question: ... Answer: ...". What is written, with ``<image>`` for symbol, latents and symbol::

    document            <s>text<image> text<image> text</s>     learnt: all but <s>
    picture, caption    <s><image> caption</s>                  learnt: the caption
    question, answer    <s><image> Question: q Answer: a</s>    learnt: the answer

and before "Question:" ``<grounding>``, where a question begins with it (Kosmos-2, arXiv 2306.14824: the answer then names places).

Where we differ: the paper does not say how spaces go with pictures; here none stands before one and one behind it, whatever a document
has there, so that a caption begins with the same token everywhere. Of several answers all but the last end with a new line.
"""

import re
from collections.abc import Sequence

from zoo.errors import ItemError
from zoo.processors.chat.grounding import GROUNDING
from zoo.processors.chat.messages import MARKERS, Message
from zoo.processors.chat.template_pieces import Piece, Symbols, in_turn

KOSMOS_SPANS = {"image": ("<image>", "</image>"), "audio": ("<audio>", "</audio>")}
KOSMOS_WORDS = "\nQuestion: Answer:"
KOSMOS_STOP = "\nQuestion:"  # where a model goes on by itself with the next of several questions
_MARKER = "|".join(map(re.escape, MARKERS.values()))
_AROUND = re.compile(rf"\s*({_MARKER})\s*")
_BEHIND = re.compile(rf"({_MARKER})(?!$|[\s.,;:!?)\]]|{_MARKER})")  # a marker that a word follows
_LEADING = re.compile(rf"(?:\s*(?:{_MARKER}))*")


class Kosmos:
    """Documents, or questions and answers in turn, between ``<s>`` and ``</s>``."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system, self.end = symbols, system or "", symbols.eos

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """The pieces of a document, of a document and what is said to it, or of questions and answers.

        Raises:
            ItemError: messages in another order.
        """
        said = [message.text for message in messages if message.role == "system"] or [self.system]
        turns = [message for message in messages if message.role != "system"]
        pieces = [Piece(self.symbols.bos), *(Piece(text + "\n") for text in said if text)]
        roles = [turn.role for turn in turns]
        if roles in (["document"], ["assistant"]):
            return [*pieces, self._document(turns[0].text, for_generation)]
        if roles == ["document", "assistant"]:
            return [*pieces, Piece(spaced(turns[0].text)), self._answer(turns[1].text, for_generation)]
        if "document" in roles:
            raise ItemError(f"template kosmos takes a document alone, perhaps with an answer behind it; got {', '.join(roles)}", "roles")
        rounds = in_turn(turns, "kosmos")[1]
        for number, (question, answer) in enumerate(rounds):
            pieces.append(Piece(_question(question)))
            if answer is None:
                continue
            last = number == len(rounds) - 1
            between = "" if last or _is_marked(rounds[number + 1][0]) else "\n"
            pieces.append(self._answer(answer, for_generation) if last else Piece(f" {answer.strip()}{between}", supervised=True))
        return pieces

    def _document(self, text: str, for_generation: bool) -> Piece:
        text = spaced(text)
        return Piece(text) if for_generation else Piece(text + self.end, supervised=True)

    def _answer(self, text: str, for_generation: bool) -> Piece:
        text = f" {spaced(text)}" if text.strip() else ""
        return Piece(text) if for_generation else Piece(text + self.end, supervised=True)


def spaced(text: str) -> str:
    r"""A text without spaces before markers and with one behind them: ``"a <image>\n<image>\nb "`` -> ``"a<image><image> b"``."""
    return _BEHIND.sub(r"\1 ", _AROUND.sub(r"\1", text)).strip()


def _question(text: str) -> str:
    """Pictures that come first, then the question; pictures alone are those of a caption."""
    text = spaced(text)
    shown = _LEADING.match(text).group()  # type: ignore[union-attr]  # which matches the empty text too
    asked = text[len(shown) :].strip()
    words = asked.removeprefix(GROUNDING).strip()
    tag = [GROUNDING] if asked.startswith(GROUNDING) else []
    return " ".join([*([shown] if shown else []), *tag, *([f"Question: {words} Answer:"] if words else [])])


def _is_marked(text: str) -> bool:
    return _LEADING.match(text).group() != ""  # type: ignore[union-attr]
