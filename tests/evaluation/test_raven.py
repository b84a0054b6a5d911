"""Raven's matrices: candidates are scored by P("Yes"), and the likeliest is taken."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from zoo.evaluation.raven import Raven, candidate_prompts
from zoo.sources.raven import Raven as Puzzles
from zoo.types import Sample


class Judge:
    """Stub that scores "Yes" by the function ``says`` of a candidate, and records its prompts."""

    encoders = {}

    def __init__(self, says):
        self.head, self.says, self.asked = SimpleNamespace(verbs=("score",)), says, []

    def score(self, prompts, answers, *, batch_size, with_end):
        assert set(answers) == {"Yes"} and not with_end
        self.asked += prompts
        return torch.tensor([float(self.says(prompt.images[-1])) for prompt in prompts])


@pytest.fixture(scope="module")
def puzzles():
    return Puzzles(size=16, layouts=["2x2", "1x5"])


def test_the_candidate_with_the_likeliest_yes_is_taken(puzzles):
    split = puzzles.split("test")
    rights = [split.sample(i).choices[split.sample(i).label].tobytes() for i in range(len(split))]
    result = Raven(limit=20)(Judge(lambda image: image.tobytes() in rights), puzzles, "test")
    assert result.metrics["chance"] == pytest.approx(1 / 6) and result.metrics["accuracy"] > 0.9  # a right one may be another's wrong one
    assert Raven(limit=20)(Judge(lambda image: -(image.tobytes() in rights)), puzzles, "test").metrics["accuracy"] < 0.1


def test_a_model_that_says_the_same_of_all_is_at_chance(puzzles):
    result = Raven(limit=10)(Judge(lambda image: -2.5), puzzles, "test")
    assert result.metrics["accuracy"] == pytest.approx(1 / 6) == result.metrics["chance"]
    assert {kind: row["chance"] for kind, row in result.by_kind.items()} == pytest.approx({"1x5": 1 / 6, "2x2": 1 / 6})


def test_each_candidate_stands_in_the_missing_place_of_the_same_question(puzzles):
    sample = puzzles.split("test").sample(1)
    prompts = candidate_prompts(sample)
    assert [(prompt.images[-1] == choice).all() for prompt, choice in zip(prompts, sample.choices, strict=True)] == [True] * 6
    assert {len(prompt.images) for prompt in prompts} == {5} and {prompt.messages[-1].role for prompt in prompts} == {"document"}
    assert prompts[0].messages[-1].text.startswith("Here are four images:") and len(prompts[0].messages) == 1


def test_puzzles_and_answers_are_written(tmp_path, puzzles):
    result = Raven(limit=4, kinds=["2x2"])(Judge(lambda image: image.mean()), puzzles, "test")
    result.draw(tmp_path)
    row = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])
    assert row["answer"].startswith("candidate ") and row["references"][0].startswith("candidate ") and row["kind"] == "2x2"
    assert (tmp_path / "report.html").read_text().count("<img") == 9 * result.num_items


def test_what_is_no_puzzle_is_refused(classifier, puzzles):
    with pytest.raises(zoo.ConfigError, match="needs a head with the verbs score"):
        Raven().check(classifier, puzzles)
    with pytest.raises(zoo.ConfigError, match="choose data=raven"):
        Raven().check(Judge(np.mean), SimpleNamespace(modalities=("image",)))
    with pytest.raises(zoo.ConfigError, match="kinds: there is no '2x3'"):
        Raven(kinds=["2x3"]).check(Judge(np.mean), puzzles)
    with pytest.raises(zoo.ConfigError, match="kinds: '2x2' is one string"):
        Raven(kinds="2x2")
    plain = puzzles.split("test").sample(0)
    with pytest.raises(zoo.DataError, match="item x: is not a puzzle"):
        candidate_prompts(Sample("x", plain.inputs))
