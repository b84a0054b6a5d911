"""Questions about tables of small digits."""

import numpy as np
import pytest

from zoo.errors import ConfigError, DataError
from zoo.sources.digit_tables import KINDS, ROW_KINDS, DigitTables, DigitTablesSplit
from zoo.sources.digits import load_digits, split_indices
from zoo.sources.wording.questions import number_word

PLACES = {"left": 0, "first": 0, "right": 1, "second": 1, "third": 2, "fourth": 3, "last": -1}
WORDS = {number_word(number): number for number in range(100)}


def drawn(split, index, generator=None):
    """The digits of a table, and its sample."""
    seen = []
    draw = DigitTablesSplit._drawn
    split._drawn = lambda digits, generator: (seen.append(digits), draw(split, digits, generator))[1]
    sample = split.sample(index, generator)
    return seen[0], sample


def truth(text, digits):
    """The answer, worked out from the words of the question alone."""
    if "most" in text:
        return [max(range(10), key=[digit for row in digits for digit in row].count)]
    _, row, *words = text.removeprefix("<image>\n").rstrip("?.").replace(".", "").split()
    row = digits[WORDS[row] - 1]
    if {"Read", "these", "picture"} & set(words):
        return row
    if {"sum", "Add", "together"} & set(words):
        return [sum(row)]
    if {"largest", "highest"} & set(words):
        return [max(row)]
    if {"many", "Count", "often"} & set(words):
        names = {number_word(digit) + ending: digit for digit in range(10) for ending in ("", "s", "es")}
        return [row.count(next(names[word] for word in words if word in names))]
    return [row[next(PLACES[word] for word in words if word in PLACES)]]


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 4), (1, 1), (9, 2)])
def test_answers_are_true_of_the_row_that_is_named(rows, columns):
    source = DigitTables(rows=rows, columns=columns, questions=4)
    for name in source.splits:
        split = source.split(name)
        for index in range(20):
            digits, sample = drawn(split, index, np.random.default_rng(index) if name == "train" else None)
            conversation = sample.inputs["conversation"]
            turns = list(zip(conversation.messages[::2], conversation.messages[1::2], strict=True))
            assert len(turns) == (4 if name == "train" else 1) and np.shape(digits) == (rows, columns)
            for question, answer in turns:
                assert [WORDS[word] for word in answer.text.replace(" and ", ", ").split(", ")] == truth(question.text, digits), question
            assert conversation.answer == sample.answers[0]
            assert [question.text.count("<image>") for question, _ in turns] == [1] + [0] * (len(turns) - 1)
            assert conversation.images[0].shape == (16 * rows, 16 * columns)


def test_each_split_shows_its_own_digits():
    """A third of the digits have 8 pixels: these are scans as they are in the file."""
    images = load_digits()[0]
    for name in DigitTables.splits:
        own, split, found = {images[index].tobytes() for index in split_indices(name)}, DigitTables().split(name), 0
        for index in range(20):
            canvas = split.sample(index).inputs["conversation"].images[0]
            for row, column in np.ndindex(3, 3):
                cell = canvas[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
                windows = [cell[y : y + 8, x : x + 8] for y, x in np.ndindex(9, 9)]
                found += any(window.tobytes() in own and window.sum() == cell.sum() for window in windows)
        assert 30 < found < 90, (name, found)


def test_kinds_alternate_and_test_tables_stay_the_same():
    first, second = (DigitTables(test_scenes=2).split("test") for _ in range(2))
    assert [first.sample(index).kind for index in range(12)] == list(KINDS) * 2 and len(first) == 12
    assert first.sample(3).inputs["conversation"].messages == second.sample(3).inputs["conversation"].messages
    assert np.array_equal(first.sample(3).inputs["conversation"].images[0], second.sample(3).inputs["conversation"].images[0])


def test_tables_of_all_sizes_have_the_same_texts_for_the_tokenizer():
    texts = DigitTables(rows=1, columns=1, kinds=["sum"]).captions()
    assert texts == DigitTables(rows=9, columns=4).captions()
    split = DigitTables(rows=9, columns=4, kinds=ROW_KINDS).split("train")
    words = {word for text in texts for word in text.split()}
    for index in range(50):
        messages = split.sample(index, np.random.default_rng(index)).inputs["conversation"].messages
        assert {word.rstrip(",") for message in messages for word in message.text.removeprefix("<image>\n").split()} <= words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"rows": 0}, "rows: 0; allowed is 1 to 9"),
        ({"columns": 5}, "columns: 5; allowed is 1 to 4"),
        ({"cell": 7}, "cell: 7; allowed is 8 or more"),
        ({"questions": 0}, "questions: 0"),
        ({"kinds": ["colour"]}, "no 'colour'"),
    ],
)
def test_wrong_values_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        DigitTables(**words)


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="test_seen"):
        DigitTables().split("test_seen")
