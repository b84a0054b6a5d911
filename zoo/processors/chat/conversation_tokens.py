"""Token ids of conversations: which are learnt, where a long one is cut, and how several become a batch.

References: haotian-liu/LLaVA ``train.py`` (masks, cut after expansion).
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.processors.chat.messages import MARKERS
from zoo.processors.chat.template_pieces import Piece

SIDES = ("left", "right")
_GAP = re.compile(r"(?<=[.!?])[\"')\]\u2019\u201d]*\s+|\s*\n\s*")  # what stands between two sentences
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Tokens:
    """One conversation as token ids, or a part of a long document.

    Attributes:
        token_ids: with a run of ``PLACEHOLDER_IDS[modality]`` for each picture and clip.
        supervised: True at ids that are to be learnt.
        kept: how many pictures and clips are in it, by modality; those behind the place where it was cut are not.
        passed: how many stand before its beginning, where that is not the document's.
    """

    token_ids: Int[Tensor, " length"]
    supervised: Bool[Tensor, " length"]
    kept: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A conversation as a tokenizer writes it, token by token.

    Attributes:
        runs: the ids that each token becomes; several where it is a marker.
        places: the modality of a marker; None of other tokens.
        learnt: whether a token is supervised.
        offsets: where it stands in the text.
    """

    text: str
    runs: list[list[int]]
    places: list[str | None]
    learnt: list[bool]
    offsets: list[tuple[int, int]]

    def tokens(self, start: int = 0, stop: int | None = None, first: Sequence[int] = ()) -> Tokens:
        """The ids of tokens ``start`` to before ``stop``, behind those of ``first``, which are not learnt."""
        part = slice(start, stop)
        ids = torch.tensor([*first, *(number for run in self.runs[part] for number in run)], dtype=torch.int64)
        lengths = torch.tensor([len(run) for run in self.runs[part]], dtype=torch.int64)
        learnt = torch.tensor(self.learnt[part], dtype=torch.bool).repeat_interleave(lengths)
        learnt = torch.cat([torch.zeros(len(first), dtype=torch.bool), learnt]) & (ids >= 0)
        kept, passed = ({m: self.places[where].count(m) for m in MARKERS} for where in (part, slice(0, start)))
        return Tokens(ids, learnt, kept, passed)

    def fitting(self, limit: int, start: int = 0) -> int:
        """How many tokens from ``start`` on become at most so many ids; none is split."""
        length, stop = 0, start
        while stop < len(self.runs) and length + len(self.runs[stop]) <= limit:
            length, stop = length + len(self.runs[stop]), stop + 1
        return stop - start

    def borders(self, limit: int, first: int) -> list[int] | None:
        """Where a document is cut, so that no part has more than ``limit`` ids; None where a single token has more.

        A part ends with a sentence, a line, or at a picture where there is such a place in its second half, else between two words.

        Args:
            first: how many tokens begin the document, and each further part of it too.
        """
        room = limit - sum(len(run) for run in self.runs[:first])
        sentences = self._beginnings(_GAP) | {place + side for place, m in enumerate(self.places) if m is not None for side in (0, 1)}
        words, found, start = self._beginnings(_SPACE), [], first
        while (stop := start + self.fitting(room, start)) < len(self.runs):
            if stop == start:
                return None
            half = start + self.fitting(room // 2, start)
            whole = (i for i in range(stop, half, -1) if i in sentences)
            start = next(whole, next((i for i in range(stop, start, -1) if i in words), stop))
            found.append(start)
        return found

    def _beginnings(self, gap: re.Pattern[str]) -> set[int]:
        """Numbers of the tokens that are the first behind a gap, or hold the gap's end."""
        starts = [start for start, _ in self.offsets]
        return {bisect_left(starts, match.start()) for match in gap.finditer(self.text) if match.end() > match.start()}


def supervised(pieces: Sequence[Piece], offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether tokens hold any of what is supervised, by where they stand in the joined text.

    With the pieces "Q A:" and " yes</s>", the tokens ``Q``, ` A`, ``:``, ` yes`, ``</s>`` give F F F T T. A tokenizer may leave spaces out
    of a token's place, which then begins where the token before it ends.
    """
    sums, so_far = [0], 0
    for piece in pieces:
        for _ in piece.text:
            so_far += piece.supervised
            sums.append(so_far)
    learnt, before = [], 0
    for start, end in offsets:
        begin = min(start, before)
        learnt.append(sums[end] > sums[begin])
        before = max(before, end)
    return learnt


def collate_tokens(
    items: Sequence[Tokens], pad_token_id: int, padding_side: str
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Token ids, mask (True at real tokens) and what is supervised, padded to the longest.

    Raises:
        ConfigError: an unknown side.
    """
    if padding_side not in SIDES:
        raise ConfigError(f"padding_side: there is no {padding_side!r}; {name_choices(padding_side, SIDES)}")
    shape = len(items), max(len(item.token_ids) for item in items)
    token_ids = torch.full(shape, pad_token_id, dtype=torch.int64)
    mask, learnt = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, item in enumerate(items):
        length = len(item.token_ids)
        place = slice(0, length) if padding_side == "right" else slice(shape[1] - length, shape[1])
        token_ids[row, place], mask[row, place], learnt[row, place] = item.token_ids, True, item.supervised
    return token_ids, mask, learnt
