"""Word errors: by hand, by jiwer on corpora, and texts normalised as openai-whisper does."""

import sys

import jiwer
import numpy as np
import pytest
from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

from zoo.errors import ConfigError
from zoo.evaluation.measures.wer import Edits, WordErrorCounter, summed

TEXTS = [
    "Let's go, it's $20 million and 3.5% in nineteen ninety-five!",
    "Mr. O'Neil won't honour the 1,000 dollars (aside) [noise], um, twenty-one oh one",
    "Two and a half, minus twenty three; the 2nd, third and 1980s \u2014 caf\u00e9 na\u00efve",
    "press star for nine hundred or hash for double oh seven",
]


def test_errors_are_those_counted_by_hand():
    judge = WordErrorCounter("none")
    found = judge("please press nine now", "please press two five")
    assert found.words == Edits(4, 2, 0, 0) and found.words.rate == 0.5
    assert found.marked == "please press [nine now -> two five]"
    found = judge("please press nine now", "please, press five")  # two words are others and one is lost
    assert found.words == Edits(4, 2, 1, 0) and found.words.errors == 3 and found.words.rate == 0.75
    found = judge("a b", "a c b d")
    assert found.words == Edits(2, 0, 0, 2) and found.marked == "a [+c+] b [+d+]"
    assert found.characters == Edits(3, 0, 0, 4)


def test_an_excerpt_keeps_a_few_words_around_each_difference():
    found = WordErrorCounter("none")("a b c d e f g h i j k l", "a b c d e f x h i j k")
    assert found.marked == "a b c d e f [g -> x] h i j k [-l-]"
    found = WordErrorCounter("none")("a b c d e f g h i", "a b c d e f g h i j")
    assert found.excerpt == "a b c ... g h i [+j+]"


def test_nothing_said_or_heard():
    judge = WordErrorCounter("none")
    assert judge("a b", "").words == Edits(2, 0, 2, 0) and judge("a b", "").marked == "[-a b-]"
    assert judge("", "a").words == Edits(0, 0, 0, 1) and judge("", "a").words.rate == float("inf")
    assert judge("", "").words.rate == 0


def test_corpus_rates_are_jiwers():
    letters = np.random.default_rng(0)
    texts = [[" ".join(letters.choice(list("abcd"), letters.integers(1, 9))) for _ in range(30)] for _ in range(2)]
    judge = WordErrorCounter("none")
    words, characters = summed([judge(said, heard) for said, heard in zip(*texts, strict=True)])
    assert words.rate == pytest.approx(jiwer.wer(*texts)) and characters.rate == pytest.approx(jiwer.cer(*texts))
    whole = jiwer.process_words(*texts)
    assert (words.substitutions, words.deletions, words.insertions) == (whole.substitutions, whole.deletions, whole.insertions)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")  # theirs leaves a file open
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("english", EnglishTextNormalizer),
        ("basic", BasicTextNormalizer),
        ("characters", lambda: BasicTextNormalizer(split_letters=True)),
    ],
)
def test_texts_are_normalised_as_by_openai_whisper(name, theirs):
    judge, change = WordErrorCounter(name), theirs()
    for text in TEXTS:
        assert judge(text, text).reference == " ".join(change(text).split())


def test_numbers_contractions_and_spelling_are_no_errors():
    found = WordErrorCounter()("I'm going to honour nine hundred and one.", "i am going to honor 901")
    assert found.words.errors == 0 and found.words.units == 6
    assert WordErrorCounter("basic")("I'm there.", "i am there").words.errors == 1
    assert WordErrorCounter("characters")("\u4f60\u597d\uff0c\u518d\u89c1", "\u4f60\u518d\u89c1").words == Edits(4, 0, 1, 0)


def test_wrong_words_and_missing_libraries_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'english'"):
        WordErrorCounter("englsh")
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(ConfigError, match=r"need whisper-normalizer; install it with: zoo install metrics"):
        WordErrorCounter()
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ConfigError, match="need jiwer"):
        WordErrorCounter("none")
