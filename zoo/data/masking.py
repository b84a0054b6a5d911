"""Dynamic masking of tokens for masked-language modelling: the masked tokens are drawn again in every epoch.

Papers: Devlin et al. 2018 (arXiv 1810.04805), section 3.1: 15 % of the word pieces, of which 80 % become the mask token, 10 % a random
piece, and 10 % stay; Liu et al. 2019 (RoBERTa, arXiv 1907.11692), section 4.1: drawn again each time; Lan et al. 2019 (ALBERT, arXiv
1909.11942), section 3.1: runs of up to three words, a run of n words with probability proportional to 1 / n; Dong et al. 2019 (UniLM, arXiv
1905.03197), section 2.3: masked tokens are predicted from both sides, from one side, or from a source text; Yang et al. 2019 (XLNet, arXiv
1906.08237), sections 2.3 and 2.7: spans of up to five pieces are predicted in a random order. References: google-research/bert and
google-research/albert, ``create_pretraining_data.py``; zihangdai/xlnet, ``data_utils.py``.

Where we differ: the 15 % are counted among the pieces that may be masked, without special tokens; a random piece is never a special
token; if no whole word fits into the 15 %, the shortest word is masked. In a permutation, special tokens belong to the context that all
tokens see; XLNet's code gives them random turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer

from zoo.errors import ConfigError, name_choices
from zoo.types import IGNORED, MASKED, PREFIXES, TURNS, Batch

UNITS = ("pieces", "words", "runs", "spans")
DIRECTIONS = ("bidirectional", "left_to_right", "right_to_left", "seq2seq")
LONGEST_RUN = 3  # words; the paper's
LONGEST_SPAN = 5  # pieces; XLNet's
STREAM = 2  # appended to an item's seed to seed its mask (1 seeds mixing, see ``zoo.data.loader``)
CONTINUATION = "##"  # prefix of a WordPiece that continues a word
STARTS = ("\u0120", "\u2581")  # prefix of a piece that begins a word: byte-level BPE, SentencePiece

Ids = Int[np.ndarray, " length"]


class Masking:
    """Masking of the tokens of a batch of texts; the original ids go to ``targets["masked"]``, with IGNORED at all other positions.

    Args:
        tokenizer: tokenizer of the texts.
        mask_token_id: id of its mask token.
        probability: share of a text's pieces that are chosen; at least one is.
        unit: unit that is chosen: single "pieces", whole "words", "runs" of up to three words, or "spans" of one to five pieces, each at a
            random place among n / ``probability`` pieces if it has n (XLNet).
        mask_share: share of the chosen pieces that become the mask token.
        random_share: share of the chosen pieces that become a random piece; the rest stays unchanged.
        directions: weights of the directions in which a text is read, one of which is drawn for each text: {bidirectional: 2, seq2seq: 2,
            left_to_right: 1, right_to_left: 1} is UniLM. With seq2seq the first of two texts is the source, or a random part of one text.
            They go to ``targets["prefixes"]``, in the form of ``zoo.layers.decoder.seen_by_query``. None reads all in both directions.
        permutation: leave all tokens in place, and predict the chosen ones in a random order after all others: the last 1 / K of the order,
            with a ``probability`` of 1 / K (0.1667 in XLNet, K = 6). The turns go to ``targets["turns"]``, in the form of
            ``zoo.layers.turns``; the shares have no effect.

    Raises:
        ConfigError: a value is out of range, values do not fit together, or the tokenizer's pieces do not show where words begin.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        mask_token_id: int,
        probability: float = 0.15,
        unit: str = "pieces",
        mask_share: float = 0.8,
        random_share: float = 0.1,
        directions: Mapping[str, int | float] | None = None,
        permutation: bool = False,
    ) -> None:
        if not 0 < probability < 1:
            raise ConfigError(f"probability: {probability}; allowed is between 0 and 1, 0.15 in most recipes")
        if unit not in UNITS:
            raise ConfigError(f"unit: there is no {unit!r}; {name_choices(unit, UNITS)}")
        if mask_share < 0 or random_share < 0 or mask_share + random_share > 1:
            raise ConfigError(f"mask_share: {mask_share}, and random_share {random_share}; allowed are 0 or more, and at most 1 together")
        if permutation and directions is not None:
            raise ConfigError("permutation: true beside directions, which are another order of prediction; set one of the two to null")
        self.probability, self.unit, self.mask_share, self.random_share = probability, unit, mask_share, random_share
        self.permutation = permutation
        self.directions = None if directions is None else _checked_directions(directions)
        self.mask_token_id = mask_token_id
        special = [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        self.is_special = np.zeros(tokenizer.get_vocab_size(), dtype=bool)
        self.is_special[[*special, mask_token_id]] = True
        self.plain = np.flatnonzero(~self.is_special)
        self.begins = None if unit in ("pieces", "spans") else _word_beginnings(tokenizer)

    def __call__(self, batch: Batch, seeds: Sequence[tuple[int, ...]]) -> Batch:
        """Return the batch with masked tokens, or with turns.

        Each item has its own seed, so that the other items of the batch do not matter.
        """
        token_ids, mask = batch.inputs["text"], batch.masks.get("text")
        hidden, labels, prefixes, turns = token_ids.clone(), torch.full_like(token_ids, IGNORED), [], torch.zeros_like(token_ids)
        for row, seed in enumerate(seeds):
            ids = token_ids[row].numpy()
            real = np.ones(len(ids), dtype=bool) if mask is None else mask[row].numpy()
            generator = np.random.default_rng((*seed, STREAM))
            chosen = np.sort(self.choose(ids, real, generator))
            labels[row, chosen] = token_ids[row, chosen]
            if self.permutation:
                turns[row, chosen] = torch.from_numpy(1 + generator.permutation(len(chosen)))
            else:
                hidden[row, chosen] = torch.from_numpy(self.replaced(ids[chosen], generator))
            if self.directions is not None:
                prefixes.append(self._prefix(ids[real], generator))
        added = {MASKED: labels} if self.directions is None else {MASKED: labels, PREFIXES: torch.tensor(prefixes)}
        added |= {TURNS: turns} if self.permutation else {}
        return replace(batch, inputs={**batch.inputs, "text": hidden}, targets={**batch.targets, **added})

    def _prefix(self, ids: Ids, generator: np.random.Generator) -> int:
        """Draw the direction of a text without padding; see ``zoo.layers.decoder.seen_by_query``."""
        assert self.directions is not None
        direction = DIRECTIONS[generator.choice(len(DIRECTIONS), p=self.directions)]
        if direction != "seq2seq" or len(ids) < 2:
            return {"left_to_right": 0, "right_to_left": -1}.get(direction, len(ids))
        ends = np.flatnonzero(self.is_special[np.minimum(ids[1:-1], len(self.is_special) - 1)])  # symbols between two texts
        return int(ends[0]) + 2 if len(ends) else int(generator.integers(1, len(ids)))

    def choose(self, ids: Ids, real: Bool[np.ndarray, " length"], generator: np.random.Generator) -> Int[np.ndarray, " chosen"]:
        """Choose the positions to predict, in no particular order.

        Args:
            ids: token ids of one text.
            real: False at padding.
        """
        may = real & ~self.is_special[np.minimum(ids, len(self.is_special) - 1)]
        places = np.flatnonzero(may)
        if not len(places):
            return places
        if self.unit == "spans":
            return places[_spans(len(places), self.probability, generator)]
        budget = max(1, round(self.probability * len(places)))
        if self.begins is None:
            return generator.permutation(places)[:budget]
        words = _words(ids, places, self.begins)
        return _fill(words, budget, self._run_lengths(len(words), generator), generator)

    def _run_lengths(self, count: int, generator: np.random.Generator) -> Int[np.ndarray, " words"]:
        """Draw for each word the length, in words, of a run that begins there."""
        if self.unit == "words":
            return np.ones(count, dtype=np.int64)
        shares = 1 / np.arange(1, LONGEST_RUN + 1)
        return 1 + generator.choice(LONGEST_RUN, size=count, p=shares / shares.sum())

    def replaced(self, ids: Int[np.ndarray, " chosen"], generator: np.random.Generator) -> Int[np.ndarray, " chosen"]:
        """Return the ids that replace the chosen ones, by default 80 % mask tokens, 10 % random pieces and 10 % unchanged."""
        draw = generator.random(len(ids))
        others = self.plain[generator.integers(len(self.plain), size=len(ids))]
        shown = np.where(draw < self.mask_share + self.random_share, others, ids)
        return np.where(draw < self.mask_share, self.mask_token_id, shown)


def _checked_directions(weights: Mapping[str, int | float]) -> Float[np.ndarray, " directions"]:
    """Return the probability of each direction.

    Raises:
        ConfigError: a direction is unknown, a weight is negative, or all are zero.
    """
    for name, weight in weights.items():
        if name not in DIRECTIONS:
            raise ConfigError(f"directions: there is no {name!r}; {name_choices(str(name), DIRECTIONS)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ConfigError(f"directions: {name} has the weight {weight!r}; allowed is a number of 0 or more")
    total = sum(weights.values())
    if total == 0:
        raise ConfigError(f"directions: {dict(weights)} gives no direction a weight above 0; give at least one, or null")
    return np.array([weights.get(name, 0) / total for name in DIRECTIONS])


def _spans(count: int, probability: float, generator: np.random.Generator) -> Int[np.ndarray, " chosen"]:
    """Choose spans among ``count`` pieces: of n pieces, at a random place among the next n / ``probability``; one piece at least.

    With a probability of 1 / 6, lengths of 2 and 1 give two pieces among the first 12, and one among the 6 behind them.
    """
    chosen: list[int] = []
    first = 0
    while first < count:
        length = int(generator.integers(1, LONGEST_SPAN + 1))
        room = max(length, round(length / probability))
        start = first + int(generator.integers(room - length + 1))
        chosen += range(min(start, count), min(start + length, count))
        first += room
    return np.array(chosen or [int(generator.integers(count))])


def _fill(words: Sequence[np.ndarray], budget: int, lengths: np.ndarray, generator: np.random.Generator) -> Int[np.ndarray, " chosen"]:
    """Draw runs of words until the budget of pieces is used up; a run that does not fit is shortened, or skipped if nothing fits."""
    taken = np.zeros(len(words), dtype=bool)
    chosen: list[np.ndarray] = []
    left = budget
    for first in generator.permutation(len(words)):
        for length in range(int(lengths[first]), 0, -1):
            run = words[first : first + length]
            size = sum(map(len, run))
            if size <= left and not taken[first : first + length].any():
                taken[first : first + length] = True
                chosen += run
                left -= size
                break
        if left == 0:
            break
    return np.concatenate(chosen) if chosen else min(words, key=len)


def _words(ids: Ids, places: Int[np.ndarray, " places"], begins: Bool[np.ndarray, " vocabulary"]) -> list[np.ndarray]:
    """Group positions into words: a word is a run of adjacent pieces of which only the first begins a word.

    With ``[CLS] a ##b c [SEP] d`` the words are ``a ##b``, ``c`` and ``d``.
    """
    cuts = 1 + np.flatnonzero(begins[ids[places[1:]]] | (np.diff(places) > 1))
    return np.split(places, cuts)


def _word_beginnings(tokenizer: Tokenizer) -> Bool[np.ndarray, " vocabulary"]:
    """Return for each entry of the vocabulary True if it begins a word.

    Raises:
        ConfigError: the entries do not show where words begin.
    """
    entries = tokenizer.get_vocab()
    found = np.zeros(tokenizer.get_vocab_size(), dtype=bool)
    if any(entry.startswith(CONTINUATION) for entry in entries):
        found[[number for entry, number in entries.items() if not entry.startswith(CONTINUATION)]] = True
    else:
        found[[number for entry, number in entries.items() if entry.startswith(STARTS)]] = True
    if not found.any():
        raise ConfigError(
            "unit: the tokenizer's pieces do not show where words begin (expected is ## before pieces that continue a word, or \u0120 or "
            "\u2581 before pieces that begin one); set unit=pieces"
        )
    return found
