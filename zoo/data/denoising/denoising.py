"""Denoising of batches: a text becomes a corrupted input of the encoder and a target of the decoder, drawn again in every epoch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from tokenizers import Tokenizer

from zoo.data.denoising.fragment import mask_fragment
from zoo.data.denoising.infilling import delete_tokens, infill, mask_tokens, permute_sentences, rotate
from zoo.data.denoising.spans import MODES, corrupt_spans, corrupt_tokens, mixture_of_denoisers, split_prefix
from zoo.errors import ConfigError, name_choices
from zoo.types import SUPERVISED, TARGET_IDS, TARGET_POSITIONS, Batch

KINDS = ("spans", "tokens", "prefix", "bart", "mask", "delete", "rotate", "mass", "ul2")
SHARES = {"spans": 0.15, "tokens": 0.15, "bart": 0.3, "mask": 0.15, "delete": 0.15, "mass": 0.5}
STREAM = 3  # appended to an item's seed to seed its noise (1 seeds mixing, 2 masking)
SENTINELS = 100  # ids that T5 reserves
ENDS = (".", "!", "?")


class Denoising:
    """Noise for a batch of texts.

    Args:
        tokenizer: tokenizer of the texts.
        vocab_size: number of token ids of the model.
        start_token_id: start symbol of targets.
        eot_token_id: end symbol of inputs and targets.
        pad_token_id: padding.
        target_length: maximum number of target ids.
        kind: "spans" (T5's span corruption), "tokens" (its i.i.d. variant), "prefix" (prefix language model), "bart" (text infilling and
            sentence permutation), "mask", "delete", "rotate" (BART's other noises), "mass", or "ul2" (mixture of denoisers).
        share: share of the tokens that are noise; null takes the paper's.
        mean_span: mean length of a span; null takes 3.
        permute: for "bart": put the sentences into random order.
        first_sentinel: id of the first sentinel, from which the others count down; null takes the last id of the vocabulary (T5: 32099).
            Its mask token is the same id, and UL2's modes are the three ids above the lowest reserved one.

    Raises:
        ConfigError: an unknown kind, a number out of its range, or reserved ids that the tokenizer uses for words.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        vocab_size: int,
        start_token_id: int,
        eot_token_id: int,
        pad_token_id: int,
        target_length: int,
        kind: str = "spans",
        share: float | None = None,
        mean_span: float | None = None,
        permute: bool = True,
        first_sentinel: int | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"kind: there is no {kind!r}; {name_choices(kind, KINDS)}")
        self.kind, self.share, self.mean_span = kind, SHARES.get(kind) if share is None else share, 3.0 if mean_span is None else mean_span
        if (self.share is not None and not 0 < self.share <= 1) or self.mean_span <= 0:
            raise ConfigError(f"share {self.share}, mean_span {self.mean_span}; allowed are a share from above 0 to 1, and a span above 0")
        self.start, self.end, self.pad, self.target_length, self.permute = (
            start_token_id,
            eot_token_id,
            pad_token_id,
            target_length,
            permute,
        )
        self.first_sentinel = vocab_size - 1 if first_sentinel is None else first_sentinel
        vocabulary = tokenizer.get_vocab()
        special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.special = special | {self.start, self.end, self.pad}
        self.plain = np.array(sorted(set(vocabulary.values()) - self.special))
        self._refuse_words(tokenizer, kind)
        self.ends = frozenset(number for entry, number in vocabulary.items() if entry.endswith(ENDS)) if kind == "bart" else frozenset()

    def _refuse_words(self, tokenizer: Tokenizer, kind: str) -> None:
        """Raise ConfigError if the tokenizer uses ids for words that the noise needs."""
        count = 0 if kind in ("prefix", "delete", "rotate") else SENTINELS if kind in ("spans", "tokens") else 1
        count = SENTINELS + len(MODES) if kind == "ul2" else count
        lowest = self.first_sentinel - count + 1
        self.modes = [lowest + place for place in range(len(MODES))]
        self.most_sentinels = SENTINELS
        used = sorted(set(range(max(lowest, 0), self.first_sentinel + 1)) & set(self.plain.tolist()))
        if lowest < 0 or used:
            word = f"{used[0]} is {tokenizer.id_to_token(used[0])!r}" if used else "the vocabulary is smaller"
            raise ConfigError(
                f"first_sentinel: kind {kind!r} needs the ids {lowest} to {self.first_sentinel} for itself, but {word}; reserve ids with "
                f"system.processor.text.reserved_ids={count} and system.processor.target_text.reserved_ids={count}"
            )

    def __call__(self, batch: Batch, seeds: Sequence[tuple[int, ...]]) -> Batch:
        """Return the batch with noise and targets; each item has its own seed, so that the other items do not matter."""
        token_ids, mask = batch.inputs["text"], batch.masks.get("text")
        found = []
        for row, seed in enumerate(seeds):
            ids = token_ids[row] if mask is None else token_ids[row][mask[row]]
            words = [token for token in ids.tolist() if token not in self.special]
            before = [token for token in ids.tolist()[:1] if token in self.special and token != self.end]  # a start symbol stays
            shown, target, positions = self.noised(words, np.random.default_rng((*seed, STREAM)))
            found.append(([*before, *shown, self.end][: token_ids.shape[1] + 1], target, positions))
        inputs, real = self._padded([shown for shown, _, _ in found])
        targets, supervised = self._padded([target for _, target, _ in found])
        supervised[:, 0] = False
        made = {TARGET_IDS: targets, SUPERVISED: supervised}
        if self.kind == "mass":
            made[TARGET_POSITIONS] = self._padded([positions for _, _, positions in found], 0)[0]
        return replace(
            batch, inputs={**batch.inputs, "text": inputs}, masks={**batch.masks, "text": real}, targets={**batch.targets, **made}
        )

    def noised(self, words: Sequence[int], generator: np.random.Generator) -> tuple[list[int], list[int], list[int]]:
        """Return input and target ids of a text without special tokens, and the positions of the targets; the input has no end symbol."""
        if not words:
            return [], [self.start, self.end], [0, 1]
        if self.kind == "mass":
            made = mask_fragment(words, self.first_sentinel, self.plain, generator, share=self.share or 0.5)
            return made.shown, made.target[: self.target_length], made.positions[: self.target_length]
        shown, target = self._pair(words, generator)
        target = [self.start, *target[: self.target_length - 2], self.end]
        return shown, target, list(range(len(target)))

    def _pair(self, words: Sequence[int], generator: np.random.Generator) -> tuple[list[int], list[int]]:
        share, clean, mask = self.share or 0.0, list(words), self.first_sentinel
        if self.kind == "spans":
            return corrupt_spans(words, self._sentinel, generator, share=share, mean_span=self.mean_span)
        if self.kind == "tokens":
            return corrupt_tokens(words, self._sentinel, generator, share=share)
        if self.kind == "prefix":
            return split_prefix(words, generator, suffix_share=self.share)
        if self.kind == "ul2":
            return mixture_of_denoisers(words, self._sentinel, self.modes, generator)
        if self.kind == "bart":
            ordered = permute_sentences(words, self.ends, generator) if self.permute else clean
            return infill(ordered, mask, generator, share=share, mean_span=self.mean_span), clean
        if self.kind == "mask":
            return mask_tokens(words, mask, generator, share=share), clean
        return (delete_tokens(words, generator, share=share) if self.kind == "delete" else rotate(words, generator)), clean

    def _sentinel(self, number: int) -> int:
        return self.first_sentinel - min(number, self.most_sentinels - 1)  # T5 has 100; a text with more spans repeats the last

    def _padded(self, rows: Sequence[Sequence[int]], pad: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), self.pad if pad is None else pad)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        return ids, torch.arange(ids.shape[1]) < lengths[:, None]
