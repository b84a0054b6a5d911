"""Constraints on the next token: no repeated n-grams, forbidden tokens, a minimum length, and forced first and last tokens.

The rules and their order are those of transformers (``generation/logits_process.py``, version 5.17). Source of the n-gram rule: Paulus et
al. 2017 (arXiv 1705.04304), section 2.5.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.language.decoding.sampling import Sampling

NEVER = float("-inf")


class Constraints:
    """Constraints of one call of ``generate``.

    Args:
        sampling: the settings.
        vocab_size: number of token ids.
        device: of the scores.
    """

    def __init__(self, sampling: Sampling, vocab_size: int, device: torch.device) -> None:
        self.sampling = sampling
        self.ends = torch.tensor(sampling.eos_token_ids, dtype=torch.int64, device=device)
        forbidden = [token for token in sampling.suppress_tokens if token not in sampling.eos_token_ids]
        self.forbidden = torch.tensor(forbidden, dtype=torch.int64, device=device)

    @property
    def are_active(self) -> bool:
        """False if no constraint changes a score."""
        s = self.sampling
        forced = s.first_token_id is not None or s.last_token_id is not None
        return bool(s.no_repeat_ngram_size or s.min_new_tokens or len(self.forbidden) or forced)

    def __call__(
        self, scores: Float[Tensor, "rows vocab"], prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> Float[Tensor, "rows vocab"]:
        """Return the scores of the next token with forbidden ones at -inf.

        Args:
            scores: of each row.
            prompts: token ids of each row's prompt.
            answers: token ids that each row has so far, of equal number in all rows.
            limits: maximum number of tokens of each row's answer.
        """
        sampling, scores = self.sampling, scores.clone()
        if sampling.no_repeat_ngram_size:
            for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
                scores[row, repeating([*prompt, *answer], sampling.no_repeat_ngram_size)] = NEVER
        scores[:, self.forbidden] = NEVER
        step = len(answers[0]) if answers else 0
        if step < sampling.min_new_tokens:
            scores[:, self.ends] = NEVER
        if sampling.first_token_id is not None and step == 0:
            scores = _only(scores, sampling.first_token_id)
        if sampling.last_token_id is not None:
            for row, limit in enumerate(limits):
                if step == limit - 1:
                    scores[row] = _only(scores[row], sampling.last_token_id)
        return scores


def repeating(tokens: Sequence[int], size: int) -> list[int]:
    """Return the tokens that would complete an n-gram which occurs already: after ``a b c a b``, with size 3, that is ``c``."""
    if len(tokens) + 1 < size:
        return []
    last = tuple(tokens[len(tokens) + 1 - size :])
    starts = range(len(tokens) - size + 1)
    return sorted({tokens[start + size - 1] for start in starts if tuple(tokens[start : start + size - 1]) == last})


def _only(scores: Tensor, token: int) -> Tensor:
    """Return scores that are 0 for one token and -inf for the others."""
    found = torch.full_like(scores, NEVER)
    found[..., token] = 0
    return found
