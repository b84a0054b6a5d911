"""Whisper's decoding rules: suppression of blanks and non-speech tokens, and the order of timestamps.

Reference: openai-whisper ``decoding.py``, ``SuppressBlank``, ``SuppressTokens`` and ``ApplyTimestampRules``. A text with timestamps is
``<|0.00|> text <|2.00|><|2.00|> text <|3.20|>``: one timestamp at its beginning, then pairs, and one or a pair at its end.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

NEVER = float("-inf")
TOKENS_PER_SECOND = 50  # encoder tokens per second, and resolution of timestamps (20 ms)
LATEST_START = round(1.0 * TOKENS_PER_SECOND)  # maximum of a window's first timestamp (1 s), as in the reference


@runtime_checkable
class Symbols(Protocol):
    """Protocol of a tokenizer with Whisper's special tokens; timestamp tokens have the largest ids.

    Attributes:
        sot: id of the start-of-transcript token.
        eot: id of the end token; all text tokens have smaller ids.
        sot_prev: id of the token before the previous text.
        no_speech: id of the no-speech token.
        no_timestamps: id of the token that switches timestamps off.
        timestamp_begin: id of ``<|0.00|>``.
        languages: ids of the language tokens by language code; empty if the model is English-only.
        suppressed: ids that are never generated, including special tokens.
        blank: ids that must not begin a text.
        is_multilingual: True if the model has language and task tokens.
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
    """Logit filter: sets the logits of tokens that Whisper's rules forbid to -inf.

    Args:
        symbols: tokenizer with Whisper's special tokens.
        timestamps: generate timestamps and apply their rules.
        suppressed: ids that are never generated; None takes those of ``symbols``.
        blank: ids that must not begin a text; None takes those of ``symbols``.
        latest_start: maximum of a window's first timestamp, in steps of 20 ms.
    """

    def __init__(
        self,
        symbols: Symbols,
        *,
        timestamps: bool,
        device: torch.device | None = None,
        suppressed: Sequence[int] | None = None,
        blank: Sequence[int] | None = None,
        latest_start: int = LATEST_START,
    ) -> None:
        self.end, self.first_time, self.timestamps, self.latest_start = symbols.eot, symbols.timestamp_begin, timestamps, latest_start
        never = [*(symbols.suppressed if suppressed is None else suppressed), *([symbols.no_timestamps] if timestamps else [])]
        first = symbols.blank if blank is None else blank
        self.never, self.blank = (torch.tensor(sorted(set(ids)), dtype=torch.int64, device=device) for ids in (never, first))

    def apply(self, logits: Float[Tensor, "rows vocab_size"], texts: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab_size"]:
        """Apply the rules to the logits, in place.

        Args:
            texts: token ids generated so far in each row, without the prompt; all rows have equal length.
        """
        if not texts[0]:
            logits.index_fill_(1, self.blank, NEVER)
        logits.index_fill_(1, self.never, NEVER)
        if not self.timestamps:
            return logits
        if not texts[0]:
            logits[:, : self.first_time] = NEVER
            logits[:, self.first_time + self.latest_start + 1 :] = NEVER
            return logits
        for row, text in enumerate(texts):
            self._pair(logits[row], text)
        return self._prefer_times(logits)

    def _pair(self, scores: Float[Tensor, " vocab_size"], text: Sequence[int]) -> None:
        """Enforce timestamp pairs and increasing times for one row.

        After a pair of timestamps comes text; after text and a single timestamp comes another timestamp or the end token.
        """
        first = self.first_time
        last_is_time, before_is_time = text[-1] >= first, len(text) < 2 or text[-2] >= first
        if last_is_time and before_is_time:
            scores[first:] = NEVER
        elif last_is_time:
            scores[: self.end] = NEVER
        latest = next((token for token in reversed(text) if token >= first), None)
        if latest is not None:  # segments must have a duration above 0, because empty segments could repeat for ever
            scores[first : latest if last_is_time and not before_is_time else latest + 1] = NEVER

    def _prefer_times(self, logits: Float[Tensor, "rows vocab_size"]) -> Float[Tensor, "rows vocab_size"]:
        """Allow only timestamps in rows whose timestamps together are more probable than every other token."""
        times, others = logits[:, self.first_time :], logits[:, : self.first_time]
        wins = times.logsumexp(-1) > others.amax(-1)
        others.masked_fill_(wins[:, None], NEVER)
        return logits
