"""Text normalisation for speech synthesis: numbers, money, dates, times and abbreviations in words; sentence splitting; symbol tables.

English only. The library ``num2words`` (extra ``speech``) gives number words, espeak-ng gives phonemes (``zoo.processors.media.voices``).
Reference for the pronunciation rules: keithito/tacotron ``text/numbers.py`` and ``text/cleaners.py``. The symbol tables are those of
torchaudio's character bundles and of NVIDIA/tacotron2.
"""

import re
import unicodedata
from collections.abc import Callable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from zoo.errors import DataError

CHARACTERS = "_-!'(),.:;? abcdefghijklmnopqrstuvwxyz"  # ids 0 to 37; 0 is the padding
NVIDIA_CHARACTERS = "_-!'(),.:;? ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # the first 64 of 148; the rest is ARPAbet
PHONEMES = CHARACTERS + "æçðøħŋœɐɑɒɔəɚɛɜɝɡɪɫɬɯɲɹɾʁʃʊʌʍʎʏʒʔˈˌːθχβᵻɨ̩̃"  # letters of espeak-ng's IPA; the last two are combining
SYMBOLS = {"characters": CHARACTERS, "nvidia_characters": NVIDIA_CHARACTERS, "phonemes": PHONEMES}

MONTHS = "January February March April May June July August September October November December".split()
_MONTH = "|".join([*MONTHS, *(f"{month[:3]}\\.?" for month in MONTHS if month != "May"), "Sept\\.?"])
MONEY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
SCALES = "hundred|thousand|million|billion|trillion"
ABBREVIATIONS = {
    "mr.": "mister", "mrs.": "misses", "ms.": "miss", "dr.": "doctor", "prof.": "professor", "st.": "saint", "jr.": "junior",
    "sr.": "senior", "co.": "company", "ltd.": "limited", "gen.": "general", "capt.": "captain", "sgt.": "sergeant", "rev.": "reverend",
    "hon.": "honorable", "etc.": "et cetera", "e.g.": "for example", "i.e.": "that is", "vs.": "versus", "approx.": "approximately",
    "no.": "number", "fig.": "figure", "dept.": "department",
}  # fmt: skip
UNITS = {
    "km/h": "kilometers per hour", "km": "kilometers", "cm": "centimeters", "mm": "millimeters", "kg": "kilograms", "mg": "milligrams",
    "ml": "milliliters", "ms": "milliseconds", "mph": "miles per hour", "lbs": "pounds", "lb": "pounds", "ft": "feet", "khz": "kilohertz",
    "hz": "hertz", "mb": "megabytes", "gb": "gigabytes", "kb": "kilobytes", "°c": "degrees celsius", "°f": "degrees fahrenheit",
    "°": "degrees",
}  # fmt: skip
SIGNS = {"&": " and ", "@": " at ", "+": " plus ", "=": " equals ", "#": " number ", "/": " slash "}
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": ", ", "…": "...", "\u00a0": " "})
_NUMBER = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"


def read_aloud(text: str) -> str:
    """Normalise a text to the words and punctuation that speech models are trained on.

    "Dr. Lee paid $3.50 on 5 May" -> "doctor Lee paid three dollars and fifty cents on May fifth".

    Raises:
        DataError: the text contains numbers and ``num2words`` is not installed.
    """
    text = text.translate(PLAIN)
    for pattern, say in _RULES:
        text = pattern.sub(say, text)
    for sign, word in SIGNS.items():
        text = text.replace(sign, word)
    text = unicodedata.normalize("NFKD", text)
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = re.sub(r"[\[{]", "(", re.sub(r"[\]}]", ")", text))
    text = re.sub(r"\s+([,.;:?!])", r"\1", " ".join(text.split()))
    return re.sub(r"([.,])\1+", r"\1", text)


def split_sentences(text: str, longest: int) -> list[str]:
    """Split a text into sentences of at most ``longest`` characters.

    A longer sentence is cut at its last comma, semicolon or colon within the limit, otherwise between words. A full stop after an
    abbreviation or an initial does not end a sentence.
    """
    found: list[str] = []
    for paragraph in text.splitlines():
        start = 0
        for match in re.finditer(r"[.!?]+[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])", paragraph):
            word = paragraph[start : match.end()].split()[-1].lower()
            if word not in ABBREVIATIONS and not re.fullmatch(r"[a-z]\.", word):
                found.append(paragraph[start : match.end()].strip())
                start = match.end()
        found.append(paragraph[start:].strip())
    return [piece for sentence in found for piece in _pieces(sentence, longest) if any(map(str.isalnum, piece))]


def _pieces(sentence: str, longest: int) -> list[str]:
    pieces = []
    while len(sentence) > longest:
        head = sentence[:longest]
        cut = max(head.rfind(mark) for mark in (", ", "; ", ": ")) + 1 or head.rfind(" ") or longest
        cut = cut if cut > 0 else longest
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


def number_words(value: int | str, to: str = "cardinal") -> str:
    """Spell a number in words, without commas and hyphens: "three thousand four hundred and twenty one".

    Args:
        to: "cardinal", "ordinal" or "year".

    Raises:
        DataError: ``num2words`` is not installed.
    """
    try:
        from num2words import num2words
    except ImportError as error:
        raise DataError(
            f"reading the number {value} aloud needs num2words: pip install 'multimodal-zoo[speech]', or write the number in words"
        ) from error
    return num2words(int(value), to=to).replace(",", "").replace("-", " ")


def _whole(text: str) -> str:
    """Spell a whole number, with or without thousands separators; digits are spelled one by one if it begins with zero."""
    digits = text.replace(",", "")
    if len(digits) > 1 and digits[0] == "0" or len(digits) > 36:  # a longer number is unintelligible in words
        return " ".join(number_words(digit) for digit in digits)
    return number_words(digits)


def _decimal(match: re.Match[str]) -> str:
    whole, fraction = match[1], match[2]
    return f"{_whole(whole)} point {' '.join(number_words(digit) for digit in fraction)}"


def _plural(count: str, one: str) -> str:
    if count.replace(",", "").lstrip("0") == "1":
        return one
    return {"penny": "pence"}.get(one, one + "s")


def _money(match: re.Match[str]) -> str:
    sign, whole, part, scale = match["sign"], match["whole"], match["part"], match["scale"]
    unit, small = MONEY[sign]
    if scale:
        spoken = _whole(whole) + (" point " + " ".join(map(number_words, part)) if part else "")
        return f"{spoken} {scale} {unit}s"
    cents = int((part or "0").ljust(2, "0")[:2])
    dollars = f"{_whole(whole)} {_plural(whole, unit)}"
    if not cents:
        return dollars
    change = f"{number_words(cents)} {_plural(str(cents), small)}"
    return change if not int(whole.replace(",", "")) else f"{dollars} and {change}"


def _date(month: str, day: str, year: str | None) -> str:
    spoken = f"{month} {number_words(day, 'ordinal')}"
    return f"{spoken}, {number_words(year, 'year')}" if year else spoken


def _month(text: str) -> str:
    return next(month for month in MONTHS if month.lower().startswith(text.lower().rstrip(".")[:3]))


def _iso_date(match: re.Match[str]) -> str:
    month, day = int(match[2]), int(match[3])
    if not 1 <= month <= 12 or not 1 <= day <= 31:
        return match[0]
    return _date(MONTHS[month - 1], str(day), match[1])


def _time(match: re.Match[str]) -> str:
    hour, minute, half = int(match[1]), int(match[2]), (match[3] or "").lower()
    if hour > 23 or minute > 59:
        return match[0]
    late = f" {half[0]} m" if half else ""
    if not minute:
        return number_words(hour) + (late or (" o'clock" if hour else " hundred hours"))
    spoken = f"oh {number_words(minute)}" if minute < 10 else number_words(minute)
    return f"{number_words(hour)} {spoken}{late}"


def _unit(match: re.Match[str]) -> str:
    name = UNITS[match[2].lower()]
    single = {"feet": "foot", "degrees": "degree"}.get(name.split()[0])
    if match[1] == "1":
        head, *rest = name.split()
        name = " ".join([single or head.removesuffix("s"), *rest])
    return f"{match[1]} {name}"


Say = Callable[[re.Match[str]], str]
# The longest unit comes first, so that "km/h" is not read as "km". In _RULES the order matters as well: dates, times and money must match
# before the rules for plain numbers.
_units = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_RULES: tuple[tuple[re.Pattern[str], Say], ...] = (
    (re.compile(r"(?<!\d)(\d{4})-(\d{2})-(\d{2})(?!\d)"), _iso_date),
    (
        re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\b(?:,? (\d{{4}})\b)?", re.IGNORECASE),
        lambda m: _date(_month(m[2]), m[1], m[3]),
    ),
    (
        re.compile(rf"\b({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?\b(?:,? (\d{{4}})\b)?(?!\d|:)", re.IGNORECASE),
        lambda m: _date(_month(m[1]), m[2], m[3]),
    ),
    (
        re.compile(rf"\b(in|since|until|{'|'.join(MONTHS)}) (1[1-9]\d\d|20\d\d)\b(?![,.]?\d)", re.IGNORECASE),
        lambda m: f"{m[1]} {number_words(m[2], 'year')}",
    ),
    (re.compile(r"\b(\d{1,2}):(\d{2})(?:\s?([ap])\.?m\b\.?)?(?!\d)", re.IGNORECASE), _time),
    (re.compile(r"\b(\d{1,2})\s?([ap])\.?m\b\.?", re.IGNORECASE), lambda m: f"{number_words(m[1])} {m[2].lower()} m"),
    (re.compile(rf"(?P<sign>[$£€])\s?(?P<whole>{_NUMBER})(?:\.(?P<part>\d+))?(?: (?P<scale>{SCALES})\b)?"), _money),
    (re.compile(r"\b(?:" + "|".join(re.escape(a) for a in ABBREVIATIONS) + ")", re.IGNORECASE), lambda m: ABBREVIATIONS[m[0].lower()]),
    (re.compile(rf"(\d)\s?({_units})(?![a-z])", re.IGNORECASE), _unit),
    (re.compile(r"(\d)\s?%"), lambda m: f"{m[1]} percent"),
    (re.compile(r"\b(\d+)(?:st|nd|rd|th)\b", re.IGNORECASE), lambda m: number_words(m[1], "ordinal")),
    (re.compile(r"(?<![\w])-(?=\d)"), lambda m: "minus "),
    (re.compile(rf"({_NUMBER})\.(\d+)"), _decimal),
    (re.compile(_NUMBER), lambda m: _whole(m[0])),
)
