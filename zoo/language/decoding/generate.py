"""Prompts to answers, token by token: greedy, drawn, or by beams.

Answers are those of transformers' ``generate`` (``generation/utils.py``, version 5.17) for the same settings. Where we differ: prompts
are vectors, so that any modality may stand in them; a row that ends leaves the batch; a row's draws do not depend on its neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.language.decoding.beams import beam_search
from zoo.language.decoding.prefill import prefill
from zoo.language.decoding.sampling import Sampling, draw, fresh_seed, mark_seen, penalise_repetition, uniforms, warp
from zoo.types import LanguageModel

Stop = Callable[[list[int]], bool]
OnToken = Callable[[int, int], None]


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        ids: the new tokens, without the end symbol.
        stop_reason: "eos", "stop" (``stop`` said so), "length" (max_new_tokens) or "context" (the model's context is full).
    """

    ids: list[int]
    stop_reason: str


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
) -> list[Generated]:
    """Continue each prompt; a batch gives what single prompts give.

    Args:
        prompts: vectors of a prompt's tokens, those of other modalities among them.
        ids: the same prompts as token ids, which the repetition penalty reads; negative ones are placeholders.
        stop: told an answer's tokens after each, says whether it ends there.
        on_token: told place in the batch and id of each token of an answer as soon as it is known (with beams: at the end).
        cache: one of ``language.new_cache`` with room for prompt and answer that holds the first ``cache.length`` tokens of every
            prompt: these are not computed again. Afterwards it holds prompt and answer, up to what the model was last shown.
        rows: numbers of the prompts, of which their draws depend; by default their places.

    Raises:
        ConfigError: an end symbol that the model does not have, or beams with a cache.
        DataError: a prompt is empty, or leaves no room for an answer.
    """
    _refuse(language, sampling, prompts, ids, cache)
    if not prompts:
        return []
    limits = [min(sampling.max_new_tokens, language.context_length - len(prompt)) for prompt in prompts]
    hidden, cache = prefill(language, prompts, new_tokens=max(limits), padding_side=sampling.padding_side, cache=cache)
    ends = _Ends(sampling, limits, stop)
    if sampling.num_beams > 1:
        found = beam_search(language, hidden, cache, ids, sampling, limits=limits, stop=stop)
    else:
        choice = _Choice(sampling, ids, list(range(len(prompts))) if rows is None else rows, language.vocab_size, hidden.device)
        found = _follow(language, hidden, cache, choice, ends, on_token)
    answers = [ends.of(row, answer) for row, answer in enumerate(found)]
    if sampling.num_beams > 1 and on_token is not None:
        for row, answer in enumerate(answers):
            for token in answer.ids:
                on_token(row, token)
    return answers


def _follow(
    language: LanguageModel, hidden: Tensor, cache: Any, choice: "_Choice", ends: "_Ends", on_token: OnToken | None
) -> list[list[int]]:
    """Choose a token, show it to the model, and so on, until every row has ended."""
    answers: list[list[int]] = [[] for _ in range(len(hidden))]
    rows = list(range(len(hidden)))  # those that go on; the batch holds no others
    while True:
        tokens = choice(language.logits(hidden))
        going = []
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):  # the only wait for the device in a step
            answers[row].append(token)
            if on_token is not None and token not in ends.eos:
                on_token(row, token)
            if ends.reason(row, answers[row]) is None:
                going.append(place)
        if not going:
            return answers
        if len(going) < len(rows):
            rows, kept = [rows[place] for place in going], torch.tensor(going, device=tokens.device)
            tokens = tokens[kept]
            cache.select(kept)
            choice.select(kept)
        hidden = language(tokens[:, None], cache=cache)[:, -1]


class _Ends:
    """When an answer ends, and why."""

    def __init__(self, sampling: Sampling, limits: Sequence[int], stop: Stop | None) -> None:
        self.eos, self.limits, self.stop = frozenset(sampling.eos_token_ids), limits, stop
        self.most = sampling.max_new_tokens

    def reason(self, row: int, answer: list[int]) -> str | None:
        """Why an answer ends with its last token; None where it goes on."""
        if answer[-1] in self.eos:
            return "eos"
        if self.stop is not None and self.stop(answer):
            return "stop"
        if len(answer) >= self.limits[row]:
            return "length" if self.limits[row] == self.most else "context"
        return None

    def of(self, row: int, answer: list[int]) -> Generated:
        reason = self.reason(row, answer)
        assert reason is not None
        return Generated(answer[:-1] if reason == "eos" else answer, reason)


class _Choice:
    """Scores to tokens, for the rows that go on."""

    def __init__(
        self, sampling: Sampling, ids: Sequence[Int[Tensor, " _"]], rows: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        self.sampling, self.step = sampling, 0
        self.seen = mark_seen(ids, vocab_size, device) if sampling.repetition_penalty != 1 else None
        self.uniforms: Tensor | None = None
        if sampling.temperature > 0:
            seed = fresh_seed() if sampling.seed is None else sampling.seed
            self.uniforms = uniforms(seed, rows, sampling.max_new_tokens).to(device)

    def __call__(self, scores: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
        if self.seen is not None:
            scores = penalise_repetition(scores.float(), self.seen, self.sampling.repetition_penalty)
        if self.uniforms is None:
            tokens = scores.argmax(-1)
        else:
            tokens = draw(warp(scores.float(), self.sampling), self.uniforms[:, self.step])
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        self.step += 1
        return tokens

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Forget the others."""
        self.seen = None if self.seen is None else self.seen[rows]
        self.uniforms = None if self.uniforms is None else self.uniforms[rows]


def _refuse(language: LanguageModel, sampling: Sampling, prompts: Sequence[Tensor], ids: Sequence[Tensor], cache: Any) -> None:
    if len(prompts) != len(ids) or any(len(prompt) != len(tokens) for prompt, tokens in zip(prompts, ids, strict=False)):
        raise DataError(
            f"generate: {len(prompts)} prompts of lengths {[len(prompt) for prompt in prompts]} with ids of lengths "
            f"{[len(tokens) for tokens in ids]}; give one id for each vector"
        )
    for number, prompt in enumerate(prompts):
        if len(prompt) >= language.context_length:
            raise DataError(
                f"prompt {number}: has {len(prompt)} tokens, and the model's context_length is {language.context_length}, which leaves no "
                "room for an answer; give less text, fewer images or fewer turns"
            )
    strange = [token for token in sampling.eos_token_ids if token >= language.vocab_size]
    if strange:
        raise ConfigError(f"eos_token_ids: {strange} are beyond the model's vocab_size {language.vocab_size}; give its own end symbols")
    if cache is not None and sampling.num_beams > 1:
        raise ConfigError(f"num_beams: {sampling.num_beams} beams need a cache of their own; leave cache out, or set num_beams=1")
