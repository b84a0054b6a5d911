"""Best-of-n for ``zoo answer``: several sampled answers per question, of which the one with the highest reward is kept."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.assembly.save_load import load
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation.measures.best_of import best_of_estimate, divergence_bound
from zoo.interop.base.checkpoint_directory import find_checkpoint
from zoo.interop.base.source import weights_on_disk
from zoo.processors.chat.messages import Conversation
from zoo.registry.construct import build_part
from zoo.types import SampledAnswer, verbs_of

FUNCTIONS = ("exact",)  # reward functions that need nothing but the text


@dataclass(frozen=True)
class Chosen:
    """The best answer to a question, and the rewards of all."""

    text: str
    rewards: list[float]


class BestOf:
    """Choice among several answers by a reward function or a reward model.

    Args:
        number: answers per question.
        reward: name of a reward function, or a saved model with head ``reward``.
        device: of the reward model.

    Raises:
        ConfigError: the reward is unknown, or a model without head ``reward``.
    """

    def __init__(self, number: int, reward: str, device: str | None = None) -> None:
        self.number, self.function, self.model = number, None, None
        if reward in FUNCTIONS:
            self.function: Any = build_part("reward", {"name": reward}, "--reward")
            return
        self.model: Any = load(find_checkpoint(Path(weights_on_disk(reward))), device=device)
        if "reward" not in verbs_of(self.model):
            raise ConfigError(f"--reward: {reward} gives no rewards; name a model with head reward, or {', '.join(FUNCTIONS)}")

    def choose(self, model: Any, questions: Sequence[Conversation], references: Sequence[Sequence[str]], keywords: Any) -> list[Chosen]:
        """Sample answers to each question with ``model.generate`` and return the best of each; of equal ones the first.

        An empty answer has the lowest reward of its question, and is chosen only if all are empty.

        Args:
            references: right answers to each question.
            keywords: of ``generate``.
        """
        asked = [question for question in questions for _ in range(self.number)]
        texts = [text.strip() for text in model.generate(asked, **keywords)]
        known = [answers for answers in references for _ in range(self.number)]
        rewards = self._rewards(asked, texts, known)
        found = []
        for start in range(0, len(texts), self.number):
            some, scores = texts[start : start + self.number], rewards[start : start + self.number]
            lowest = min((score for score in scores if score is not None), default=0.0)
            whole = [lowest if score is None else score for score in scores]
            best = max(range(len(some)), key=lambda place: (bool(some[place]), whole[place], -place))
            found.append(Chosen(some[best], whole))
        return found

    def _rewards(self, asked: Sequence[Conversation], texts: Sequence[str], known: Sequence[Sequence[str]]) -> list[float | None]:
        """Return the reward of each answer; None of an empty one that a model cannot read."""
        if self.function is not None:
            return self.function([SampledAnswer([], text, True) for text in texts], known)
        places = [place for place, text in enumerate(texts) if text]
        if not places:
            return [None] * len(texts)
        scores = self.model.reward([asked[place] for place in places], [texts[place] for place in places]).tolist()
        given = dict(zip(places, scores, strict=True))
        return [given.get(place) for place in range(len(texts))]


def best_of_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of ``--best-of`` and ``--reward`` that identify a job; none if they are not given.

    Raises:
        ConfigError: one without the other, a number below 2, or no sampling.
    """
    if options.best_of is None and options.reward is None:
        return {}
    if options.best_of is None or options.reward is None:
        raise ConfigError("--best-of, --reward: give both, for example --best-of 8 --reward exact")
    if options.best_of < 2:
        raise ConfigError(f"--best-of: {options.best_of}; allowed is 2 or more")
    if not options.temperature > 0:
        raise ConfigError("--best-of: at temperature 0 all answers are the same; set --temperature 1")
    if options.reward not in FUNCTIONS and not Path(weights_on_disk(options.reward)).exists():
        raise ConfigError(f"--reward: there is no {options.reward!r}; {name_choices(options.reward, FUNCTIONS)}, or name a saved model")
    return {"best_of": options.best_of, "reward": options.reward}


def report(rewards: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the bound of the divergence, and the mean reward of best-of-k for k 1, 2, 4, ... up to n, over all questions.

    Raises:
        DataError: no question was answered.
    """
    if not rewards:
        raise DataError("best of n: no question was answered")
    number = len(rewards[0])
    steps = sorted({*(2**power for power in range(number.bit_length())), number})
    means: Mapping[str, float] = {str(k): sum(best_of_estimate(row, k) for row in rewards) / len(rewards) for k in steps if k <= number}
    return {"number": number, "questions": len(rewards), "divergence_bound": divergence_bound(number), "mean_reward": means}
