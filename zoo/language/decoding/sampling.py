"""How the next token is chosen: scores to token ids.

Order and meaning of the steps are transformers' (``generation/logits_process.py``): repetition penalty (Keskar et al. 2019,
arXiv 1909.05858, section 4.1), temperature, top-k (Fan et al. 2018, arXiv 1805.04833), top-p (Holtzman et al. 2019,
arXiv 1904.09751), min-p (Nguyen et al. 2024, arXiv 2407.01082). Where we differ: a row's draws are a function of seed, the row's
number and the step alone, so that a text does not depend on what else is in the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import ConfigError, name_choices

PADDING_SIDES = ("left", "right")


@dataclass(frozen=True)
class Sampling:
    """How much is generated, and by which rule.

    Attributes:
        max_new_tokens: no answer is longer.
        temperature: scores are divided by it before one is drawn; 0 takes the highest (greedy, or beams).
        top_k: draw among so many tokens of highest probability.
        top_p: draw among the fewest tokens that hold this share of the probability.
        min_p: draw among tokens that are at least this fraction as probable as the most probable one.
        num_beams: sequences that are followed at once; the best whole one is the answer.
        length_penalty: of beams: a sequence's log-probability is divided by its length to this power.
        repetition_penalty: scores of tokens that stand before are divided by it (multiplied where negative).
        seed: of the draws; None takes one from torch's global generator.
        eos_token_ids: any of them ends the answer.
        padding_side: on which side shorter prompts of a batch are padded; the answers do not depend on it.

    Raises:
        ConfigError: a value that is not allowed, or one that would have no effect.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    padding_side: str = "left"

    def __post_init__(self) -> None:
        for key in ("max_new_tokens", "top_k", "num_beams"):
            _refuse(key, getattr(self, key), _is_whole(getattr(self, key), 1) or (key == "top_k" and self.top_k is None), "1 or more")
        _refuse("temperature", self.temperature, _is_number(self.temperature) and self.temperature >= 0, "0 (the highest score) or more")
        _refuse("top_p", self.top_p, self.top_p is None or (_is_number(self.top_p) and 0 < self.top_p <= 1), "above 0, up to 1")
        _refuse("min_p", self.min_p, self.min_p is None or (_is_number(self.min_p) and 0 <= self.min_p <= 1), "0 to 1")
        _refuse("length_penalty", self.length_penalty, _is_number(self.length_penalty), "any number")
        penalty = self.repetition_penalty
        _refuse("repetition_penalty", penalty, _is_number(penalty) and penalty > 0, "above 0 (1 leaves the scores as they are)")
        _refuse("seed", self.seed, self.seed is None or _is_whole(self.seed, 0), "0 or more")
        ids = self.eos_token_ids
        _refuse("eos_token_ids", ids, isinstance(ids, tuple) and all(_is_whole(i, 0) for i in ids), "a tuple of token ids, 0 or more")
        if self.padding_side not in PADDING_SIDES:
            raise ConfigError(f"padding_side: there is no {self.padding_side!r}; {name_choices(str(self.padding_side), PADDING_SIDES)}")
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        for key in ("top_k", "top_p", "min_p"):
            if self.temperature == 0 and getattr(self, key) is not None:
                raise ConfigError(
                    f"{key}: {getattr(self, key)} has no effect at temperature 0, which takes the highest score; set temperature above 0 "
                    f"(1.0 draws from the model's own distribution), or leave {key} out"
                )
        if self.num_beams > 1 and self.temperature > 0:
            raise ConfigError(
                f"num_beams: {self.num_beams} beams do not go with temperature {self.temperature}; set temperature=0 or num_beams=1"
            )
        if self.num_beams == 1 and self.length_penalty != 1:
            raise ConfigError(f"length_penalty: {self.length_penalty} has no effect without beams; set num_beams above 1, or leave it out")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _refuse(key: str, value: Any, is_legal: bool, legal: str) -> None:
    if not is_legal:
        raise ConfigError(f"{key}: {value!r}; allowed is {legal}")


def penalise_repetition(
    scores: Float[Tensor, "rows vocab"], seen: Bool[Tensor, "rows vocab"], penalty: float
) -> Float[Tensor, "rows vocab"]:
    """Divide positive scores of seen tokens by ``penalty`` and multiply negative ones: 2 and -2 become 1 and -4 at 2."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def mark_seen(ids: Sequence[Int[Tensor, " _"]], vocab_size: int, device: torch.device) -> Bool[Tensor, "rows vocab"]:
    """True at tokens that stand in a row; placeholders of other modalities (negative ids) are no tokens."""
    seen = torch.zeros(len(ids), vocab_size, dtype=torch.bool, device=device)
    for row, tokens in enumerate(ids):
        seen[row, tokens[tokens >= 0].to(device)] = True
    return seen


def keep_top_k(scores: Float[Tensor, "rows vocab"], k: int) -> Float[Tensor, "rows vocab"]:
    """Leave the ``k`` highest scores and those equal to the last of them; the others become -inf."""
    least = scores.topk(min(k, scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < least, float("-inf"))


def keep_top_p(scores: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """Leave the fewest tokens whose probabilities sum to ``p`` or more: of 0.5 0.3 0.2 the first two at 0.7."""
    ordered, order = scores.sort(descending=False)
    dropped = ordered.softmax(-1).cumsum(-1) <= 1 - p
    dropped[..., -1] = False  # the most probable one stays, whatever p
    return scores.masked_fill(dropped.scatter(-1, order, dropped), float("-inf"))


def keep_min_p(scores: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """Leave tokens that are at least ``p`` times as probable as the most probable one."""
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), float("-inf"))


def warp(scores: Float[Tensor, "rows vocab"], sampling: Sampling) -> Float[Tensor, "rows vocab"]:
    """What is drawn from, as unnormalised log-probabilities: temperature, top-k, top-p, min-p."""
    if sampling.temperature != 1:
        scores = scores / sampling.temperature
    if sampling.top_k is not None:
        scores = keep_top_k(scores, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = keep_top_p(scores, sampling.top_p)
    if sampling.min_p is not None:
        scores = keep_min_p(scores, sampling.min_p)
    return scores


def uniforms(seed: int, rows: Sequence[int], steps: int) -> Float[Tensor, "rows steps"]:
    """One number in [0, 1) for each row and step: row 3 has the same numbers in every batch, and more steps only add to them."""
    return torch.from_numpy(np.stack([np.random.default_rng((seed, row)).random(steps) for row in rows]))


def draw(scores: Float[Tensor, "rows vocab"], uniform: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Draw a token of each row where its uniform number falls: with probabilities 0.5 0.3 0.2 and 0.6 the second."""
    cumulated = scores.softmax(-1, dtype=torch.float64).cumsum(-1)  # [rows, vocab]; float32 would move the borders with the batch
    places = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)  # a token of probability 0 has no width
    return places[:, 0].clamp_(max=scores.shape[-1] - 1)


def fresh_seed() -> int:
    """A seed from torch's global generator, so that ``torch.manual_seed`` decides what follows."""
    return int(torch.randint(2**62, ()))
