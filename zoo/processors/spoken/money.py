"""Amounts of money in words: signs and codes of currencies, magnitudes, cents, ranges."""

import re

from zoo.processors.spoken.numbers import Rule, decimal_words, european_decimal, is_one, number_words, whole_words
from zoo.processors.spoken.units import per_unit

# sign or code: (unit, units, small unit, small units); no small unit where a currency has none in use
DOLLAR, POUND, EURO = ("dollar", "dollars", "cent", "cents"), ("pound", "pounds", "penny", "pence"), ("euro", "euros", "cent", "cents")
CURRENCIES: dict[str, tuple[str, ...]] = {
    "$": DOLLAR, "£": POUND, "€": EURO, "¥": ("yen", "yen"), "₹": ("rupee", "rupees", "paisa", "paise"), "₩": ("won", "won"),
    "₽": ("ruble", "rubles", "kopek", "kopeks"), "₺": ("lira", "lira"), "₴": ("hryvnia", "hryvnias"), "₪": ("shekel", "shekels"),
    "₫": ("dong", "dong"), "₦": ("naira", "naira"), "₱": ("peso", "pesos"), "฿": ("baht", "baht"), "₿": ("bitcoin", "bitcoins"),
    "EUR": EURO, "JPY": ("yen", "yen"), "INR": ("rupee", "rupees", "paisa", "paise"), "CNY": ("yuan", "yuan"), "KRW": ("won", "won"),
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"), "SEK": ("Swedish krona", "Swedish kronor"),
    "NOK": ("Norwegian krone", "Norwegian kroner"), "DKK": ("Danish krone", "Danish kroner"), "PLN": ("zloty", "zlotys"),
    "GBP": POUND, "Rs.": ("rupee", "rupees", "paisa", "paise"),
}  # fmt: skip
DOLLARS = {
    "US": "US", "A": "Australian", "AU": "Australian", "C": "Canadian", "CA": "Canadian", "NZ": "New Zealand", "HK": "Hong Kong",
    "S": "Singapore",
}  # fmt: skip
for _short, _land in DOLLARS.items():
    CURRENCIES[f"{_short}$"] = (f"{_land} dollar", f"{_land} dollars", "cent", "cents")
for _code, _land in (("USD", "US"), ("AUD", "Australian"), ("CAD", "Canadian"), ("NZD", "New Zealand"), ("HKD", "Hong Kong")):
    CURRENCIES[_code] = CURRENCIES[f"{'US' if _code == 'USD' else _code[:2]}$"]
MAGNITUDES = {
    "k": "thousand", "m": "million", "mn": "million", "mio": "million", "bn": "billion", "b": "billion", "tn": "trillion",
    "hundred": "hundred", "thousand": "thousand", "million": "million", "billion": "billion", "trillion": "trillion",
}  # fmt: skip

_SIGN = "|".join(re.escape(sign) for sign in sorted(CURRENCIES, key=len, reverse=True))
_AMOUNT = r"\d{1,3}(?:[,.]\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d+(?:[.,]\d+)?|\.\d+"
_PER = r"(?:/(?P<per>[A-Za-z]+)\b)?"
_SCALE = rf"(?: ?(?P<scale>{'|'.join(sorted(MAGNITUDES, key=len, reverse=True))})\b(?!/))"


def money_words(sign: str, amount: str, scale: str | None = None) -> str:
    """Spell an amount: ("$", "3.50") -> "three dollars and fifty cents"; ("$", "1.5", "m") -> "one point five million dollars"."""
    one, several, *small = CURRENCIES[sign]
    amount = european_decimal(amount)
    whole, _, part = amount.partition(".")
    whole = whole or "0"
    if scale:
        return f"{decimal_words(amount)} {MAGNITUDES[scale.lower()]} {several}"
    if part and (not small or len(part) > 2):
        return f"{decimal_words(amount)} {several}"
    units, cents = f"{whole_words(whole)} {one if is_one(whole) else several}", int((part or "0").ljust(2, "0"))
    if not cents:
        return units
    change = f"{number_words(cents)} {small[0] if cents == 1 else small[1]}"
    return f"{units} and {change}" if int(whole.replace(",", "")) else change


def _before(match: re.Match[str]) -> str:
    minus = "minus " if match["minus"] or match["inner"] else ""
    if match["end"]:
        last = money_words(match["sign"], match["end"], match["scale"])
        return f"{minus}{decimal_words(european_decimal(match['amount']))} to {last}{per_unit(match['per'])}"
    return minus + money_words(match["sign"], match["amount"], match["scale"]) + per_unit(match["per"])


def _after(match: re.Match[str]) -> str:
    amount = match["amount"]
    if re.fullmatch(r"\d{1,3}\.\d{3}", amount):  # a sign after the number is European: the point separates thousands
        amount = amount.replace(".", "")
    return money_words(match["sign"], amount, match["scale"]) + per_unit(match["per"])


def _cents(match: re.Match[str]) -> str:
    return f"{decimal_words(match[1])} {'cent' if is_one(match[1]) else 'cents'}"


RULES: tuple[Rule, ...] = (
    (re.compile(rf"(?P<amount>{_AMOUNT}){_SCALE}?\s?(?P<sign>{_SIGN})(?![\w]){_PER}"), _after),
    (
        re.compile(
            rf"(?P<minus>(?<!\w)-)?(?<![A-Za-z])(?P<sign>{_SIGN})\s?(?P<inner>-)?(?P<amount>{_AMOUNT})"
            rf"(?:-(?:(?P=sign))?(?P<end>{_AMOUNT}))?{_SCALE}?(?:(?<=\d)p\b)?{_PER}"
        ),
        _before,
    ),
    (re.compile(rf"({_AMOUNT}) ?¢"), _cents),
    (re.compile(r"(?<![\w.,])(\d+)p\b"), lambda m: f"{whole_words(m[1])} {'penny' if is_one(m[1]) else 'pence'}"),
)
