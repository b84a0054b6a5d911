"""Units of measurement in words: symbols after a number, powers of lengths, and quotients ("km/h")."""

import re

from zoo.processors.spoken.numbers import NUMBER, Rule, european_decimal, is_one

# symbol: plural name. The singular drops the final s of the first word unless SINGULARS says otherwise.
LENGTHS = {
    "km": "kilometers", "cm": "centimeters", "mm": "millimeters", "µm": "micrometers", "nm": "nanometers", "m": "meters",
    "ft": "feet", "yd": "yards", "mi": "miles",
}  # fmt: skip
OTHERS = {
    "kg": "kilograms", "mg": "milligrams", "g": "grams", "lbs": "pounds", "lb": "pounds", "oz": "ounces", "fl oz": "fluid ounces",
    "ml": "milliliters", "mL": "milliliters", "l": "liters", "L": "liters", "cl": "centiliters",
    "ms": "milliseconds", "µs": "microseconds", "ns": "nanoseconds", "s": "seconds", "sec": "seconds", "min": "minutes", "h": "hours",
    "hr": "hours", "hrs": "hours", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "THz": "terahertz", "Hz": "hertz",
    "kB": "kilobytes", "KB": "kilobytes", "MB": "megabytes", "GB": "gigabytes", "TB": "terabytes", "KiB": "kibibytes", "MiB": "mebibytes",
    "GiB": "gibibytes", "kbit": "kilobits", "Mbit": "megabits", "Gbit": "gigabits", "Mbps": "megabits per second",
    "Gbps": "gigabits per second", "kbps": "kilobits per second", "W": "watts", "kW": "kilowatts", "MW": "megawatts", "GW": "gigawatts",
    "Wh": "watt hours", "kWh": "kilowatt hours", "MWh": "megawatt hours", "V": "volts", "kV": "kilovolts", "mV": "millivolts",
    "mA": "milliamperes", "mAh": "milliampere hours", "Ω": "ohms", "kΩ": "kiloohms", "N": "newtons", "J": "joules", "kJ": "kilojoules",
    "kcal": "kilocalories", "Pa": "pascals", "hPa": "hectopascals", "kPa": "kilopascals", "bar": "bars", "psi": "pounds per square inch",
    "dB": "decibels", "lm": "lumens", "ha": "hectares", "mph": "miles per hour", "kph": "kilometers per hour",
    "rpm": "revolutions per minute",
    "fps": "frames per second", "dpi": "dots per inch", "ppm": "parts per million", "px": "pixels",
    "°C": "degrees celsius", "°F": "degrees fahrenheit", "°": "degrees", "K": "kelvin", "%": "percent", "‰": "per mille",
}  # fmt: skip
UNITS = LENGTHS | OTHERS
SINGULARS = {"feet": "foot", "hertz": "hertz", "kelvin": "kelvin", "percent": "percent", "per": "per", "kilohertz": "kilohertz",
             "megahertz": "megahertz", "gigahertz": "gigahertz", "terahertz": "terahertz"}  # fmt: skip
SPACED = {"K", "N", "J", "V", "W", "L", "l", "h"}  # "4K", "5L" and the like are names more often than measures
EXACT = {"m", "s", "g", "h", "l", "L", "K", "N", "J", "V", "W", "mi", "ha", "Pa", "lm", "bar", "min", "sec"}  # letter case decides

_FOLDED = {symbol.lower(): name for symbol, name in UNITS.items() if symbol not in EXACT}
_SYMBOLS = "|".join(re.escape(symbol) for symbol in sorted(UNITS, key=len, reverse=True))
_POWERS = {"²": 2, "³": 3, "^2": 2, "^3": 3}
_POWER = r"(?:²|³|\^2|\^3)"


def _name(symbol: str) -> str | None:
    return UNITS.get(symbol) or _FOLDED.get(symbol.lower())


def _singular(name: str) -> str:
    head, *rest = name.split()
    if rest and rest[0] != "per" and head not in ("degrees",):  # "watt hours": the last word has the number
        return " ".join([head, *rest]).removesuffix("s")
    return " ".join([SINGULARS.get(head) or head.removesuffix("s"), *rest])


def _raised(symbol: str, power: str | None, *, single: bool) -> str | None:
    """Return the name of a unit with its power: square meters, seconds squared; None if the symbol is not a unit."""
    name = _name(symbol)
    if name is None:
        return None
    name = _singular(name) if single else name
    if not power:
        return name
    order = _POWERS[power]
    if symbol in LENGTHS:
        return f"{'square' if order == 2 else 'cubic'} {name}"
    return f"{name} {'squared' if order == 2 else 'cubed'}"


def per_unit(symbol: str | None) -> str:
    """Return " per kilogram" for "kg" and " per person" for "person"; empty for None."""
    return "" if symbol is None else f" per {_raised(symbol, None, single=True) or symbol}"


def _unit(match: re.Match[str]) -> str:
    number, symbol = match["number"], match["unit"]
    if symbol in SPACED and not match["space"]:
        return match[0]
    top = _raised(symbol, match["power"], single=is_one(number))
    if top is None:
        return match[0]
    if match["per"]:
        power = {2: " squared", 3: " cubed"}.get(_POWERS.get(match["per_power"], 0), "")
        return f"{european_decimal(number)} {top}{per_unit(match['per'])}{power}"
    return f"{european_decimal(number)} {top}"


RULES: tuple[Rule, ...] = (
    (re.compile(r"(?<![\w.])(\d+)'(\d{1,2})\"(?!\w)"), lambda m: f"{m[1]} foot {m[2]}"),
    (re.compile(r"(?<=\d) ?% ?- ?(?=\d+(?:\.\d+)? ?%)"), lambda m: "-"),
    (
        re.compile(
            rf"(?P<number>(?<![\d.,])\d+,\d{{1,2}}|{NUMBER})(?P<space>\s?)(?P<unit>{_SYMBOLS})(?P<power>{_POWER})?"
            rf"(?:/(?P<per>{_SYMBOLS})(?P<per_power>{_POWER})?)?(?![\w/²³^])",
            re.IGNORECASE,
        ),
        _unit,
    ),
)
