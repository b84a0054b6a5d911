"""Answers made alike and judged, against rows computed by hand from the published rule."""

import pytest

from zoo.evaluation.measures.vqa_accuracy import exact_match, normalised, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Two Dogs, isnt it?", "2 dogs isn't it"),  # article, number word, comma, contraction, case and spaces
        ("1,000.50 dollars.", "1000.50 dollars"),  # comma between digits goes, decimal point stays, full stop goes
        ("2:50 p.m.", "2:50 pm"),  # colons tell times
        ("girl's", "girl's"),  # an apostrophe may be a possessive
        ("red/white;blue-green", "red white blue green"),  # every other punctuation is a space
        ("None", "0"),
        ("dont", "don't"),
        ("Whats that", "what's that"),
        ("its well", "its well"),  # words of their own, which are no contractions
        ("an apple a day", "apple day"),
        ("eleven", "eleven"),  # the rule's number words end at ten
        ("", ""),
    ],
)
def test_answers_are_made_alike_by_the_published_rule(answer, expected):
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("matches", "expected"),
    # k of ten equal: k ways to leave one of these out give (k - 1) / 3, the other 10 - k give k / 3, neither above 1
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_is_the_mean_over_leaving_one_vote_out(matches, expected):
    references = ["two"] * matches + ["other"] * (10 - matches)
    assert vqa_accuracy("2.", references) == pytest.approx(expected)


def test_fewer_than_ten_references_are_all_right():
    assert vqa_accuracy("Paris", ["the city of Paris", "paris"]) == 1.0
    assert vqa_accuracy("Rome", ["the city of Paris", "paris"]) == 0.0


def test_exact_match_of_votes_is_the_most_frequent_answer():
    votes = ["cat"] * 6 + ["dog"] * 4
    assert exact_match("a cat", votes) == 1.0 and exact_match("dog", votes) == 0.0
    assert exact_match("dog", ["cat"] * 5 + ["dog"] * 5) == 1.0
    assert exact_match("dog", ["cat", "dog"]) == 1.0 and exact_match("", ["cat"]) == 0.0 and exact_match("x", []) == 0.0
