"""What may be said next: Whisper's rules for blanks, for symbols that nobody speaks, and for timestamps.

Reference: openai-whisper ``decoding.py``, ``SuppressBlank``, ``SuppressTokens`` and ``ApplyTimestampRules``. A text with timestamps is
``<|0.00|> text <|2.00|><|2.00|> text <|3.20|>``: one at its beginning, then pairs, and one or a pair at its end.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

NEVER = float("-inf")
TOKENS_PER_SECOND = 50  # of the encoder, and steps of timestamps
LATEST_START = round(1.0 * TOKENS_PER_SECOND)  # a window's first timestamp


@runtime_checkable
class Symbols(Protocol):
    """A tokenizer with Whisper's special symbols: their ids, of which those of timestamps are the last.

    Attributes:
        sot: starts a transcript; ``sot_prev`` starts the text before it, ``eot`` ends it.
        languages: ids by code; empty where the model knows but English.
        suppressed: ids that are never said, special ones among them.
        blank: ids with which no text begins.
    """

    sot: int
    eot: int
    sot_prev: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    languages: Mapping[str, int]
    suppressed: Sequence[int]
    blank: Sequence[int]
    is_multilingual: bool

    def start(self, language: str | None, task: str | None) -> list[int]: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Rules:
    """Scores of the next token of each text, with -inf at what may not be said."""

    def __init__(self, symbols: Symbols, *, timestamps: bool, device: torch.device | None = None) -> None:
        self.end, self.first_time, self.timestamps = symbols.eot, symbols.timestamp_begin, timestamps
        never = [*symbols.suppressed, *([symbols.no_timestamps] if timestamps else [])]
        self.never, self.blank = (torch.tensor(sorted(set(ids)), dtype=torch.int64, device=device) for ids in (never, symbols.blank))

    def apply(self, logits: Float[Tensor, "rows vocab_size"], texts: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab_size"]:
        """Change the scores in place.

        Args:
            texts: what was said before of each row, all equally long, without what stands before the text itself.
        """
        if not texts[0]:
            logits.index_fill_(1, self.blank, NEVER)
        logits.index_fill_(1, self.never, NEVER)
        if not self.timestamps:
            return logits
        if not texts[0]:
            logits[:, : self.first_time] = NEVER
            logits[:, self.first_time + LATEST_START + 1 :] = NEVER
            return logits
        for row, text in enumerate(texts):
            self._pair(logits[row], text)
        return self._prefer_times(logits)

    def _pair(self, scores: Float[Tensor, " vocab_size"], text: Sequence[int]) -> None:
        """Behind a pair of timestamps comes text, behind text and one timestamp another or the end; times do not go back."""
        first = self.first_time
        last_is_time, before_is_time = text[-1] >= first, len(text) < 2 or text[-2] >= first
        if last_is_time and before_is_time:
            scores[first:] = NEVER
        elif last_is_time:
            scores[: self.end] = NEVER
        latest = next((token for token in reversed(text) if token >= first), None)
        if latest is not None:  # a segment has a length, or one would say the same for ever
            scores[first : latest if last_is_time and not before_is_time else latest + 1] = NEVER

    def _prefer_times(self, logits: Float[Tensor, "rows vocab_size"]) -> Float[Tensor, "rows vocab_size"]:
        """Where all timestamps together are likelier than any other token, no other token is left."""
        times, others = logits[:, self.first_time :], logits[:, : self.first_time]
        wins = times.logsumexp(-1) > others.amax(-1)
        others.masked_fill_(wins[:, None], NEVER)
        return logits
