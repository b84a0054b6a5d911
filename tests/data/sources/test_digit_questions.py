"""Questions about scenes of digits."""

import numpy as np
import pytest

from zoo.errors import ConfigError, DataError
from zoo.sources.digit_pairs import held_out_pairs
from zoo.sources.digit_questions import KINDS, DigitQuestions, DigitQuestionsSplit, question_of
from zoo.sources.digits import load_digits, split_indices
from zoo.sources.wording.questions import number_word

WORDS = {number_word(number): number for number in range(100)}


def drawn(split, index, generator=None):
    """The digits of a scene."""
    seen = []
    scene = DigitQuestionsSplit._scene
    split._scene = lambda digits, generator: (seen.append(digits), scene(split, digits, generator))[1]
    sample = split.sample(index, generator)
    return seen[0], sample


def truth(kind, text, digits):
    """The answer, worked out from the words of the question."""
    if kind == "identity":
        return digits
    if kind == "order":
        places = {"left": 0, "right": 1, "first": 0, "second": 1, "third": 2, "last": len(digits) - 1}
        return digits[next(place for word, place in places.items() if word in text)]
    if kind == "count":
        spoken = set(text.rstrip("?.").split())
        names = [number_word(number) for number in range(10)]
        asked = next(number for number, name in enumerate(names) if {name, f"{name}s", f"{name}es"} & spoken)
        return digits.count(asked)
    return sum(digits) if kind == "sum" else max(digits)


@pytest.mark.parametrize("num_digits", [[2], [1, 2, 3, 4]])
@pytest.mark.parametrize("name", DigitQuestions.splits)
def test_answers_are_true(num_digits, name):
    split = DigitQuestions(num_digits=num_digits).split(name)
    for index in range(60):
        digits, sample = drawn(split, index, np.random.default_rng(index) if index % 2 else None)
        conversation = sample.inputs["conversation"]
        answer = truth(sample.kind, conversation.messages[0].text.removeprefix("<image>\n"), digits)
        found = sample.answers[0].replace(" and ", ", ").split(", ") if sample.kind == "identity" else sample.answers[0]
        assert ([WORDS[word] for word in found] if sample.kind == "identity" else WORDS[found]) == answer
        assert conversation.answer == sample.answers[0] and len(conversation.images) == 1
        assert len(digits) in num_digits and conversation.images[0].shape == (32, 32)


def test_training_never_shows_a_held_out_pair_and_its_test_always():
    held_out = set(held_out_pairs())
    for name, expected in (("train", False), ("validation", False), ("test_seen", False), ("test_heldout", True)):
        split = DigitQuestions(num_digits=[2, 3, 4]).split(name)
        for index in range(100):
            digits, _ = drawn(split, index, np.random.default_rng(index) if name == "train" else None)
            pairs = {10 * digits[i] + digits[j] for j in range(len(digits)) for i in range(j)}
            assert bool(pairs & held_out) == expected, (name, digits)


def test_every_held_out_pair_is_tested_and_every_kind_equally_often():
    split = DigitQuestions().split("test_heldout")
    found = [drawn(split, index) for index in range(len(split))]
    assert {10 * digits[0] + digits[1] for digits, _ in found} == set(held_out_pairs())
    kinds = [sample.kind for _, sample in found]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 100)


def test_tests_draw_digits_that_training_never_shows():
    train, test = (DigitQuestions().split(name).members for name in ("train", "test_seen"))
    assert not set(np.concatenate(train)) & set(np.concatenate(test))
    assert set(np.concatenate(test)) == set(split_indices("test")) and (load_digits()[1][test[7]] == 7).all()


def test_a_scene_follows_from_its_numbers_alone():
    split = DigitQuestions().split("train")
    first, again, other = (split.sample(3, np.random.default_rng((0, epoch, 3))) for epoch in (0, 0, 1))
    images = [sample.inputs["conversation"].images[0] for sample in (first, again, other)]
    assert (images[0] == images[1]).all() and (images[0] != images[2]).any()
    assert first.inputs["conversation"].messages == again.inputs["conversation"].messages
    assert (split.sample(5).inputs["conversation"].images[0] == split.sample(5).inputs["conversation"].images[0]).all()


def test_captions_hold_the_letters_and_words_of_every_question():
    source = DigitQuestions(num_digits=[2, 4])
    words = {word for text in source.captions() for word in text.split()}
    for name in source.splits:
        for index in range(50):
            sample = source.split(name).sample(index)
            said = sample.inputs["conversation"].messages
            assert set(said[0].text.removeprefix("<image>\n").split()) <= words and set("".join(sample.answers)) <= set(
                "".join(words) + " "
            )


def test_numbers_in_words():
    assert [number_word(n) for n in (0, 13, 20, 36, 99)] == ["zero", "thirteen", "twenty", "thirty-six", "ninety-nine"]
    assert question_of("count", [6, 6], 1).wordings[0] == "How many sixes are there?"
    assert question_of("count", [0, 2], 1).answers == ("one", "1")


def test_what_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="num_digits"):
        DigitQuestions(num_digits=[5])
    with pytest.raises(ConfigError, match="did you mean 'count'"):
        DigitQuestions(kinds=["counts"])
    with pytest.raises(ConfigError, match="give a list"):
        DigitQuestions(kinds="sum")
    with pytest.raises(ConfigError, match="makes no pairs"):
        DigitQuestions(num_digits=[1]).split("test_heldout")
    with pytest.raises(DataError, match="there is no 'test'"):
        DigitQuestions().split("test")
