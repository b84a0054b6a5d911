"""Signs in words: addresses of the web, Markdown, mathematical and other symbols, letters outside the English alphabet."""

import re
import unicodedata

from zoo.processors.spoken.numbers import SUBSCRIPTS, SUPERSCRIPTS, VULGAR, Rule

PLAIN = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"',
        "\u2010": "-", "\u2011": "-", "\u2212": "-", "\u2014": ", ", "\u2015": ", ", "\u2026": "...",
        "\u03bc": "\u00b5", "\u2126": "\u03a9", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u3000": " ", "\u200b": "", "\ufeff": "",
        "\u00ad": "", "\u2060": "",
    }
)  # fmt: skip
# Letters that have no accent to remove; NFKD leaves them as they are.
LETTERS = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
                         "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i", "ŋ": "ng"})  # fmt: skip
SIGNS = {
    "&": "and", "@": "at", "+": "plus", "=": "equals", "#": "number", "/": "slash", "\\": "backslash", "%": "percent", "±": "plus or minus",
    "×": "times", "·": "times", "÷": "divided by", "≤": "less than or equal to", "≥": "greater than or equal to", "≠": "is not equal to",
    "≈": "approximately", "<": "less than", ">": "greater than", "→": "to", "←": "from", "√": "square root of", "∞": "infinity",
    "∑": "sum of", "∫": "integral of", "∂": "partial", "∈": "in", "°": "degrees", "§": "section", "¶": "paragraph", "©": "copyright",
    "®": "registered", "™": "trademark", "№": "number", "†": "dagger", "^": "to the power of", "_": "underscore", "~": "about", "*": "star",
    "€": "euro", "£": "pound", "$": "dollar", "¥": "yen", "¢": "cent", "′": "prime", "″": "double prime", "|": ",", "•": ",", "`": "",
    "❤": "heart",
}  # fmt: skip
DOMAINS = "com|org|net|edu|gov|io|ai|dev|app|info|eu|uk|de|fr|es|it|nl|ch|at|jp|cn|in|ca|au|us|co"
NAMED = frozenset({"Sm", "So", "Sc", "Sk"})  # categories of symbols that are read by their Unicode name
_KEPT = frozenset(VULGAR) | frozenset(SUPERSCRIPTS) | frozenset(SUBSCRIPTS) | frozenset("\u00a0\u202f")
_SILENT = frozenset("\u200d\ufe0e\ufe0f")  # joiner and selectors inside emoji
_ADDRESS = {".": " dot ", "/": " slash ", "-": " dash ", "_": " underscore ", "@": " at ", "?": " question mark ", "=": " equals ",
            "&": " and ", "%": " percent ", "#": " hash ", ":": " colon ", "~": " tilde ", "+": " plus "}  # fmt: skip


def _address(match: re.Match[str]) -> str:
    """Read a web or mail address; a scheme is left out, and "www" is read as letters."""
    text = re.sub(r"^https?://", "", match[0].rstrip("/"), flags=re.IGNORECASE)
    text = re.sub(r"^www\.", "w w w.", text, flags=re.IGNORECASE)
    return "".join(_ADDRESS.get(letter, letter) for letter in text)


def compose(text: str) -> str:
    """Replace letters that stand for others: full-width digits, ligatures, "\u2103" (degrees C), circled numbers, Roman numerals.

    Raised and lowered digits and fractions stay, because they have rules of their own.
    """
    return "".join(_composed(letter) for letter in text)


def _composed(letter: str) -> str:
    if letter.isascii() or letter in _KEPT or letter in SIGNS:
        return letter
    plain = unicodedata.normalize("NFKC", letter)
    if plain == letter or not plain.replace("\u00b0", "").isascii():
        return letter
    return f" {plain} " if unicodedata.category(letter) == "No" else plain


def say_signs(text: str) -> str:
    """Replace symbols by words: those of ``SIGNS``, single Greek letters, and other symbols by their Unicode name."""
    text = _GREEK.sub(lambda m: f" {unicodedata.name(m[0]).lower().split()[3]} ", text)
    return "".join(_sign(letter) for letter in text)


def _sign(letter: str) -> str:
    if letter in SIGNS:
        word = SIGNS[letter]
        return f" {word} " if word[:1].isalpha() else word
    if letter.isascii():
        return letter
    if letter in _SILENT:
        return ""
    name = unicodedata.name(letter, "").lower()
    return f" {name.removesuffix(' sign')} " if unicodedata.category(letter) in NAMED and name else letter


def strip_accents(text: str) -> str:
    """Remove accents, and write letters such as "ß" and "ø" with English ones."""
    text = unicodedata.normalize("NFKD", text.translate(LETTERS))
    return "".join(letter for letter in text if not unicodedata.combining(letter))


_GREEK = re.compile("(?<![\u0370-\u03ff\u1f00-\u1fff])[\u0391-\u03a9\u03b1-\u03c9](?![\u0370-\u03ff\u1f00-\u1fff])")
_EMPHASIS = re.compile(r"(?<![\w*_])(\*\*|__|\*|_|`+)(?=\S)(.+?)(?<=\S)\1(?![\w*_])")
ADDRESSES: tuple[Rule, ...] = (
    (re.compile(r"(?<![\d.,])\d{1,3}(?:[\u00a0\u202f]\d{3})+(?!\d)"), lambda m: re.sub(r"\s", ",", m[0])),
    (re.compile(r"[\u00a0\u202f]"), lambda m: " "),
    (re.compile(r"(?<=\d)\s?\u2013\s?(?=[\d$£€])"), lambda m: "-"),
    (re.compile("\u2013"), lambda m: "-"),
    (re.compile(r"\bhttps?://[^\s<>()\"']*[\w/]", re.IGNORECASE), _address),
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), _address),
    (re.compile(rf"\b(?:www\.)?[a-z][\w-]*(?:\.[\w-]+)*\.(?:{DOMAINS})\b(?:/[^\s<>()\"']*\w)?(?!\.\w)"), _address),
    (re.compile(r"\bwww\.[\w.-]+\w"), _address),
    (_EMPHASIS, lambda m: m[2]),
    (re.compile(r"^\s*(?:#{1,6}\s+|>+\s+(?!\d)|[*+-]\s+)(?=\S)", re.MULTILINE), lambda m: ""),
)
SYMBOLS: tuple[Rule, ...] = (
    (re.compile(r"\b([CF])#"), lambda m: f"{m[1]} sharp"),
    (re.compile(r"(?<!\w)#(?=[A-Za-z_])"), lambda m: "hashtag "),
    (re.compile(r"(?<=[a-z0-9])\.(?=[a-z]{2})"), lambda m: " dot "),
)
