"""Text cleaning before tokenization, as in CLIP, SigLIP and our own models.

References: openai/CLIP ``simple_tokenizer.py`` and open_clip ``tokenizer.py`` (web), big_vision ``prompt_engineering.py`` and
transformers ``SiglipTokenizer`` (punctuation). No cleaning changes letter case, which is a separate option.
"""

import html
import string
from collections.abc import Callable

from zoo.errors import DataError
from zoo.processors.media.read_aloud import read_aloud
from zoo.processors.media.voices import phonemes

PUNCTUATION = str.maketrans("", "", string.punctuation)


def leave(text: str) -> str:
    """Return the text unchanged; the tokenizer's own normaliser does any cleaning."""
    return text


def collapse(text: str) -> str:
    """Replace each run of white space with one space, and strip both ends."""
    return " ".join(text.split())


def clean_web_text(text: str) -> str:
    """Repair wrong encodings, unescape HTML entities twice, collapse white space (CLIP).

    Raises:
        DataError: ``ftfy`` is not installed, and the text is not plain ASCII without entities.
    """
    return collapse(html.unescape(html.unescape(text if _is_plain(text) else _mend(text))))


def _is_plain(text: str) -> bool:
    """Return True if ``ftfy`` would not change the text: printable ASCII without anything that looks like an HTML entity."""
    return text.isascii() and "&" not in text and text.replace("\n", " ").replace("\t", " ").isprintable()


def _mend(text: str) -> str:
    try:
        import ftfy
    except ImportError as error:
        raise DataError(f"cleaning the text {text[:60]!r} as CLIP does needs ftfy; install it with: zoo install transformers") from error
    return ftfy.fix_text(text)


def drop_punctuation(text: str) -> str:
    """Remove ASCII punctuation, then collapse white space (SigLIP)."""
    return collapse(text.translate(PUNCTUATION))


def clean_canonically(text: str) -> str:
    """Clean as web text, turn underscores into spaces, and drop punctuation (open_clip's "canonicalize")."""
    return drop_punctuation(clean_web_text(text).replace("_", " "))


CLEANINGS: dict[str, Callable[[str], str]] = {
    "none": leave,
    "whitespace": collapse,
    "web": clean_web_text,
    "punctuation": drop_punctuation,
    "canonical": clean_canonically,
    "speech": read_aloud,
    "phonemes": phonemes,
}
