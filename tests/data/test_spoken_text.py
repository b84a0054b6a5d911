"""Notations in words: one case a line in ``spoken_text.tsv``, the text and how it is read, separated by a tab.

The first 200 cases were written before the rules and before other packages were tried on them.
"""

from pathlib import Path

import pytest

from zoo.processors.media.read_aloud import fitting_pieces, read_aloud
from zoo.processors.spoken.abbreviations import roman_value
from zoo.processors.text import TextProcessor

CASES = [line.split("\t") for line in (Path(__file__).parent / "spoken_text.tsv").read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize(("text", "spoken"), CASES)
def test_notations_become_words(text, spoken):
    assert read_aloud(text) == spoken


def test_no_digit_and_no_known_symbol_is_left():
    left = {letter for text, _ in CASES for letter in read_aloud(text) if letter.isdigit() or letter in "$€£¥₹%&@#+=/×÷°²³½"}
    assert not left


def test_words_are_read_as_they_are():
    assert [spoken for _, spoken in CASES if read_aloud(spoken) != spoken] == []


@pytest.fixture(scope="module")
def processor():
    return TextProcessor(vocab_size=38, context_length=128, tokenizer="characters", cleaning="speech")


def test_a_sentence_is_split_after_its_numbers_are_spelled_out(processor):
    sentence = "It cost 123,456,789 dollars, then 987,654,321 dollars, then 555,666,777 dollars."
    pieces = processor.speakable_pieces(sentence)
    assert len(pieces) > 2 and all(len(processor.item(piece)) <= 128 for piece in pieces)
    assert "".join(pieces).replace(" ", "") == read_aloud(sentence).replace(" ", "")


def test_a_sentence_that_fits_stays_as_it_was_written(processor):
    assert processor.speakable_pieces("Dr. Lee paid $5.") == ["Dr. Lee paid $5."]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("四千三百七", "四千三百七"),
        ("\u039a\u03b1\u03bb\u03b7", "\u039a\u03b1\u03bb\u03b7"),
        ("a \u65e5 b \u65e5", "\u65e5"),
        ("caf\u00e9 \u2192 x\u00b2 \u20ac5", ""),
        ("\u0416 \u2460 \uff15 \u2103", "\u0416"),
    ],
)
def test_symbols_that_cannot_be_spoken_are_named_once(processor, text, missing):
    assert processor.unspoken(text) == missing
    assert bool(processor.speakable_pieces(text)) == (text != missing)


def test_a_long_word_is_cut_where_it_must_be():
    assert fitting_pieces("a" * 10, 4, len) == ["aaaa", "aaaa", "aa"]


@pytest.mark.parametrize(("numeral", "value"), [("IV", 4), ("MCMXC", 1990), ("IIII", None), ("VX", None), ("", None), ("XLII", 42)])
def test_roman_numerals(numeral, value):
    assert roman_value(numeral) == value
