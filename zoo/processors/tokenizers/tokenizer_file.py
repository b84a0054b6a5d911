"""Tokenizers read from files that may be damaged: every fault becomes one error, and a tokenizer that cannot tokenize is refused.

The ``tokenizers`` library raises plain ``Exception``, and panics of its Rust code are no ``Exception`` at all.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from zoo.errors import WeightsError, ZooError, first_line
from zoo.processors.tokenizers.piece_tokenizer import MARK, AnyTokenizer, PieceTokenizer
from zoo.storage.outside import MAX_SHOWN, refuse_special

PROBE = "a \u0378"  # a known letter in most vocabularies, and a character that no vocabulary has
ADVICE = "fetch or write the file again"
TIKTOKEN = re.compile(rb"[A-Za-z0-9+/=]+ \d+\r?\n")  # a line of a vocabulary of tiktoken, which some folders call tokenizer.model
T = TypeVar("T")


def read_tokenizer_file(path: Path) -> Tokenizer:
    """Read ``tokenizer.json`` of the ``tokenizers`` library.

    Raises:
        WeightsError: it is no ordinary file, is damaged, or holds a tokenizer that cannot tokenize.
    """
    refuse_special(path, WeightsError)
    return read_safely(lambda: Tokenizer.from_file(str(path)), path)


def read_own_file(path: Path) -> AnyTokenizer:
    """Read a file that a text processor saved: of the ``tokenizers`` library, or of a ``PieceTokenizer``.

    Raises:
        WeightsError: see ``read_tokenizer_file``.
    """
    refuse_special(path, WeightsError)
    with path.open("rb") as file:
        is_pieces = f'"{MARK}"'.encode() in file.read(64)
    if is_pieces:
        return guarded(lambda: PieceTokenizer.from_str(path.read_text(encoding="utf-8")), path, "cannot be read")
    return read_tokenizer_file(path)


def read_safely(read: Callable[[], Tokenizer], origin: Path) -> Tokenizer:
    """Return the tokenizer that a function reads, after it has tokenized a short text.

    Raises:
        WeightsError: the function or the tokenizer fails.
    """
    tokenizer = guarded(read, origin, "cannot be read")
    guarded(lambda: tokenizer.decode(tokenizer.encode(PROBE).ids), origin, "cannot tokenize a text")
    return tokenizer


def guarded(call: Callable[[], T], origin: Path, problem: str) -> T:
    """Return what a function returns.

    Raises:
        WeightsError: the function fails; ``problem`` says what it could not do.
    """
    try:
        return call()
    except (ZooError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # see the module: nothing narrower covers a panic
        raise WeightsError(f"{origin}: its tokenizer {problem} ({first_line(error)[:MAX_SHOWN]}); {ADVICE}") from error


def refuse_no_sentence_pieces(path: Path) -> None:
    """Raise WeightsError unless a file is a SentencePiece model or a vocabulary of tiktoken.

    transformers takes a damaged SentencePiece model for tiktoken's, whose library then seeks a file of that name in a shared cache.
    """
    import sentencepiece

    refuse_special(path, WeightsError)
    with path.open("rb") as file:
        if TIKTOKEN.match(file.read(256)):
            return
    guarded(lambda: sentencepiece.SentencePieceProcessor(model_file=str(path)), path, "cannot be read as a SentencePiece model")
