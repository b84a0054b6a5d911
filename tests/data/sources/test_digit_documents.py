"""In-context documents: symbols of digits that are drawn for each document."""

import numpy as np
import pytest

from zoo.errors import ConfigError, DataError
from zoo.sources.digit_documents import SYMBOLS, DigitDocuments
from zoo.sources.digits import split_indices


def pairs(split, index, generator=None):
    """(digit, symbol) of each picture of a document, and the sample."""
    drawn, picture = [], split._picture
    split._picture = lambda digit, generator: (drawn.append(digit), picture(digit, generator))[1]
    sample = split.sample(index, generator)
    del split._picture
    words = sample.inputs["conversation"].messages[0].text.split("<image> ")[1:]
    return list(zip(drawn, words, strict=True)), sample


def test_a_document_gives_each_digit_one_symbol_and_names_the_last():
    split = DigitDocuments(num_classes=3, num_examples=5).split("test")
    for index in range(50):
        found, sample = pairs(split, index)
        assert len(found) == 6 and len(sample.inputs["conversation"].images) == 6
        labelling = dict(found)
        assert len(set(labelling.values())) == len(labelling) <= 3 and len(set(found)) == len(labelling)
        assert sample.answers == [found[-1][1]] and set(labelling.values()) <= set(sample.choices) and len(sample.choices) == 3
        assert sample.inputs["conversation"].messages[0].role == "document"


def test_labellings_are_permuted_from_document_to_document():
    split = DigitDocuments(symbols=["x", "y"]).split("train")
    found = {pair for index in range(200) for pair in pairs(split, index, np.random.default_rng((0, 0, index)))[0]}
    assert found == {(digit, symbol) for digit in range(10) for symbol in "xy"}


def test_classes_are_drawn_independently_so_that_no_count_tells_the_next_symbol():
    split = DigitDocuments(num_examples=3).split("train")
    last_is_new = []
    for index in range(400):
        words = [word for _, word in pairs(split, index, np.random.default_rng(index))[0]]
        last_is_new.append(words[-1] not in words[:-1])
    assert 0.06 < np.mean(last_is_new) < 0.2  # (1/2)^3 = 0.125, standard error 0.017


def test_a_document_follows_from_its_numbers_alone():
    split = DigitDocuments().split("train")
    first, again, other = (split.sample(3, np.random.default_rng((0, epoch, 3))).inputs["conversation"] for epoch in (0, 0, 1))
    assert first.messages == again.messages and all((a == b).all() for a, b in zip(first.images, again.images, strict=True))
    assert any((a != b).any() for a, b in zip(first.images, other.images, strict=True))
    fixed, same = (DigitDocuments().split("test").sample(7).inputs["conversation"] for _ in range(2))
    assert fixed.messages == same.messages and (fixed.images[-1] == same.images[-1]).all()


def test_tests_draw_digits_that_training_never_shows():
    train, test = (np.concatenate(DigitDocuments().split(name).members) for name in ("train", "test"))
    assert not set(train) & set(test) and set(test) == set(split_indices("test"))


def test_captions_are_the_symbols_as_documents_have_them():
    assert DigitDocuments(symbols="words").captions() == [f" {word}" for word in SYMBOLS["words"]]


def test_what_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="num_classes: 11; allowed is 2 to 10"):
        DigitDocuments(num_classes=11)
    with pytest.raises(ConfigError, match="num_classes: 3; allowed is 2 to 2"):
        DigitDocuments(num_classes=3, symbols=["a", "b"])
    with pytest.raises(ConfigError, match="num_examples: 0"):
        DigitDocuments(num_examples=0)
    with pytest.raises(ConfigError, match="did you mean 'letters'"):
        DigitDocuments(symbols="leters")
    with pytest.raises(ConfigError, match="symbols: two are equal"):
        DigitDocuments(symbols=["a", "a"])
    with pytest.raises(DataError, match="did you mean 'train'"):
        DigitDocuments().split("trian")
