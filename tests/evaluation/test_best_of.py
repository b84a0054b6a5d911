"""Best of n against hand-computed rows, and its choice by rewards."""

from argparse import Namespace
from itertools import combinations
from types import SimpleNamespace

import pytest

import zoo
from zoo.commands.best_of import BestOf, best_of_options, report
from zoo.evaluation.measures.best_of import best_of_estimate, divergence_bound
from zoo.processors.chat.messages import Conversation, Message


def test_the_bound_is_that_of_the_formula():
    assert [divergence_bound(n) for n in (1, 2, 4, 16, 64)] == pytest.approx([0, 0.193147, 0.636294, 1.835089, 3.174508], abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_estimate_is_the_mean_over_all_subsets(k):
    rewards = [0.9, 0.4, 0.1, 0.4]
    subsets = [max(some) for some in combinations(rewards, k)]
    assert best_of_estimate(rewards, k) == pytest.approx(sum(subsets) / len(subsets))
    assert best_of_estimate(rewards, 2) == pytest.approx(0.65)


QUESTION = Conversation((Message("user", "What is 3 and 4?"),), id="sum")


class Policy:
    """Stub that gives each question the same four texts."""

    def generate(self, asked, **keywords):
        return ["six", "", "seven", "7"] * (len(asked) // 4)


def test_the_best_answer_is_kept_and_of_equal_ones_the_first():
    found = BestOf(4, "exact").choose(Policy(), [QUESTION] * 2, [["7"], ["nothing"]], {})
    assert [(each.text, each.rewards) for each in found] == [("seven", [0.0, 0.0, 1.0, 1.0]), ("six", [0.0, 0.0, 0.0, 0.0])]
    means = report([each.rewards for each in found])["mean_reward"]
    assert means == pytest.approx({"1": 0.25, "2": (5 / 6) / 2, "4": 0.5})


def test_a_reward_model_reads_no_empty_answer():
    chooser = BestOf(4, "exact")
    chooser.function = None
    chooser.model = SimpleNamespace(reward=lambda asked, texts: SimpleNamespace(tolist=lambda: [-float(len(text)) for text in texts]))
    (found,) = chooser.choose(Policy(), [QUESTION], [[]], {})
    assert found.text == "7" and found.rewards == [-3.0, -5.0, -5.0, -1.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reward": None}, "--best-of, --reward: give both"),
        ({"best_of": 1}, "--best-of: 1; allowed is 2 or more"),
        ({"temperature": 0.0}, "at temperature 0 all answers are the same"),
        ({"reward": "exakt"}, "--reward: there is no 'exakt'; did you mean 'exact'"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    options = Namespace(**{"best_of": 4, "reward": "exact", "temperature": 1.0, **given})
    with pytest.raises(zoo.ConfigError, match=message):
        best_of_options(options)
