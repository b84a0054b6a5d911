"""Documents of digits and symbols, "<image> A<image> B<image> A ...", in which digits are given other symbols each time.

What a symbol stands for is told by nothing but what stands before it in the document: whoever names the last picture has learnt in
context. The labelling is drawn anew as in Olsson et al. 2022 (arXiv 2209.11895) and Chan et al. 2022 (arXiv 2205.05055), section 2, where
characters of Omniglot are given labels for one sequence.

Where we differ: classes are drawn independently of one another, so that no symbol follows from how often each was said.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from zoo.errors import ConfigError, name_choices
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.registry import register
from zoo.sources.digits import draw_digit, load_digits, refuse_split, split_indices
from zoo.types import Sample

SPLITS = ("train", "validation", "test")
SYMBOLS = {
    "letters": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "words": tuple("apple bird boat bread chair cloud door fish glass hand horse house lamp leaf moon paper river road rose star".split()),
}
FIXED_DOCUMENTS = 400  # of validation and test
SIDE = 32  # pixels
_DOCUMENT_SEED = 102  # fixed for ever: test documents must not change between runs


@register("source")
class DigitDocuments:
    """Pictures of digits, each followed by its symbol; the sample's ``choices`` are the document's symbols.

    Digits are as large as those of ``digit_pairs`` and stand where these do, one in a picture, so that an encoder trained there can see.

    Args:
        num_classes: different digits in a document; a document need not show all of them.
        num_examples: pictures before the last one.
        symbols: "letters", "words", or a list of strings; as many as classes are drawn for each document.
        documents: how many make one epoch; each is drawn anew from its number and the epoch.

    Raises:
        ConfigError: numbers or symbols that cannot be.
    """

    modalities = ("image", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(
        self, *, num_classes: int = 2, num_examples: int = 8, symbols: str | Sequence[str] = "letters", documents: int = 19200
    ) -> None:
        self.symbols = _checked_symbols(symbols)
        most = min(10, len(self.symbols))
        if not 2 <= num_classes <= most:
            raise ConfigError(f"num_classes: {num_classes}; allowed is 2 to {most} (there are ten digits and {len(self.symbols)} symbols)")
        for key, value in (("num_examples", num_examples), ("documents", documents)):
            if value < 1:
                raise ConfigError(f"{key}: {value}; allowed is 1 or more")
        self.num_classes, self.num_examples, self.documents = num_classes, num_examples, documents

    def split(self, name: str) -> "DigitDocumentsSplit":
        """Documents of the digits of "train", "validation" or "test"."""
        refuse_split(name, SPLITS)
        return DigitDocumentsSplit(self, name)

    def captions(self) -> list[str]:
        """Every symbol as it stands behind a picture, behind a space."""
        return [f" {symbol}" for symbol in self.symbols]


class DigitDocumentsSplit:
    """Documents of the digits of one split."""

    def __init__(self, source: DigitDocuments, name: str) -> None:
        self.source, self.name = source, name
        labels, indices = load_digits()[1], split_indices(name)
        self.members = [indices[labels[indices] == digit] for digit in range(10)]

    def __len__(self) -> int:
        return self.source.documents if self.name == "train" else FIXED_DOCUMENTS

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Document ``index``; without a generator its own number seeds it."""
        source = self.source
        generator = generator if generator is not None else np.random.default_rng((_DOCUMENT_SEED, SPLITS.index(self.name), index))
        digits = generator.choice(10, source.num_classes, replace=False)
        words = [source.symbols[i] for i in generator.choice(len(source.symbols), source.num_classes, replace=False)]
        shown = generator.integers(source.num_classes, size=source.num_examples + 1)
        images = tuple(self._picture(int(digits[each]), generator) for each in shown)
        text = "".join(f"{MARKERS['image']} {words[each]}" for each in shown)
        id = f"digit_documents:{self.name}:{index}"
        conversation = Conversation((Message("document", text),), images, id=id)
        return Sample(id, {"conversation": conversation}, answers=[words[shown[-1]]], choices=sorted(words))

    def _picture(self, digit: int, generator: np.random.Generator) -> UInt8[np.ndarray, "32 32"]:
        canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
        size, side = int(generator.integers(14, 17)), int(generator.integers(2))
        left, top = 16 * side + int(generator.integers(0, 17 - size)), int(generator.integers(5, 28 - size))
        draw_digit(canvas, load_digits()[0][int(generator.choice(self.members[digit]))], left=left, top=top, size=size)
        return canvas


def _checked_symbols(symbols: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(symbols, str):
        if symbols not in SYMBOLS:
            raise ConfigError(f"symbols: there is no {symbols!r}; {name_choices(symbols, SYMBOLS)}; or give a list of strings")
        return SYMBOLS[symbols]
    wrong = [word for word in symbols if not isinstance(word, str) or not word or word != word.strip() or "<" in word]
    if wrong or len(set(symbols)) < len(symbols):
        what = f"{wrong[0]!r} is none" if wrong else "two are equal"
        raise ConfigError(f"symbols: {what}; give different words without spaces around them and without '<'")
    return tuple(symbols)
