"""Numbers in words: whole numbers, decimals, fractions, powers, ranges, telephone numbers, Roman numerals.

The library ``num2words`` (extra ``speech``) spells the numbers; the rules here decide how a notation is read.
"""

import re
import unicodedata
from collections.abc import Callable

from zoo.errors import DataError

Say = Callable[[re.Match[str]], str]
Rule = tuple[re.Pattern[str], Say]

WHOLE = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
NUMBER = rf"(?:{WHOLE})(?:\.\d+)?"
LONGEST_SPELT = 36  # digits; a longer number is unintelligible as one word and is read digit by digit
SMALL_FRACTIONS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
DENOMINATORS = (3, 5, 6, 7, 8, 9, 10, 12, 16, 20, 25, 32, 50, 64, 100, 1000)  # read as ordinals: "two thirds"; others are "N over M"
VULGAR = {
    chr(code): unicodedata.normalize("NFKC", chr(code)).replace("\u2044", "/") for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F))
}
SUPERSCRIPTS = {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in (0xB2, 0xB3, 0xB9, 0x2070, *range(0x2074, 0x207C))}
SUPERSCRIPTS["\u207b"] = "-"
SUBSCRIPTS = {chr(code): str(code - 0x2080) for code in range(0x2080, 0x208A)}
_RAISED = "".join(SUPERSCRIPTS)


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
        raise DataError(f"reading the number {value} aloud needs num2words: zoo install speech, or write the number in words") from error
    return num2words(int(value), to=to).replace(",", "").replace("-", " ")


def whole_words(text: str) -> str:
    """Spell a whole number, with or without thousands separators; digits are spelled one by one if it begins with zero."""
    digits = text.replace(",", "")
    if len(digits) > 1 and digits[0] == "0" or len(digits) > LONGEST_SPELT:
        return digit_words(digits)
    return number_words(digits)


def digit_words(digits: str) -> str:
    """Spell digits one by one."""
    return " ".join(number_words(digit) for digit in digits)


def decimal_words(text: str) -> str:
    """Spell a number with or without a decimal part: "1,000.05" -> "one thousand point zero five"."""
    whole, _, part = text.partition(".")
    return f"{whole_words(whole or '0')} point {digit_words(part)}" if part else whole_words(whole)


def is_one(count: str) -> bool:
    """Return True if the number takes the singular."""
    return count.replace(",", "").lstrip("0") == "1"


def _fraction(match: re.Match[str]) -> str:
    count, top, bottom = match["count"], int(match["top"]), int(match["bottom"])
    lead = f"{whole_words(count)} and " if count else ""
    if bottom in SMALL_FRACTIONS or bottom in DENOMINATORS and top < bottom:
        one, several = SMALL_FRACTIONS.get(bottom) or ((name := number_words(bottom, "ordinal").removeprefix("one ")), name + "s")
        if top < bottom:
            return f"{lead}{'a' if count and top == 1 else number_words(top)} {one if top == 1 else several}"
    return f"{lead}{number_words(top)} over {number_words(bottom)}"


def _power(match: re.Match[str]) -> str:
    raised = "".join(SUPERSCRIPTS.get(letter, letter) for letter in match["power"].removeprefix("^"))
    named = {"2": "squared", "3": "cubed"}.get(raised)
    if named:
        return f" {named}"
    return f" to the power of {'minus ' if raised.startswith('-') else ''}{number_words(raised.lstrip('-+'))}"


def _scientific(match: re.Match[str]) -> str:
    return f"{match[1]} times ten to the power of {'minus ' if match[2] == '-' else ''}{number_words(match[3])}"


def _telephone(match: re.Match[str]) -> str:
    groups = re.findall(r"\d+", match[0])
    return ("plus " if match[0].startswith("+") else "") + ", ".join(digit_words(group) for group in groups)


def _dotted(match: re.Match[str]) -> str:
    """Read a version with "point" and an address of four numbers with "dot"."""
    parts = match["parts"].split(".")
    spoken = (" dot " if len(parts) == 4 and not match["v"] else " point ").join(map(whole_words, parts))
    return ("version " if match["v"] else "") + spoken


def _grouped(match: re.Match[str]) -> str:
    """Write thousands that are separated by spaces or points with commas; four numbers up to 255 are an address and stay."""
    groups = re.split(r"[ .]", match[0])
    if "." in match[0] and len(groups) == 4 and all(int(group) < 256 for group in groups):
        return match[0]
    return ",".join(groups)


def european_decimal(number: str) -> str:
    """Write a number with a decimal comma with a point: "1.234,56" -> "1234.56", "27,50" -> "27.50"; others stay."""
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+|\d+,\d{1,2}", number):
        return number.replace(".", "").replace(",", ".")
    return number


# These rules rewrite notations whose digits later rules would tear apart; they run before money, units and dates.
NOTATIONS: tuple[Rule, ...] = (
    (re.compile("[" + "".join(VULGAR) + "]"), lambda m: f" {VULGAR[m[0]]}"),
    (re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d+(?![\d,])"), lambda m: european_decimal(m[0])),
    (re.compile(r"(?<![\d,.])\d{1,3}(?:(?: \d{3}){2,}|(?: 000)+| \d{3}(?= ?(?:[a-zµ]{1,2}\b|[%°€£$])))(?! ?\d)"), _grouped),
    (re.compile(r"(?<![\d,.])\d{1,3}(?:\.\d{3}){2,}(?![\d,.]\d)"), _grouped),
    (re.compile(r"(?<![\w.])(?P<v>v(?:ersion )?)?(?P<parts>\d+(?:\.\d+){2,})(?![\w.]*\w)", re.IGNORECASE), _dotted),
    (re.compile(r"(?<![\w.])v(?=\d+(?:\.\d+)?(?!\w))"), lambda m: "version "),
    (re.compile(r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}(?!\d)"), _telephone),
    (re.compile(r"(?<![\w-])(?:\(\d{3}\) ?|\d{3}[ -])?\d{3}-\d{4}(?![\w-])"), _telephone),
    (re.compile(r"(?<![\w,.])0\d{2,4}(?: \d{2,4}){1,4}(?! ?\d)|(?<![\w-])\d+(?:-\d+){3,}(?![\w-])"), _telephone),
)
# These run after dates, times, money and units have taken their numbers.
SPELT: tuple[Rule, ...] = (
    (re.compile(rf"({NUMBER})[eE]([+-]?)(\d{{1,3}})\b"), _scientific),
    (re.compile(r"(?<![\d/])(?:24/7|50/50|9/11)(?![\d/])"), lambda m: " ".join(map(number_words, m[0].split("/")))),
    (re.compile(r"(?<![\d/.,])(?:(?P<count>\d+) +)?(?P<top>\d{1,3})/(?P<bottom>[1-9]\d{0,3})(?![\d/]|[.,]\d)"), _fraction),
    (re.compile(rf"(?P<power>(?<=[\w)])(?:[{_RAISED}]+|\^[+-]?\d+))"), _power),
    (re.compile(f"[{_RAISED}]+"), lambda m: " " + "".join(SUPERSCRIPTS[each] for each in m[0])),
    (re.compile("[" + "".join(SUBSCRIPTS) + "]+"), lambda m: f" {whole_words(''.join(SUBSCRIPTS[each] for each in m[0]))} "),
    (
        re.compile(r"\b((?:\d{1,3}(?:,\d{3})+|\d+))(?:st|nd|rd|th)\b", re.IGNORECASE),
        lambda m: number_words(m[1].replace(",", ""), "ordinal"),
    ),
    (re.compile(rf"(?<![\w.,-])({NUMBER})-({NUMBER})(?![\w-]|[.,]\d)"), lambda m: f"{m[1]} to {m[2]}"),
    (re.compile(r"(?<=\d)(?<!\b0)\s?x\s?(?=\d)"), lambda m: " by "),
    (re.compile(r"(?<=\d)x\b"), lambda m: " times"),
    (re.compile(r"(?<=\d) - (?=\d)"), lambda m: " minus "),
    (re.compile(r"(?<=\d) ?\* ?(?=\d)"), lambda m: " times "),
    (re.compile(r"(?<![\w])-(?=\.?\d)"), lambda m: "minus "),
    (re.compile(r"(?<=\d)k\b"), lambda m: " thousand"),
    (re.compile(r"(?<=\d),(?=\d)(?!\d{3}(?!\d))"), lambda m: ", "),
    (re.compile(r"(?<=[A-Za-z])-(?=\d)|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])"), lambda m: " "),
    (re.compile(rf"({WHOLE})\.(\d+)|(?<![\w.])\.\d+"), lambda m: decimal_words(m[0])),
    (re.compile(WHOLE), lambda m: whole_words(m[0])),
)
