"""Beam search as transformers' ``generate`` does it with ``early_stopping=False`` (``generation/utils.py``, version 5.17).

Each step extends the ``num_beams`` most probable unfinished sequences of each prompt. A candidate that ends and is among the best
``num_beams`` candidates joins the finished sequences, of which the best ``num_beams`` are kept by log-probability / length **
length_penalty, or by GNMT's divisor. A prompt is done when the score of its best unfinished sequence, at its current length, is below
that of its worst finished sequence. Where we differ: prompts are run once, not once per beam; a prompt that is done is removed from the
batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.language.decoding.constraints import Constraints
from zoo.language.decoding.sampling import Sampling, mark_seen, penalise_repetition
from zoo.types import LanguageModel

NEVER = -1e9  # below every real score; finite as in transformers, because sums of -inf cannot be compared


@dataclass
class _State:
    """Unfinished (``running``) and finished (``ended``) sequences of the prompts in the batch; ``ended`` is padded with -1."""

    running: Int[Tensor, "prompts beams step"]
    scores: Float[Tensor, "prompts beams"]
    ended: Int[Tensor, "prompts beams step"]
    ended_scores: Float[Tensor, "prompts beams"]
    has_ended: Bool[Tensor, "prompts beams"]
    limits: Int[Tensor, " prompts"]

    def select(self, rows: Bool[Tensor, " prompts"]) -> "_State":
        return _State(*(getattr(self, field.name)[rows] for field in fields(self)))


def beam_search(
    language: LanguageModel,
    hidden: Float[Tensor, "prompts dim"],
    cache: Any,
    ids: Sequence[Int[Tensor, " _"]],
    sampling: Sampling,
    *,
    limits: Sequence[int],
    stop: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Return the best sequence of each prompt, including its end token.

    Args:
        hidden: hidden state at the last token of each prompt.
        cache: key-value cache that holds the prompts; it is changed in place.
        ids: token ids of the prompts, used by the repetition penalty.
        limits: maximum number of new tokens of each prompt.
        stop: callback that receives the token ids of a sequence and returns True to end it.
    """
    beams, device = sampling.num_beams, hidden.device
    state = _begin(len(hidden), beams, torch.tensor(limits, device=device))
    prompts = list(range(len(hidden)))  # unfinished prompts
    answers: list[list[int]] = [[] for _ in prompts]
    each = torch.arange(len(hidden), device=device).repeat_interleave(beams)
    cache.select(each)
    hidden = hidden[each]
    seen = mark_seen(ids, language.vocab_size, device)[each] if sampling.repetition_penalty != 1 else None
    ending = _Ending(sampling.eos_token_ids, stop, device)
    constraints = Constraints(sampling, language.vocab_size, device)
    before = [tokens.tolist() for tokens in ids] if constraints.are_active else []
    while True:
        scores = language.logits(hidden).float().log_softmax(-1)  # [prompts * beams, vocab]
        if seen is not None:
            scores = penalise_repetition(scores, seen, sampling.repetition_penalty)
        if constraints.are_active:
            owners = [prompt for prompt in prompts for _ in range(beams)]
            most = state.limits.repeat_interleave(beams).tolist()
            scores = constraints(scores, [before[owner] for owner in owners], state.running.flatten(0, 1).tolist(), most)
        state, origin, going = _step(state, scores.unflatten(0, (-1, beams)), sampling, ending)
        on = going.tolist()
        for place in (place for place, goes in enumerate(on) if not goes):
            answers[prompts[place]] = [token for token in state.ended[place, 0].tolist() if token >= 0]
        if not any(on):
            return answers
        prompts, state = [prompt for prompt, goes in zip(prompts, on, strict=True) if goes], state.select(going)
        rows = (torch.arange(len(on), device=device)[:, None] * beams + origin)[going].flatten()
        cache.select(rows)
        tokens = state.running[:, :, -1].reshape(-1, 1)  # [prompts * beams, 1]
        seen = None if seen is None else seen[rows].scatter_(1, tokens, True)
        hidden = language(tokens, cache=cache)[:, -1]


def _begin(prompts: int, beams: int, limits: Int[Tensor, " prompts"]) -> _State:
    """Return the initial state: one empty sequence with score 0 per prompt; the other beams, its duplicates, score NEVER."""
    empty = limits.new_zeros(prompts, beams, 0)
    scores = torch.zeros(prompts, beams, device=limits.device)
    scores[:, 1:] = NEVER
    return _State(empty, scores, empty, torch.full_like(scores, NEVER), torch.zeros_like(scores, dtype=torch.bool), limits)


def _step(
    state: _State, log_probabilities: Float[Tensor, "prompts beams vocab"], sampling: Sampling, ending: "_Ending"
) -> tuple[_State, Int[Tensor, "prompts beams"], Bool[Tensor, " prompts"]]:
    """Extend every beam by one token.

    Returns:
        The new state, the index of the beam that each new beam extends, and a mask that is True at unfinished prompts.
    """
    beams, vocab_size = log_probabilities.shape[1:]
    # So many candidates that num_beams of them continue even if every beam could end with every end token.
    count = min(max(2, 1 + len(sampling.eos_token_ids)) * beams, beams * vocab_size)
    scores, index = (log_probabilities + state.scores[..., None]).flatten(1).topk(count)  # [prompts, count]
    origin, token = index // vocab_size, index % vocab_size
    sequences = torch.cat([_pick(state.running, origin), token[..., None]], dim=-1)  # [prompts, count, step + 1]
    ends = ending(sequences) | (sequences.shape[-1] >= state.limits)[:, None]
    kept = (scores + ends * NEVER).topk(beams).indices
    ended, ended_scores, has_ended = _merge_ended(state, sequences, scores, ends, sampling)
    running_scores = (scores + ends * NEVER).gather(1, kept)
    best = running_scores[:, 0] / sampling.length_divisor(sequences.shape[-1])
    # A prompt with fewer than num_beams finished sequences accepts another one regardless of its score.
    worst = torch.where(has_ended, ended_scores.min(1, keepdim=True).values, NEVER)
    going = (best[:, None] > worst).any(1) & ~ends.all(1)
    after = _State(_pick(sequences, kept), running_scores, ended, ended_scores, has_ended, state.limits)
    return after, origin.gather(1, kept), going


def _merge_ended(
    state: _State, sequences: Tensor, scores: Tensor, ends: Tensor, sampling: Sampling
) -> tuple[Int[Tensor, "prompts beams step"], Float[Tensor, "prompts beams"], Bool[Tensor, "prompts beams"]]:
    """Merge the finished sequences with the candidates that end now (only those among the best ``num_beams``); keep the best.

    Returns:
        Finished sequences, their scores, and a mask that is False at unused places.
    """
    beams = state.scores.shape[1]
    ends = ends & (torch.arange(ends.shape[1], device=ends.device) < beams)
    new_scores = scores / sampling.length_divisor(sequences.shape[-1]) + ~ends * NEVER
    longer = torch.nn.functional.pad(state.ended, (0, 1), value=-1)
    best = torch.cat([state.ended_scores, new_scores], dim=1).topk(beams)
    ended = _pick(torch.cat([longer, sequences], dim=1), best.indices)
    return ended, best.values, torch.cat([state.has_ended, ends], dim=1).gather(1, best.indices)


def _pick(sequences: Int[Tensor, "prompts count step"], index: Int[Tensor, "prompts kept"]) -> Int[Tensor, "prompts kept step"]:
    return sequences.gather(1, index[..., None].expand(-1, -1, sequences.shape[-1]))


class _Ending:
    """Stopping criterion of sequences: an end token, or the ``stop`` callback returns True."""

    def __init__(self, eos_token_ids: Sequence[int], stop: Callable[[list[int]], bool] | None, device: torch.device) -> None:
        self.eos, self.stop = torch.tensor(eos_token_ids, dtype=torch.int64, device=device), stop

    def __call__(self, sequences: Int[Tensor, "prompts count step"]) -> Bool[Tensor, "prompts count"]:
        ends = torch.isin(sequences[..., -1], self.eos)
        if self.stop is None:
            return ends
        stopped = [[self.stop(sequence) for sequence in prompt] for prompt in sequences.tolist()]
        return ends | torch.tensor(stopped, dtype=torch.bool, device=ends.device)
