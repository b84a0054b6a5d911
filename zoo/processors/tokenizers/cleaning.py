"""What is done to a text before a tokenizer sees it: the cleanings of CLIP's, SigLIP's and our own texts.

References: openai/CLIP ``simple_tokenizer.py`` and open_clip ``tokenizer.py`` (web), big_vision ``prompt_engineering.py`` and
transformers ``SiglipTokenizer`` (punctuation). None of them changes the case, which is an option of its own.
"""

import html
import string
from collections.abc import Callable

from zoo.errors import DataError
from zoo.processors.media.read_aloud import read_aloud
from zoo.processors.media.voices import phonemes

PUNCTUATION = str.maketrans("", "", string.punctuation)


def leave(text: str) -> str:
    """Change nothing: the tokenizer's own normaliser cleans."""
    return text


def collapse(text: str) -> str:
    """One space for any run of white space, none at the ends."""
    return " ".join(text.split())


def clean_web_text(text: str) -> str:
    """Mend wrong encodings, resolve HTML entities that were escaped twice, collapse white space.

    Raises:
        DataError: the text is not plain and ``ftfy`` is not installed.
    """
    return collapse(html.unescape(html.unescape(text if _is_plain(text) else _mend(text))))


def _is_plain(text: str) -> bool:
    """Whether ``ftfy`` would leave it as it is: printable ASCII without anything that looks like an HTML entity."""
    return text.isascii() and "&" not in text and text.replace("\n", " ").replace("\t", " ").isprintable()


def _mend(text: str) -> str:
    try:
        import ftfy
    except ImportError as error:
        raise DataError(f"the text {text[:60]!r} has to be cleaned as CLIP does; install ftfy: pip install ftfy") from error
    return ftfy.fix_text(text)


def drop_punctuation(text: str) -> str:
    """Remove ASCII punctuation, then collapse white space (SigLIP)."""
    return collapse(text.translate(PUNCTUATION))


def clean_canonically(text: str) -> str:
    """open_clip's "canonicalize": as web text, then underscores to spaces, then without punctuation."""
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
