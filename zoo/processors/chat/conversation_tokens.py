"""Token ids of conversations: supervision masks, cutting of long texts, and padding to a batch.

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
_GAP = re.compile(r"(?<=[.!?])[\"')\]\u2019\u201d]*\s+|\s*\n\s*")  # gap between two sentences or lines
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Tokens:
    """Token ids of one conversation, or of a part of a long document.

    Attributes:
        token_ids: ids, with a run of ``PLACEHOLDER_IDS[modality]`` for each image and clip.
        supervised: True at ids that the model is trained to predict.
        kept: number of images and clips in it, by modality; those that were cut off are not counted.
        passed: number of images and clips of the document before this part, by modality.
    """

    token_ids: Int[Tensor, " length"]
    supervised: Bool[Tensor, " length"]
    kept: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """Tokenized conversation before cutting, token by token.

    Attributes:
        runs: ids that replace each token; a marker becomes several.
        places: modality of each token that is a marker; None for other tokens.
        learnt: True for each supervised token.
        offsets: start and end of each token in ``text``, in characters.
    """

    text: str
    runs: list[list[int]]
    places: list[str | None]
    learnt: list[bool]
    offsets: list[tuple[int, int]]

    def tokens(self, start: int = 0, stop: int | None = None, first: Sequence[int] = ()) -> Tokens:
        """Return tokens ``start`` to ``stop`` (exclusive), after the ids of ``first``, which are not supervised."""
        part = slice(start, stop)
        ids = torch.tensor([*first, *(number for run in self.runs[part] for number in run)], dtype=torch.int64)
        lengths = torch.tensor([len(run) for run in self.runs[part]], dtype=torch.int64)
        learnt = torch.tensor(self.learnt[part], dtype=torch.bool).repeat_interleave(lengths)
        learnt = torch.cat([torch.zeros(len(first), dtype=torch.bool), learnt]) & (ids >= 0)  # placeholders are never predicted
        kept, passed = ({m: self.places[where].count(m) for m in MARKERS} for where in (part, slice(0, start)))
        return Tokens(ids, learnt, kept, passed)

    def fitting(self, limit: int, start: int = 0) -> int:
        """Return how many whole tokens from ``start`` on fit into ``limit`` ids."""
        length, stop = 0, start
        while stop < len(self.runs) and length + len(self.runs[stop]) <= limit:
            length, stop = length + len(self.runs[stop]), stop + 1
        return stop - start

    def borders(self, limit: int, first: int) -> list[int] | None:
        """Return the token numbers at which to cut a document into parts of at most ``limit`` ids; None if one token has more.

        A cut is at the end of a sentence or line, or beside an image, if the second half of the part has such a place. Otherwise it
        is between two words.

        Args:
            first: number of tokens at the beginning of the document that are repeated at the beginning of each further part.
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
        """Return, for each gap, the number of the first token that begins at the start of the gap or after it."""
        starts = [start for start, _ in self.offsets]
        return {bisect_left(starts, match.start()) for match in gap.finditer(self.text) if match.end() > match.start()}


def supervised(pieces: Sequence[Piece], offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Return for each token True if it overlaps a supervised piece, by its character offsets in the joined text.

    With the pieces "Q A:" and " yes</s>", the tokens ``Q``, ` A`, ``:``, ` yes`, ``</s>`` give F F F T T. Some tokenizers leave a leading
    space out of a token's offsets; therefore a token is taken to begin where the token before it ends.
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
    """Return token ids, mask (True at real tokens) and supervision (True at ids to predict), padded to the longest item.

    Args:
        padding_side: "left" or "right".

    Raises:
        ConfigError: ``padding_side`` is unknown.
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
