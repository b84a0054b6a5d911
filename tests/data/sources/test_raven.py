"""Raven's matrices: the rules hold, and the candidates alone do not reveal the answer."""

from collections import Counter

import numpy as np
import pytest

from zoo.errors import ConfigError, DataError
from zoo.sources.raven import LAYOUTS, VALUES, Panel, Raven, draw_panel, make_puzzle, words_of


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_attribute_stays_or_moves_by_its_rule(layout):
    rows, columns = LAYOUTS[layout]
    for seed in range(40):
        puzzle = make_puzzle(layout, 1 + seed % 3, np.random.default_rng(seed))
        panels = np.array([[getattr(p, n) for n in VALUES] for p in (*puzzle.context, puzzle.candidates[puzzle.right])])
        panels = panels.reshape(rows, columns, len(VALUES))
        for number, (name, size) in enumerate(VALUES.items()):
            down, across = puzzle.rules.get(name, (0, 0))
            assert ((np.diff(panels[..., number], axis=0) - down) % size == 0).all()
            assert ((np.diff(panels[..., number], axis=1) - across) % size == 0).all()
        assert len(puzzle.rules) == 1 + seed % 3 and (rows, columns) != (1, 1)


def test_no_value_of_an_attribute_is_more_frequent_among_the_candidates_and_the_right_one_is_anywhere():
    places = Counter()
    for seed in range(120):
        puzzle = make_puzzle("3x3", 2, np.random.default_rng(seed))
        assert len(set(puzzle.candidates)) == 6
        for name in VALUES:
            assert sorted(Counter(getattr(panel, name) for panel in puzzle.candidates).values()) in ([6], [3, 3])
        assert all(len({getattr(panel, name) for panel in puzzle.candidates}) == 2 for name in puzzle.rules)
        places[puzzle.right] += 1
    assert set(places) == set(range(6)) and max(places.values()) < 40


def test_panels_that_differ_look_different():
    plain = Panel(1, 0, 1, 0, 0)
    others = [Panel(**{**vars(plain), name: value}) for name, size in VALUES.items() for value in range(size)]
    pictures = {panel: draw_panel(panel, 32).tobytes() for panel in others}
    assert len(set(pictures.values())) == len(pictures) == sum(VALUES.values()) - len(VALUES) + 1
    turned = [draw_panel(Panel(0, shape, 0, turn, 4), 32).tobytes() for shape in range(VALUES["shape"]) for turn in range(4)]
    assert len(set(turned)) == len(turned)


def test_the_words_are_the_papers_and_yes_is_said_of_the_right_candidate():
    split, said = Raven(layouts=["2x2", "3x3"], size=24).split("test"), Counter()
    for index in range(60):
        sample = split.sample(index)
        conversation = sample.inputs["conversation"]
        right = (conversation.images[-1] == sample.choices[sample.label]).all()
        assert conversation.answer == sample.answers[0] == ("Yes" if right else "No") and len(sample.choices) == 6
        assert sample.kind == ("2x2", "3x3")[index % 2] and len(conversation.images) == (4, 9)[index % 2]
        said[conversation.answer] += 1
    assert 15 < said["Yes"] < 45
    marker = "<image>"
    assert words_of(3) == f"Here are three images: {marker * 3} The following image is: {marker} Is it correct?"


def test_a_puzzle_follows_from_its_numbers_alone():
    split = Raven(size=16).split("train")
    first, again, other = (split.sample(5, np.random.default_rng((0, epoch, 5))) for epoch in (0, 0, 1))
    same = [(a == b).all() for a, b in zip(first.choices, again.choices, strict=True)]
    assert all(same) and first.label == again.label
    assert any((a != b).any() for a, b in zip(first.choices, other.choices, strict=True))
    test, validation = (Raven(size=16).split(name).sample(0).choices for name in ("test", "validation"))
    assert any((a != b).any() for a, b in zip(test, validation, strict=True))


def test_what_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="layouts: there is no '4x4'"):
        Raven(layouts=["4x4"])
    with pytest.raises(ConfigError, match="num_rules: .*numbers from 1 to 3"):
        Raven(num_rules=[4])
    with pytest.raises(ConfigError, match="at least 16 pixels"):
        Raven(size=8)
    with pytest.raises(ConfigError, match="did you mean 'user'"):
        Raven(role="users")
    with pytest.raises(DataError, match="did you mean 'test'"):
        Raven().split("tests")
