"""Which tokens are hidden for masked-language modelling, anew in every epoch.

Papers: Devlin et al. 2018 (arXiv 1810.04805), section 3.1: 15 % of the word pieces, of which 80 % become the mask symbol, 10 % another
piece, and 10 % stay; Liu et al. 2019 (RoBERTa, arXiv 1907.11692), section 4.1: chosen anew each time; Lan et al. 2019 (ALBERT, arXiv
1909.11942), section 3.1: runs of up to three words, n of them with a chance in proportion to 1 / n. Reference:
google-research/bert and google-research/albert, ``create_pretraining_data.py``.

Where we differ: the 15 % are of the pieces that may be hidden, without the special ones; another piece is never a special one; where
no whole word fits into the 15 %, the shortest is taken.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer

from zoo.errors import ConfigError, name_choices
from zoo.types import IGNORED, MASKED, Batch

UNITS = ("pieces", "words", "runs")
LONGEST_RUN = 3  # words; the paper's
STREAM = 2  # after an item's numbers: those of its mask (1 is mixing, ``zoo.data.loader``)
CONTINUATION = "##"  # how a word piece begins that goes on with a word
STARTS = ("\u0120", "\u2581")  # how a piece begins that begins a word: byte-level BPE, SentencePiece

Ids = Int[np.ndarray, " length"]


class Masking:
    """Hide tokens of a batch of texts; ``targets["masked"]`` holds what stood there.

    Args:
        tokenizer: of the texts.
        mask_token_id: its mask symbol.
        probability: share of the pieces of a text that are chosen, at least one.
        unit: "pieces" one by one, whole "words", or "runs" of up to three words.
        mask_share: of the chosen, so many become the mask symbol.
        random_share: and so many another piece; the rest stays.

    Raises:
        ConfigError: a value outside its range, or a tokenizer that does not show where words begin.
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
    ) -> None:
        if not 0 < probability < 1:
            raise ConfigError(f"probability: {probability}; allowed is between 0 and 1, 0.15 in most recipes")
        if unit not in UNITS:
            raise ConfigError(f"unit: there is no {unit!r}; {name_choices(unit, UNITS)}")
        if mask_share < 0 or random_share < 0 or mask_share + random_share > 1:
            raise ConfigError(f"mask_share: {mask_share}, and random_share {random_share}; allowed are two shares of at most 1 together")
        self.probability, self.unit, self.mask_share, self.random_share = probability, unit, mask_share, random_share
        self.mask_token_id = mask_token_id
        special = [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        self.is_special = np.zeros(tokenizer.get_vocab_size(), dtype=bool)
        self.is_special[[*special, mask_token_id]] = True
        self.plain = np.flatnonzero(~self.is_special)
        self.begins = None if unit == "pieces" else _word_beginnings(tokenizer)

    def __call__(self, batch: Batch, seeds: Sequence[tuple[int, ...]]) -> Batch:
        """The batch with hidden tokens, each item's by its own numbers, so that it does not matter with which others it comes."""
        token_ids, mask = batch.inputs["text"], batch.masks.get("text")
        hidden, labels = token_ids.clone(), torch.full_like(token_ids, IGNORED)
        for row, seed in enumerate(seeds):
            ids = token_ids[row].numpy()
            real = np.ones(len(ids), dtype=bool) if mask is None else mask[row].numpy()
            generator = np.random.default_rng((*seed, STREAM))
            chosen = np.sort(self.choose(ids, real, generator))
            labels[row, chosen] = token_ids[row, chosen]
            hidden[row, chosen] = torch.from_numpy(self.replaced(ids[chosen], generator))
        return replace(batch, inputs={**batch.inputs, "text": hidden}, targets={**batch.targets, MASKED: labels})

    def choose(self, ids: Ids, real: Bool[np.ndarray, " length"], generator: np.random.Generator) -> Int[np.ndarray, " chosen"]:
        """The places that are to be predicted, in no order.

        Args:
            real: False at padding.
        """
        may = real & ~self.is_special[np.minimum(ids, len(self.is_special) - 1)]
        places = np.flatnonzero(may)
        if not len(places):
            return places
        budget = max(1, round(self.probability * len(places)))
        if self.begins is None:
            return generator.permutation(places)[:budget]
        words = _words(ids, places, self.begins)
        return _fill(words, budget, self._run_lengths(len(words), generator), generator)

    def _run_lengths(self, count: int, generator: np.random.Generator) -> Int[np.ndarray, " words"]:
        """How many words the run has that begins at each."""
        if self.unit == "words":
            return np.ones(count, dtype=np.int64)
        shares = 1 / np.arange(1, LONGEST_RUN + 1)
        return 1 + generator.choice(LONGEST_RUN, size=count, p=shares / shares.sum())

    def replaced(self, ids: Int[np.ndarray, " chosen"], generator: np.random.Generator) -> Int[np.ndarray, " chosen"]:
        """What is shown in place of the chosen: 80 % mask symbols, 10 % other pieces, 10 % themselves."""
        draw = generator.random(len(ids))
        others = self.plain[generator.integers(len(self.plain), size=len(ids))]
        shown = np.where(draw < self.mask_share + self.random_share, others, ids)
        return np.where(draw < self.mask_share, self.mask_token_id, shown)


def _fill(words: Sequence[np.ndarray], budget: int, lengths: np.ndarray, generator: np.random.Generator) -> Int[np.ndarray, " chosen"]:
    """Runs of words, drawn until the budget is full; one that does not fit gets shorter, and is left out in the end."""
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
    """The places that make each word: pieces that follow each other, of which the first alone begins one.

    With ``[CLS] a ##b c [SEP] d`` the words are ``a ##b``, ``c`` and ``d``.
    """
    cuts = 1 + np.flatnonzero(begins[ids[places[1:]]] | (np.diff(places) > 1))
    return np.split(places, cuts)


def _word_beginnings(tokenizer: Tokenizer) -> Bool[np.ndarray, " vocabulary"]:
    """Which entries of the vocabulary begin a word.

    Raises:
        ConfigError: the entries do not show it.
    """
    entries = tokenizer.get_vocab()
    found = np.zeros(tokenizer.get_vocab_size(), dtype=bool)
    if any(entry.startswith(CONTINUATION) for entry in entries):
        found[[number for entry, number in entries.items() if not entry.startswith(CONTINUATION)]] = True
    else:
        found[[number for entry, number in entries.items() if entry.startswith(STARTS)]] = True
    if not found.any():
        raise ConfigError(
            "unit: the tokenizer's pieces do not show where words begin (## before those that go on, \u0120 or \u2581 before the first); "
            "set unit=pieces"
        )
    return found
