"""Text normalisation for speech synthesis, sentence splitting, and symbol tables."""

import pytest
from torchaudio.pipelines import TACOTRON2_GRIFFINLIM_CHAR_LJSPEECH

from zoo.errors import ConfigError, DataError
from zoo.processors.media.read_aloud import CHARACTERS, read_aloud, split_sentences, symbol_tokenizer
from zoo.processors.spoken.numbers import number_words
from zoo.processors.text import TextProcessor


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("3421", "three thousand four hundred and twenty one"),
        ("1,234,567", "one million two hundred and thirty four thousand five hundred and sixty seven"),
        ("-3.05", "minus three point zero five"),
        ("007", "zero zero seven"),
        ("1st, 22nd and 103rd", "first, twenty second and one hundred and third"),
        ("$3.50", "three dollars and fifty cents"),
        ("$1", "one dollar"),
        ("£0.01", "one penny"),
        ("€1,000", "one thousand euros"),
        ("$2.5 million", "two point five million dollars"),
        ("5%", "five percent"),
        ("14:35", "fourteen thirty five"),
        ("at 9:05 am", "at nine oh five a m"),
        ("at 7 p.m.", "at seven p m"),
        ("12:00", "twelve o'clock"),
        ("2024-03-05", "March fifth, twenty twenty four"),
        ("5 March 2024", "March fifth, twenty twenty four"),
        ("on Dec. 24th", "on December twenty fourth"),
        ("born in 1984", "born in nineteen eighty four"),
        ("1984 apples", "one thousand nine hundred and eighty four apples"),
        ("Dr. Lee vs. Mrs. Jones", "doctor Lee versus misses Jones"),
        ("10 km at 100 km/h", "ten kilometers at one hundred kilometers per hour"),
        ("1 kg", "one kilogram"),
        ("20°C", "twenty degrees celsius"),
        ("salt & pepper", "salt and pepper"),
        ("caf\u00e9 \u2013 \u201cna\u00efve\u201d", 'cafe - "naive"'),
        ("99:99 and 2024-13-40", "ninety nine:ninety nine and two thousand and twenty four-thirteen-forty"),
    ],
)
def test_numbers_and_signs_become_words(text, spoken):
    assert read_aloud(text) == spoken


def test_sentences_end_at_full_stops_that_end_sentences():
    text = 'Dr. Lee paid 3.5 pounds. J. R. Smith came.\n"Why?" she asked. 12 more followed!'
    assert split_sentences(text, 80) == ["Dr. Lee paid 3.5 pounds.", "J. R. Smith came.", '"Why?" she asked.', "12 more followed!"]


@pytest.mark.parametrize("longest", [8, 20, 33])
def test_long_sentences_are_cut_and_lose_no_word(longest):
    text = "This sentence goes on, and on, without an end that anybody could see; it is abcdefghijklmnopqrstuvwxyz long"
    pieces = split_sentences(text, longest)
    assert all(len(piece) <= longest for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_symbols_are_those_of_torchaudios_bundle():
    processor = TACOTRON2_GRIFFINLIM_CHAR_LJSPEECH.get_text_processor()
    ours = TextProcessor(vocab_size=38, context_length=100, tokenizer="characters")
    for text in ("Hello World! T T S?", "it's 5 o'clock; (now) - #$ ok"):
        theirs, lengths = processor(text)
        assert ours.item(text).tolist() == theirs[0, : int(lengths)].tolist()
    assert tuple(CHARACTERS) == tuple(processor.tokens)


def test_the_tokenizer_travels_as_a_file(tmp_path):
    words = {"vocab_size": 38, "context_length": 30, "tokenizer": "characters", "cleaning": "speech"}
    ours = TextProcessor(**words)
    ours.save(tmp_path)
    again = TextProcessor(**ours.settings)
    again.load(tmp_path)
    assert again.item("21 Cats").tolist() == ours.item("21 Cats").tolist() == ours.item("twenty one cats").tolist()
    assert ours.is_fitted


def test_what_cannot_be_said_at_once_is_refused_not_cut():
    ours = TextProcessor(vocab_size=38, context_length=10, tokenizer="characters", cleaning="speech")
    with pytest.raises(DataError, match="allowed are 1 to 10"):
        ours.item("a text that is too long")
    with pytest.raises(DataError, match="0 symbols"):
        ours.item("\u4f60\u597d")
    with pytest.raises(ConfigError, match="vocab_size: 20 is too small"):
        TextProcessor(vocab_size=20, context_length=10, tokenizer="characters")


def test_phonemes_keep_punctuation_and_read_numbers():
    ours = TextProcessor(vocab_size=81, context_length=100, tokenizer="phonemes", cleaning="phonemes", lowercase=False)
    said = ours.clean("Three dogs, 21 cats?")
    assert "," in said and said.endswith("?") and "\u03b8" in said and "1" not in said
    assert ours.item("Three dogs, 21 cats?").tolist() == ours.item("three dogs, twenty one cats?").tolist()
    assert symbol_tokenizer("phonemes").decode(ours.item("cats").tolist()).replace(" ", "") == "k\u02c8\u00e6ts"


def test_number_words_need_their_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "num2words", None)
    with pytest.raises(DataError, match="needs num2words"):
        number_words(3)
