"""Autoregressive generation: greedy decoding, sampling and beam search.

The answers equal those of transformers' ``generate`` (``generation/utils.py``, version 5.17) for the same settings. Where we differ:
prompts are embedding vectors, so that they can contain any modality; finished rows are removed from the batch; the random numbers of
a row do not depend on the other rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.language.decoding.beams import beam_search
from zoo.language.decoding.constraints import Constraints
from zoo.language.decoding.prefill import prefill
from zoo.language.decoding.sampling import Sampling, draw, fresh_seed, mark_seen, penalise_repetition, uniforms, warp
from zoo.types import LanguageModel

Stop = Callable[[list[int]], bool]
OnToken = Callable[[int, int], None]


@dataclass(frozen=True)
class Generated:
    """One generated answer.

    Attributes:
        ids: new token ids, without the end token.
        stop_reason: "eos" (an end token), "stop" (the ``stop`` callback returned True), "length" (``max_new_tokens`` reached) or
            "context" (the model's context length reached).
        end_id: the end token that ended the answer; None for other reasons.
    """

    ids: list[int]
    stop_reason: str
    end_id: int | None = field(default=None, compare=False)


@torch.inference_mode()
def generate(
    language: LanguageModel,
    prompts: Sequence[Float[Tensor, "_ dim"]],
    ids: Sequence[Int[Tensor, " _"]],
    sampling: Sampling,
    *,
    stop: Stop | None = None,
    on_token: OnToken | None = None,
    cache: Any = None,
    rows: Sequence[int] | None = None,
    most_tokens: Sequence[int] | None = None,
    prefix_lengths: Sequence[int] | None = None,
) -> list[Generated]:
    """Generate an answer to each prompt; the answers do not depend on how prompts are batched.

    Args:
        prompts: embedding vectors of each prompt, including features of other modalities.
        ids: token ids of the same prompts, used by the repetition penalty; negative ids are placeholders.
        stop: callback that receives an answer's token ids after each new token and returns True to end the answer.
        on_token: callback ``(row, token_id)`` for each new token as soon as it is chosen; with beam search, after the search.
        cache: key-value cache from ``language.new_cache`` that already holds the first ``cache.length`` tokens of every prompt; these
            are not computed again. It is updated in place and then holds prompt and answer, except the last chosen token.
        rows: row numbers that seed the sampling of each prompt; by default 0, 1, 2, ...
        most_tokens: maximum length of the answer to each prompt, if it is below ``sampling.max_new_tokens``.
        prefix_lengths: number of first tokens of each prompt that see each other; the model must have ``sees_prefix``.

    Raises:
        ConfigError: an end token is outside the vocabulary, a cache is combined with beam search, or the model takes no prefix.
        DataError: a prompt is empty or leaves no room for an answer.
    """
    _refuse(language, sampling, prompts, ids, cache)
    if not prompts:
        return []
    # An answer has max_new_tokens tokens at most, and fewer if the context is full before.
    own = [sampling.max_new_tokens] * len(prompts) if most_tokens is None else [min(n, sampling.max_new_tokens) for n in most_tokens]
    limits = [min(most, language.context_length - len(prompt)) for most, prompt in zip(own, prompts, strict=True)]
    hidden, cache = prefill(
        language, prompts, new_tokens=max(limits), padding_side=sampling.padding_side, cache=cache, prefix_lengths=prefix_lengths
    )
    ends = _Ends(sampling, limits, own, stop)
    if sampling.num_beams > 1:
        found = beam_search(language, hidden, cache, ids, sampling, limits=limits, stop=stop)
    else:
        numbers = list(range(len(prompts))) if rows is None else rows
        choice = _Choice(sampling, ids, numbers, limits, language.vocab_size, hidden.device)
        found = _follow(language, hidden, cache, choice, ends, on_token)
    answers = [ends.of(row, answer) for row, answer in enumerate(found)]
    # Until beam search ends, any sequence may still be discarded, so that tokens are reported only now.
    if sampling.num_beams > 1 and on_token is not None:
        for row, answer in enumerate(answers):
            for token in answer.ids:
                on_token(row, token)
    return answers


def _follow(
    language: LanguageModel, hidden: Tensor, cache: Any, choice: "_Choice", ends: "_Ends", on_token: OnToken | None
) -> list[list[int]]:
    """Choose a token per row and feed it to the model, until every row has ended; returns the new token ids of each row."""
    answers: list[list[int]] = [[] for _ in range(len(hidden))]
    rows = list(range(len(hidden)))  # unfinished rows; finished ones are removed from the batch
    while True:
        tokens = choice(language.logits(hidden), [answers[row] for row in rows])
        going = []
        # tolist() is the only synchronisation with the device in a step.
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            answers[row].append(token)
            if on_token is not None and token not in ends.eos:
                on_token(row, token)
            if ends.reason(row, answers[row]) is None:
                going.append(place)
        if not going:
            return answers
        if len(going) < len(rows):  # computing finished rows further would waste time
            rows, kept = [rows[place] for place in going], torch.tensor(going, device=tokens.device)
            tokens = tokens[kept]
            cache.select(kept)
            choice.select(kept)
        hidden = language(tokens[:, None], cache=cache)[:, -1]


class _Ends:
    """Stopping criteria: end tokens, a stop callback and length limits."""

    def __init__(self, sampling: Sampling, limits: Sequence[int], most: Sequence[int], stop: Stop | None) -> None:
        self.eos, self.limits, self.most, self.stop = frozenset(sampling.eos_token_ids), limits, most, stop

    def reason(self, row: int, answer: list[int]) -> str | None:
        """Return the reason why the answer ends with its last token, or None if it continues."""
        if answer[-1] in self.eos:
            return "eos"
        if self.stop is not None and self.stop(answer):
            return "stop"
        if len(answer) >= self.limits[row]:
            return "length" if self.limits[row] == self.most[row] else "context"
        return None

    def of(self, row: int, answer: list[int]) -> Generated:
        """Return a finished answer without its end token, with its stop reason."""
        reason = self.reason(row, answer)
        assert reason is not None
        return Generated(answer[:-1], reason, answer[-1]) if reason == "eos" else Generated(answer, reason)


class _Choice:
    """Token selection for the unfinished rows: repetition penalty, constraints, then argmax or sampling."""

    def __init__(
        self,
        sampling: Sampling,
        ids: Sequence[Int[Tensor, " _"]],
        rows: Sequence[int],
        limits: Sequence[int],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.sampling, self.step = sampling, 0
        self.constraints = Constraints(sampling, vocab_size, device)
        self.prompts, self.limits = [tokens.tolist() for tokens in ids] if self.constraints.are_active else [], list(limits)
        self.seen = mark_seen(ids, vocab_size, device) if sampling.repetition_penalty != 1 else None
        self.uniforms: Tensor | None = None
        if sampling.temperature > 0:
            # All random numbers are drawn in advance: a row's numbers must not depend on when the other rows end.
            seed = fresh_seed() if sampling.seed is None else sampling.seed
            self.uniforms = uniforms(seed, rows, sampling.max_new_tokens).to(device)

    def __call__(self, scores: Float[Tensor, "rows vocab"], answers: Sequence[Sequence[int]]) -> Int[Tensor, " rows"]:
        if self.seen is not None:
            scores = penalise_repetition(scores.float(), self.seen, self.sampling.repetition_penalty)
        if self.constraints.are_active:
            scores = self.constraints(scores, self.prompts, answers, self.limits)
        if self.uniforms is None:
            tokens = scores.argmax(-1)
        else:
            tokens = draw(warp(scores.float(), self.sampling), self.uniforms[:, self.step])
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        self.step += 1
        return tokens

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows."""
        self.seen = None if self.seen is None else self.seen[rows]
        self.uniforms = None if self.uniforms is None else self.uniforms[rows]
        if self.constraints.are_active:
            kept = rows.tolist()
            self.prompts, self.limits = [self.prompts[row] for row in kept], [self.limits[row] for row in kept]


def _refuse(language: LanguageModel, sampling: Sampling, prompts: Sequence[Tensor], ids: Sequence[Tensor], cache: Any) -> None:
    if len(prompts) != len(ids) or any(len(prompt) != len(tokens) for prompt, tokens in zip(prompts, ids, strict=False)):
        raise DataError(
            f"generate: got {len(prompts)} prompts of lengths {[len(prompt) for prompt in prompts]}, but ids of lengths "
            f"{[len(tokens) for tokens in ids]}; give one id for each vector"
        )
    for number, prompt in enumerate(prompts):
        if len(prompt) >= language.context_length:
            raise DataError(
                f"prompt {number}: has {len(prompt)} tokens, which leaves no room for an answer in the model's context_length "
                f"{language.context_length}; give less text, fewer images or fewer turns"
            )
    strange = [token for token in sampling.eos_token_ids if token >= language.vocab_size]
    if strange:
        raise ConfigError(
            f"eos_token_ids: {strange} are outside the model's vocabulary (vocab_size {language.vocab_size}); give end tokens of this model"
        )
    if cache is not None and sampling.num_beams > 1:
        raise ConfigError(
            f"num_beams: beam search with {sampling.num_beams} beams cannot use a given cache; leave cache out, or set num_beams=1"
        )
