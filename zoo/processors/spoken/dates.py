"""Dates, years, decades and times of day in words."""

import re

from zoo.processors.spoken.numbers import Rule, number_words

MONTHS = "January February March April May June July August September October November December".split()
DAYS = {"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", 
        "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday"}  # fmt: skip
_MONTH = "|".join([*MONTHS, *(f"{month[:3]}\\.?" for month in MONTHS if month != "May"), "Sept\\.?"])
_YEAR = r"1[1-9]\d\d|20\d\d"
# Words after which a number from 1100 to 2099 is a year.
_BEFORE_YEAR = (
    "in|since|until|till|by|from|before|after|during|circa|around|early|late|mid|spring|summer|autumn|fall|winter|year|copyright|©"
)
_BEFORE_DECADE = r"(?<=\bthe )|(?<=\bearly )|(?<=\blate )|(?<=\bmid-)|(?<=\bhis )|(?<=\bher )|(?<=\bour )|(?<=\btheir )"
_SUFFIX = r"(?:st|nd|rd|th)?"
_HOUR = r"\b(\d{1,2})[:h](\d{2})(?::(\d{2}))?(?:\s?([ap])\.?m\b\.?)?(?!\d)"


def _date(month: str, day: str, year: str | None) -> str:
    spoken = f"{month} {number_words(day, 'ordinal')}"
    return f"{spoken}, {number_words(year, 'year')}" if year else spoken


def _month(text: str) -> str:
    return next(month for month in MONTHS if month.lower().startswith(text.lower().rstrip(".")[:3]))


def _checked(match: re.Match[str], year: str, month: int, day: int) -> str:
    """Spell a date in digits; one that does not exist stays as it is."""
    if not 1 <= month <= 12 or not 1 <= day <= 31:
        return match[0]
    return _date(MONTHS[month - 1], str(day), year)


def _slashed(match: re.Match[str]) -> str:
    """Read 3/4/2024 as March fourth, as in the United States; a first number above 12 is the day."""
    first, second = int(match[1]), int(match[2])
    month, day = (second, first) if first > 12 else (first, second)
    return _checked(match, match[3], month, day)


def _days(month: str, first: str, last: str, year: str | None) -> str:
    spoken = f"{_month(month)} {number_words(first, 'ordinal')} to {number_words(last, 'ordinal')}"
    return f"{spoken}, {number_words(year, 'year')}" if year else spoken


def _time(match: re.Match[str]) -> str:
    hour, minute, half = int(match[1]), int(match[2]), (match[4] or "").lower()
    if hour > 24 or minute > 59 or int(match[3] or 0) > 59:
        return match[0]
    late = f" {half} m" if half else ""
    if int(match[3] or 0):
        minutes = f"oh {number_words(minute)}" if minute < 10 else number_words(minute)
        return f"{number_words(hour)} {minutes} and {number_words(match[3])} second{'' if int(match[3]) == 1 else 's'}{late}"
    if not minute:
        return number_words(hour) + (late or (" o'clock" if hour else " hundred hours"))
    spoken = f"oh {number_words(minute)}" if minute < 10 else number_words(minute)
    return f"{number_words(hour)} {spoken}{late}"


def _decade(match: re.Match[str]) -> str:
    """Spell "1990s", "'90s" and "90s": the number of the decade in the plural."""
    digits = match["digits"]
    words = number_words(digits, "year" if len(digits) == 4 else "cardinal")
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")


RULES: tuple[Rule, ...] = (
    (re.compile(r"(?<=\d{4}-\d{2}-\d{2})T(?=\d{2}:\d{2})"), lambda m: ", "),
    (re.compile(r"(?<=\d:\d\d)Z\b"), lambda m: " Z"),
    (re.compile(rf"\b({'|'.join(DAYS)})\b\.?(?=,? (?:\d|{_MONTH}\b))"), lambda m: DAYS[m[1]]),
    (re.compile(r"(?<![\d/-])(\d{4})([-/])(\d{2})\2(\d{2})(?![\d/-])"), lambda m: _checked(m, m[1], int(m[3]), int(m[4]))),
    (re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})/((?:1[1-9]|20)\d\d)(?![\d/])"), _slashed),
    (re.compile(r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.((?:1[1-9]|20)\d\d)(?!\.?\d)"), lambda m: _checked(m, m[3], int(m[2]), int(m[1]))),
    (
        re.compile(rf"\b(\d{{1,2}})-(\d{{1,2}}) ({_MONTH})\b(?:,? (\d{{4}})\b)?", re.IGNORECASE),
        lambda m: _days(m[3], m[1], m[2], m[4]),
    ),
    (
        re.compile(rf"\b({_MONTH}) (\d{{1,2}})-(\d{{1,2}})\b(?:,? (\d{{4}})\b)?(?!\d|:)", re.IGNORECASE),
        lambda m: _days(m[1], m[2], m[3], m[4]),
    ),
    (
        re.compile(rf"\b(\d{{1,2}}){_SUFFIX}(?: of)? ({_MONTH})\b(?:,? (\d{{4}})\b)?", re.IGNORECASE),
        lambda m: _date(_month(m[2]), m[1], m[3]),
    ),
    (
        re.compile(rf"\b({_MONTH}) (\d{{1,2}}){_SUFFIX}\b(?:,? (\d{{4}})\b)?(?!\d|:)", re.IGNORECASE),
        lambda m: _date(_month(m[1]), m[2], m[3]),
    ),
    (re.compile(rf"\b({_MONTH}),? ({_YEAR})\b(?![,.]?\d)", re.IGNORECASE), lambda m: f"{_month(m[1])} {number_words(m[2], 'year')}"),
    (re.compile(r"(?<![\w'])'?(?P<digits>(?:1[1-9]|20)\d0)'?s\b"), _decade),
    (
        re.compile(rf"(?:(?<![\w'])'|{_BEFORE_DECADE})(?P<digits>[1-9]0)'?s\b"),
        _decade,
    ),
    (re.compile(r"(?<![\w'])'(?=\d\d\b(?!'))"), lambda m: ""),
    (re.compile(r"(?<=\d)-(?=\d{1,2}:\d{2})"), lambda m: " to "),
    (re.compile(_HOUR, re.IGNORECASE), _time),
    (re.compile(r"\b(\d{1,2})\s?([ap])\.?m\b\.?", re.IGNORECASE), lambda m: f"{number_words(m[1])} {m[2].lower()} m"),
)
# Years run after units: "in 1500 km" is a distance.
YEARS: tuple[Rule, ...] = (
    (
        re.compile(rf"(?<![\w.,:/-])({_YEAR})(?:-| - )({_YEAR}|\d\d)(?![\w,:/-]|\.\d)"),
        lambda m: f"{number_words(m[1], 'year')} to {number_words(m[2], 'year' if len(m[2]) == 4 else 'cardinal')}",
    ),
    (
        re.compile(rf"(?:\b|(?=©))({_BEFORE_YEAR})( ?)({_YEAR})\b(?![,.]?\d| ?[-:/%°]\w)", re.IGNORECASE),
        lambda m: f"{m[1]} {number_words(m[3], 'year')}",
    ),
    (re.compile(r"\b(\d+) ?(BC|AD|BCE|CE)\b"), lambda m: f"{m[1]} {' '.join(m[2])}"),
)
