"""Chat template of Kosmos: interleaved documents, image-caption pairs, and questions with answers as one token sequence.

Paper: Huang et al. 2023, "Language Is Not All You Need: Aligning Perception with Language Models" (arXiv 2302.14045), section 2.2 (the
sequences) and table 1; section 4.1 for "Question: ... Answer: ...". The sequences are as follows; ``<image>`` stands for the start
symbol, the image's latents and the end symbol::

    document            <s>text<image> text<image> text</s>     supervised: all but <s>
    image, caption      <s><image> caption</s>                  supervised: the caption
    question, answer    <s><image> Question: q Answer: a</s>    supervised: the answer

A question that begins with ``<grounding>`` has this tag before "Question:" (Kosmos-2, arXiv 2306.14824: the answer then has boxes).

Where we differ: the paper does not define the spaces around images. Here an image has no space before it and one space after it,
whatever the document has there, so that a caption always begins with the same token. If there are several answers, all but the last
end with a new line.
"""

import re
from collections.abc import Sequence

from zoo.errors import ItemError
from zoo.processors.chat.grounding import GROUNDING
from zoo.processors.chat.messages import MARKERS, Message
from zoo.processors.chat.template_pieces import Piece, Symbols, in_turn

KOSMOS_SPANS = {"image": ("<image>", "</image>"), "audio": ("<audio>", "</audio>")}
KOSMOS_WORDS = "\nQuestion: Answer:"
KOSMOS_STOP = "\nQuestion:"  # after its answer, a model may go on with a next question, as in training; generation stops here
_MARKER = "|".join(map(re.escape, MARKERS.values()))
_AROUND = re.compile(rf"\s*({_MARKER})\s*")
_BEHIND = re.compile(rf"({_MARKER})(?!$|[\s.,;:!?)\]]|{_MARKER})")  # a marker directly before a word
_LEADING = re.compile(rf"(?:\s*(?:{_MARKER}))*")


class Kosmos:
    """Chat template for documents, or alternating questions and answers, between ``<s>`` and ``</s>``."""

    def __init__(self, symbols: Symbols, system: str | None) -> None:
        self.symbols, self.system, self.end = symbols, system or "", symbols.eos

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]:
        """Return the pieces of a document, of a document with one answer, or of alternating questions and answers.

        Raises:
            ItemError: the roles are in another order.
        """
        system = [message.text for message in messages if message.role == "system"] or [self.system]
        turns = [message for message in messages if message.role != "system"]
        pieces = [Piece(self.symbols.bos), *(Piece(text + "\n") for text in system if text)]
        roles = [turn.role for turn in turns]
        if roles in (["document"], ["assistant"]):
            return [*pieces, self._document(turns[0].text, for_generation)]
        if roles == ["document", "assistant"]:
            return [*pieces, Piece(spaced(turns[0].text)), self._answer(turns[1].text, for_generation)]
        if "document" in roles:
            raise ItemError(
                f"template kosmos takes a document, or a document and one answer, without other messages; got {', '.join(roles)}", "roles"
            )
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
    r"""Remove white space before markers and put one space behind them: ``"a <image>\n<image>\nb "`` -> ``"a<image><image> b"``."""
    return _BEHIND.sub(r"\1 ", _AROUND.sub(r"\1", text)).strip()


def _question(text: str) -> str:
    """Return leading markers, then the question; markers without any text are those of a caption and stay without "Question:"."""
    text = spaced(text)
    leading = _LEADING.match(text).group()  # type: ignore[union-attr]  # the pattern also matches the empty string
    rest = text[len(leading) :].strip()
    question = rest.removeprefix(GROUNDING).strip()
    tag = [GROUNDING] if rest.startswith(GROUNDING) else []
    return " ".join([*([leading] if leading else []), *tag, *([f"Question: {question} Answer:"] if question else [])])


def _is_marked(text: str) -> bool:
    return _LEADING.match(text).group() != ""  # type: ignore[union-attr]
