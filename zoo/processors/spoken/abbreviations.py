"""Abbreviations, initials and Roman numerals in words; those with two meanings are decided by the words beside them."""

import re

from zoo.processors.spoken.numbers import Rule, number_words

ABBREVIATIONS = {
    "mr.": "mister", "mrs.": "misses", "ms.": "miss", "dr.": "doctor", "prof.": "professor", "st.": "saint", "jr.": "junior",
    "sr.": "senior", "co.": "company", "ltd.": "limited", "inc.": "incorporated", "corp.": "corporation", "gen.": "general",
    "capt.": "captain", "sgt.": "sergeant", "lt.": "lieutenant", "col.": "colonel", "gov.": "governor", "sen.": "senator",
    "rev.": "reverend", "hon.": "honorable", "etc.": "et cetera", "e.g.": "for example", "i.e.": "that is", "vs.": "versus",
    "approx.": "approximately", "dept.": "department", "est.": "established", "mt.": "mount", "ave.": "avenue", "blvd.": "boulevard",
    "rd.": "road", "cf.": "compare", "ca.": "circa", "et al.": "and others",
}  # fmt: skip
BEFORE_NUMBERS = {
    "no.": "number", "nos.": "numbers", "fig.": "figure", "figs.": "figures", "p.": "page", "pp.": "pages", "vol.": "volume",
    "ch.": "chapter", "sec.": "section", "eq.": "equation", "art.": "article", "tab.": "table", "ed.": "edition",
}  # fmt: skip
AFTER_NAMES = {"st.": "street", "dr.": "drive"}  # "Main St.", "Elm Dr."; before a name they are saint and doctor
HEADINGS = (
    "Chapter|Part|Volume|Section|Act|Scene|Book|Phase|Type|War|Title|Article|Appendix|Class|Grade|Level|Figure|Table|Season|Episode|Mark"
)
RULERS = (
    "King|Queen|Pope|Emperor|Henry|Louis|Charles|George|William|Edward|Elizabeth|James|Richard|Philip|Napoleon|Alexander|Paul|Benedict|"
    "Pius|Catherine|Frederick|Wilhelm|Nicholas|Peter|Ivan|Ramses|Mary|Gregory|Leo|Innocent|Clement|Ferdinand|Francis|Gustav|Christian"
)
ROMAN = re.compile(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def roman_value(numeral: str) -> int | None:
    """Return the value of a Roman numeral in capitals, or None if it is not well-formed."""
    if not numeral or not ROMAN.fullmatch(numeral):
        return None
    values = [_VALUES[letter] for letter in numeral]
    return sum(-value if value < next_one else value for value, next_one in zip(values, [*values[1:], 0], strict=True))


def _heading(match: re.Match[str]) -> str:
    value = roman_value(match[2])
    return match[0] if value is None else f"{match[1]} {number_words(value)}"


def _ruler(match: re.Match[str]) -> str:
    value = roman_value(match[2])
    return match[0] if value is None else f"{match[1]} the {number_words(value, 'ordinal')}"


_PLAIN = "|".join(re.escape(short) for short in ABBREVIATIONS)
_NUMBERED = "|".join(re.escape(short) for short in BEFORE_NUMBERS)
RULES: tuple[Rule, ...] = (
    (re.compile(rf"\b({HEADINGS}) ([IVXLCDM]+)\b"), _heading),
    (re.compile(rf"\b({RULERS}) ([IVXLCDM]{{2,}}|[VX])\b"), _ruler),
    (re.compile(r"\bPh\.?D\b\.?"), lambda m: "P h D"),
    (re.compile(rf"\b({_NUMBERED}) ?(?=\d)", re.IGNORECASE), lambda m: BEFORE_NUMBERS[m[1].lower()] + " "),
    (re.compile(r"(?<=[A-Za-z0-9'] )(?<=\w\w )(St\.|Dr\.)(?=\s*(?:$|[,;:)]|[a-z0-9]))", re.MULTILINE), lambda m: AFTER_NAMES[m[1].lower()]),
    (re.compile(r"\b([ap])\.m\b\.?"), lambda m: f"{m[1]} m"),
    (re.compile(rf"\b(?:{_PLAIN})", re.IGNORECASE), lambda m: ABBREVIATIONS[m[0].lower()]),
    (re.compile(r"\b(?:[A-Z]\.){2,}"), lambda m: " ".join(m[0].replace(".", " ").split())),
)
