"""In-context learning task: documents "<image> A<image> B<image> A ..." with a new assignment of symbols to digits in each document.

The meaning of a symbol can only be inferred from the images and symbols before it, so a model that names the last image correctly has
learned in context. The assignment is drawn anew for each document, as in Olsson et al. 2022 (arXiv 2209.11895) and Chan et al. 2022
(arXiv 2205.05055), section 2, where Omniglot characters get labels for one sequence only.

Where we differ: the classes of the images are drawn independently, so that symbol frequencies do not give the answer away.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from zoo.errors import ConfigError, name_choices
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.registry import register
from zoo.sources.digits import draw_digit, load_digits, split_indices
from zoo.sources.wording.splits import refuse_split
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
SYMBOLS = {
    "letters": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "words": tuple("apple bird boat bread chair cloud door fish glass hand horse house lamp leaf moon paper river road rose star".split()),
}
FIXED_DOCUMENTS = 400  # documents in validation, and in test
SIDE = 32  # pixels; images are SIDE x SIDE
_DOCUMENT_SEED = 102  # do not change: test documents must stay the same between runs


@register("source")
class DigitDocuments(Source):
    """Images of digits, each followed by its symbol; the sample's ``choices`` are the symbols of the document.

    Digits have the sizes and positions of those in ``digit_pairs``, with one digit per 32 x 32 image, so that an encoder trained on
    ``digit_pairs`` can be used.

    Args:
        num_classes: number of different digits a document draws from; a document may show fewer.
        num_examples: images before the last one.
        symbols: "letters", "words", or a list of strings; ``num_classes`` of them are drawn for each document.
        documents: documents per training epoch; each is generated from its index and the epoch.

    Raises:
        ConfigError: a number is out of range, or symbols are not allowed.
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
        """Return documents made of the digits of "train", "validation" or "test".

        Raises:
            DataError: no such split.
        """
        refuse_split(name, SPLITS)
        return DigitDocumentsSplit(self, name)

    def captions(self) -> list[str]:
        """Return every symbol with a space before it, as it follows an image; text to train a tokenizer on."""
        return [f" {symbol}" for symbol in self.symbols]


class DigitDocumentsSplit(Split):
    """Documents of the digits of one split."""

    def __init__(self, source: DigitDocuments, name: str) -> None:
        self.source, self.name = source, name
        labels, indices = load_digits()[1], split_indices(name)
        self.members = [indices[labels[indices] == digit] for digit in range(10)]

    def __len__(self) -> int:
        return self.source.documents if self.name == "train" else FIXED_DOCUMENTS

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return document ``index``; without a generator its index is the seed, so that it is always the same."""
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
        what = f"{wrong[0]!r} is not allowed" if wrong else "two are equal"
        raise ConfigError(f"symbols: {what}; give different non-empty strings without spaces around them and without '<'")
    return tuple(symbols)
