"""Masking: shares, units, and that the mask of an item depends only on its seed and position."""

from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import zoo
from zoo.data.masking import Masking, _words
from zoo.processors.text import TextProcessor
from zoo.types import IGNORED, MASKED, Batch

TEXTS = ["unbelievable dogs and cats running quickly", "running over the highest mountains", "a believable story of running dogs"]


@pytest.fixture(scope="module")
def part():
    part = TextProcessor(vocab_size=220, context_length=200, tokenizer="word_pieces")
    part.fit(TEXTS)
    return part


def make(part, **words):
    return Masking(tokenizer=part.tokenizer, mask_token_id=part.mask_token_id, **words)


def batch_of(part, texts):
    ids, mask = part(texts)
    return Batch({"text": ids}, {"text": mask})


@pytest.mark.parametrize("unit", ["pieces", "words", "runs", "spans"])
def test_an_items_mask_follows_from_its_own_numbers_alone(part, unit):
    masking, texts = make(part, unit=unit), [" ".join(TEXTS), TEXTS[1], TEXTS[0] * 3]
    seeds = [(0, 3, 7), (0, 3, 1), (0, 3, 4)]
    together = masking(batch_of(part, texts), seeds)
    for row, (text, seed) in enumerate(zip(texts, seeds, strict=True)):
        alone = masking(batch_of(part, [text]), [seed])
        length = alone.inputs["text"].shape[1]
        assert torch.equal(together.inputs["text"][row, :length], alone.inputs["text"][0])
        assert torch.equal(together.targets[MASKED][row, :length], alone.targets[MASKED][0])
    other = masking(batch_of(part, texts), [(0, 4, index) for _, _, index in seeds])
    assert not torch.equal(other.targets[MASKED], together.targets[MASKED])  # another epoch


def test_fifteen_percent_of_the_pieces_never_special_ones_are_chosen_eighty_ten_ten(part):
    masking, batch = make(part), batch_of(part, [" ".join(TEXTS * 4)] * 50)
    ids = batch.inputs["text"]
    found = masking(batch, [(0, 0, row) for row in range(50)])
    labels, shown = found.targets[MASKED], found.inputs["text"]
    chosen = labels != IGNORED
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(shown[~chosen], ids[~chosen])
    assert torch.equal(batch.inputs["text"], ids) and not chosen[:, 0].any() and not (chosen & (ids <= 4)).any()
    real = (ids > 4).sum(1)
    assert chosen.sum(1).tolist() == [round(0.15 * n) for n in real.tolist()]
    total = int(chosen.sum())
    hidden, kept = int((shown[chosen] == part.mask_token_id).sum()), int((shown[chosen] == ids[chosen]).sum())
    for count, share in ((hidden, 0.8), (kept, 0.1), (total - hidden - kept, 0.1)):
        assert abs(count - share * total) < 4 * (total * share * (1 - share)) ** 0.5 + 0.01 * total  # some random pieces are the same
    assert not (shown[chosen] < 4).any()  # ids 0 to 3 are special; 4 is the mask


def test_whole_words_are_hidden_with_all_their_pieces(part):
    masking, batch = (
        make(part, unit="words", probability=0.4),
        batch_of(part, ["mountaindogs and catsrunning storyunbelievable running"] * 20),
    )
    chosen = masking(batch, [(0, 0, row) for row in range(20)]).targets[MASKED] != IGNORED
    words = batch_words(part, batch.inputs["text"][0])
    assert any(len(word) > 1 for word in words)
    for row in chosen.numpy():
        assert all(row[word].all() or not row[word].any() for word in words)


def batch_words(part, ids):
    masking = make(part, unit="words")
    return _words(ids.numpy(), np.flatnonzero(ids.numpy() > 4), masking.begins)


def test_words_begin_where_their_first_piece_does_and_end_at_special_tokens():
    begins = np.array([True, True, False, True])  # entry 2 goes on with a word
    ids = np.array([0, 1, 2, 3, 0, 2, 2, 1])  # at places 1 to 3 and 5 to 7 are no special tokens
    found = _words(ids, np.array([1, 2, 3, 5, 6, 7]), begins)
    assert [word.tolist() for word in found] == [[1, 2], [3], [5, 6], [7]]


def test_runs_have_lengths_in_proportion_to_one_over_n(part):
    lengths = Counter(make(part, unit="runs")._run_lengths(60_000, np.random.default_rng(0)).tolist())
    for length, share in ((1, 6 / 11), (2, 3 / 11), (3, 2 / 11)):
        assert lengths[length] / 60_000 == pytest.approx(share, abs=0.01)
    assert set(lengths) == {1, 2, 3}


def test_no_more_than_the_budget_is_chosen_and_at_least_one(part):
    for unit in ("pieces", "words", "runs"):
        masking, batch = make(part, unit=unit), batch_of(part, [" ".join(TEXTS), "dogs", ""])
        counts = (masking(batch, [(1, 2, 3)] * 3).targets[MASKED] != IGNORED).sum(1).tolist()
        real = (batch.inputs["text"] > 4).sum(1).tolist()
        assert 1 <= counts[0] <= round(0.15 * real[0]) and counts[1] >= 1 and counts[2] == 0


def test_byte_level_pieces_show_words_too_and_others_are_refused(part):
    bytes_ = TextProcessor(vocab_size=300, context_length=50)
    bytes_.fit(TEXTS)
    begins = Masking(tokenizer=bytes_.tokenizer, mask_token_id=0, unit="words").begins
    entries = bytes_.tokenizer.get_vocab()
    assert all(begins[number] == entry.startswith("\u0120") for entry, number in entries.items())
    letters = Tokenizer(models.WordLevel({"a": 0, "[MASK]": 1}, unk_token="a"))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(zoo.ConfigError, match="do not show where words begin"):
        Masking(tokenizer=letters, mask_token_id=1, unit="words")


@pytest.mark.parametrize(
    ("words", "message"),
    [({"probability": 0.0}, "probability: 0.0"), ({"unit": "word"}, "did you mean 'words'"), ({"mask_share": 0.95}, "at most 1 together")],
)
def test_wrong_words_are_refused(part, words, message):
    with pytest.raises(zoo.ConfigError, match=message):
        make(part, **words)


def test_a_tokenizer_without_a_mask_symbol_is_named():
    with pytest.raises(zoo.ConfigError, match="'trained' has no mask symbol"):
        _ = TextProcessor(vocab_size=300, context_length=50).mask_token_id
