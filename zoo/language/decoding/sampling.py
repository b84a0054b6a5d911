"""Sampling of the next token from logits: repetition penalty, temperature, top-k, top-p and min-p.

The steps and their order are those of transformers (``generation/logits_process.py``): repetition penalty (Keskar et al. 2019,
arXiv 1909.05858, section 4.1), temperature, top-k (Fan et al. 2018, arXiv 1805.04833), top-p (Holtzman et al. 2019,
arXiv 1904.09751), min-p (Nguyen et al. 2024, arXiv 2407.01082). Where we differ: the random numbers of a row depend only on the
seed, the row number and the step, so that a text does not depend on the other rows of the batch.
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
LENGTH_FORMS = ("power", "gnmt")


@dataclass(frozen=True)
class Sampling:
    """Settings of text generation: maximum length, sampling or beam search, and end tokens.

    Attributes:
        max_new_tokens: maximum length of an answer in tokens.
        temperature: divisor of the logits before sampling. At 0 there is no sampling: greedy decoding, or beam search.
        top_k: sample only among the ``top_k`` most probable tokens; None keeps all.
        top_p: sample only among the smallest set of most probable tokens whose probabilities sum to ``top_p``; None keeps all.
        min_p: sample only among tokens at least ``min_p`` times as probable as the most probable token; None keeps all.
        num_beams: number of beams; 1 means no beam search.
        length_penalty: exponent of beam search; see ``length_form``.
        length_form: divisor of a sequence's log-probability in beam search: "power" is length ** ``length_penalty`` (transformers), "gnmt"
            is ((5 + length) / 6) ** ``length_penalty`` (Wu et al. 2016, arXiv 1609.08144, equation 14; the paper of 2017).
        repetition_penalty: divisor of the positive logits of tokens that already occur in prompt or answer (negative logits are
            multiplied by it); 1 changes nothing.
        no_repeat_ngram_size: no sequence of so many tokens may occur twice in prompt and answer; 0 allows repetition.
        min_new_tokens: no end token before so many tokens.
        first_token_id: every answer begins with this token; None leaves it free.
        last_token_id: an answer that reaches its maximum length ends with this token; None leaves it free.
        suppress_tokens: tokens that are never chosen.
        seed: random seed of the sampling; None draws a seed from torch's global generator.
        eos_token_ids: end tokens; an answer ends at the first of them.
        padding_side: "left" or "right", the side on which shorter prompts of a batch are padded. The answers do not depend on it.

    Raises:
        ConfigError: a value is not allowed or would have no effect.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    length_form: str = "power"
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    first_token_id: int | None = None
    last_token_id: int | None = None
    suppress_tokens: tuple[int, ...] = ()
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
        for key in ("eos_token_ids", "suppress_tokens"):
            ids = getattr(self, key)
            _refuse(key, ids, isinstance(ids, tuple) and all(_is_whole(i, 0) for i in ids), "a tuple of token ids, 0 or more")
        for key in ("no_repeat_ngram_size", "min_new_tokens"):
            _refuse(key, getattr(self, key), _is_whole(getattr(self, key), 0), "0 (no such rule) or more")
        for key in ("first_token_id", "last_token_id"):
            _refuse(
                key, getattr(self, key), getattr(self, key) is None or _is_whole(getattr(self, key), 0), "a token id, 0 or more, or None"
            )
        if self.length_form not in LENGTH_FORMS:
            raise ConfigError(f"length_form: there is no {self.length_form!r}; {name_choices(str(self.length_form), LENGTH_FORMS)}")
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
        for key, usual in (("length_penalty", 1), ("length_form", "power")):
            if self.num_beams == 1 and getattr(self, key) != usual:
                raise ConfigError(f"{key}: {getattr(self, key)!r} has no effect without beams; set num_beams above 1, or leave it out")

    def length_divisor(self, length: int) -> float:
        """Return the divisor of the log-probability of a sequence of ``length`` tokens in beam search."""
        return ((5 + length) / 6 if self.length_form == "gnmt" else length) ** self.length_penalty


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
    """Lower the logits of tokens that already occur.

    Positive logits are divided by ``penalty``, negative ones are multiplied by it: with penalty 2, logits 2 and -2 become 1 and -4.
    """
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def mark_seen(ids: Sequence[Int[Tensor, " _"]], vocab_size: int, device: torch.device) -> Bool[Tensor, "rows vocab"]:
    """Return a mask that is True at the token ids that occur in each row; negative ids (placeholders) are ignored."""
    seen = torch.zeros(len(ids), vocab_size, dtype=torch.bool, device=device)
    for row, tokens in enumerate(ids):
        seen[row, tokens[tokens >= 0].to(device)] = True
    return seen


def keep_top_k(scores: Float[Tensor, "rows vocab"], k: int) -> Float[Tensor, "rows vocab"]:
    """Set all logits below the ``k``-th highest to -inf; logits equal to the ``k``-th highest are kept too."""
    least = scores.topk(min(k, scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < least, float("-inf"))


def keep_top_p(scores: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """Keep the smallest set of most probable tokens whose probabilities sum to ``p`` or more; set the other logits to -inf.

    Of the probabilities 0.5 0.3 0.2, the first two are kept at p = 0.7.
    """
    # Ascending order, as in transformers: the cumulated sum of the small probabilities decides which tokens are dropped.
    ordered, order = scores.sort(descending=False)
    dropped = ordered.softmax(-1).cumsum(-1) <= 1 - p
    dropped[..., -1] = False  # always keep the most probable token, even if p is tiny
    return scores.masked_fill(dropped.scatter(-1, order, dropped), float("-inf"))


def keep_min_p(scores: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """Keep tokens at least ``p`` times as probable as the most probable token; set the other logits to -inf."""
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), float("-inf"))


def warp(scores: Float[Tensor, "rows vocab"], sampling: Sampling) -> Float[Tensor, "rows vocab"]:
    """Apply temperature, top-k, top-p and min-p in this order; returns unnormalised log-probabilities to sample from."""
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
    """Return uniform random numbers in [0, 1), one per row and step.

    Args:
        rows: row numbers. A row's numbers depend only on ``seed`` and its row number, not on the other rows.
        steps: numbers per row; a larger ``steps`` extends a row and leaves its first numbers unchanged.
    """
    return torch.from_numpy(np.stack([np.random.default_rng((seed, row)).random(steps) for row in rows]))


def draw(scores: Float[Tensor, "rows vocab"], uniform: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Sample one token per row by inverting the cumulative distribution at ``uniform``.

    With probabilities 0.5 0.3 0.2, the uniform number 0.6 selects the second token.
    """
    # float64: float32 sums differ in the last bits between batch sizes, which could change the sampled token.
    cumulated = scores.softmax(-1, dtype=torch.float64).cumsum(-1)  # [rows, vocab]
    # right=True: a token of probability 0 covers an empty interval and is never selected.
    places = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)
    return places[:, 0].clamp_(max=scores.shape[-1] - 1)


def fresh_seed() -> int:
    """Draw a seed from torch's global generator, so that ``torch.manual_seed`` makes sampling reproducible."""
    return int(torch.randint(2**62, ()))
