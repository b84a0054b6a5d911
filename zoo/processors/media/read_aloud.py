"""Text normalisation for speech synthesis: notations in words, sentence splitting, and symbol tables.

English only. The rules are those of ``zoo.processors.spoken``. The library ``num2words`` (extra ``speech``) gives number words, espeak-ng
gives phonemes (``zoo.processors.media.voices``). Reference for the pronunciation rules: keithito/tacotron ``text/numbers.py`` and
``text/cleaners.py``. The symbol tables are those of torchaudio's character bundles and of NVIDIA/tacotron2.

Packages were compared on the cases of ``tests/data/test_spoken_text.py`` before these rules were written: NeMo's text processing read 99 of
200 as expected (1.2 GB installed, grammars built in 205 s), wetext 86 with 18 failures, the earlier rules of this file 64.
"""

import re
from collections.abc import Callable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from zoo.processors.spoken import abbreviations, dates, money, numbers, signs, units
from zoo.processors.spoken.abbreviations import ABBREVIATIONS, BEFORE_NUMBERS

CHARACTERS = "_-!'(),.:;? abcdefghijklmnopqrstuvwxyz"  # ids 0 to 37; 0 is the padding
NVIDIA_CHARACTERS = "_-!'(),.:;? ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # the first 64 of 148; the rest is ARPAbet
PHONEMES = CHARACTERS + "æçðøħŋœɐɑɒɔəɚɛɜɝɡɪɫɬɯɲɹɾʁʃʊʌʍʎʏʒʔˈˌːθχβᵻɨ̩̃"  # letters of espeak-ng's IPA; the last two are combining
SYMBOLS = {"characters": CHARACTERS, "nvidia_characters": NVIDIA_CHARACTERS, "phonemes": PHONEMES}

# The order matters: each rule sees what the earlier ones left. Numbers inside addresses, amounts and dates are spelt with these.
_RULES = (
    *signs.ADDRESSES, *dates.RULES, *numbers.NOTATIONS, *money.RULES, *abbreviations.RULES, *units.RULES, *dates.YEARS, *signs.SYMBOLS,
    *numbers.SPELT,
)  # fmt: skip


def read_aloud(text: str) -> str:
    """Normalise a text to the words and punctuation that speech models are trained on.

    "Dr. Lee paid $3.50 on 5 May" -> "doctor Lee paid three dollars and fifty cents on May fifth". Letters of other scripts stay as they
    are; a symbol table drops them (see ``TextProcessor.unspoken``).

    Raises:
        DataError: the text contains numbers and ``num2words`` is not installed.
    """
    text = signs.compose(text.translate(signs.PLAIN))
    for pattern, say in _RULES:
        text = pattern.sub(say, text)
    text = signs.strip_accents(signs.say_signs(text))
    text = re.sub(r"[\[{]", "(", re.sub(r"[\]}]", ")", text))
    text = re.sub(r"\s+([,.;:?!])", r"\1", " ".join(text.split()))
    return re.sub(r"([.,])\1+(?=(\w)?)", lambda m: m[1] + (" " if m[2] else ""), text)


def split_sentences(text: str, longest: int | None = None) -> list[str]:
    """Split a text into sentences, of at most ``longest`` characters if that is given.

    A longer sentence is cut at its last comma, semicolon or colon within the limit, otherwise between words. A full stop after an
    abbreviation or an initial does not end a sentence.
    """
    found: list[str] = []
    for paragraph in text.splitlines():
        start = 0
        for match in re.finditer(r"[.!?]+[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])", paragraph):
            word = paragraph[start : match.end()].split()[-1].lower()
            if word not in ABBREVIATIONS and word not in BEFORE_NUMBERS and not re.fullmatch(r"[a-z]\.", word):
                found.append(paragraph[start : match.end()].strip())
                start = match.end()
        found.append(paragraph[start:].strip())
    pieces = found if longest is None else [piece for sentence in found for piece in _cut(sentence, longest, len)]
    return [piece for piece in pieces if any(map(str.isalnum, piece))]


def fitting_pieces(sentence: str, longest: int, measure: Callable[[str], int]) -> list[str]:
    """Return a sentence that fits as it is, or its words (see ``read_aloud``) in pieces that fit.

    The words are cut and not the sentence, because "123,456" becomes eight times as long when it is spelled out.

    Args:
        longest: largest length that fits.
        measure: returns the length of a text after normalisation.
    """
    return [sentence] if measure(sentence) <= longest else _cut(read_aloud(sentence), longest, measure)


def _cut(sentence: str, longest: int, measure: Callable[[str], int]) -> list[str]:
    pieces = []
    while measure(sentence) > longest:
        size = longest
        while measure(head := sentence[:size]) > longest:  # phonemes may be more than the letters
            size -= max(1, size // 8)
        cut = max(head.rfind(mark) for mark in (", ", "; ", ": ")) + 1 or head.rfind(" ")
        cut = cut if cut > 0 else size
        pieces.append(sentence[:cut].strip())
        sentence = sentence[cut:].strip()
    return [*pieces, sentence]


def symbol_tokenizer(name: str) -> Tokenizer:
    """Return a tokenizer whose ids are positions in a symbol table; it drops characters that are not in the table.

    Args:
        name: a key of ``SYMBOLS``.
    """
    symbols = SYMBOLS[name]
    tokenizer = Tokenizer(models.WordLevel({symbol: number for number, symbol in enumerate(symbols)}, unk_token=symbols[0]))
    kept = "".join(re.escape(symbol) for symbol in symbols[1:])  # without the padding symbol, so no text contains it
    tokenizer.normalizer = normalizers.Replace(Regex(f"[^{kept}]"), "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return tokenizer
