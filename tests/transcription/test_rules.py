"""Allowed next tokens, against openai-whisper's filters."""

import numpy as np
import pytest
import torch
from whisper.decoding import ApplyTimestampRules, SuppressBlank, SuppressTokens
from whisper.tokenizer import get_tokenizer

from zoo.language.transcription.rules import Rules

BEGIN = 50363  # of English models' timestamps
END = 50256


def filtered(logits, texts, before=(50257,)):
    """Return the logits after openai-whisper's filters."""
    tokenizer = get_tokenizer(False)
    special = [tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm, tokenizer.no_speech]
    tokens = torch.tensor([[*before, *text] for text in texts])
    logits = logits.clone()
    for each in (
        SuppressBlank(tokenizer, len(before)),
        SuppressTokens([*tokenizer.non_speech_tokens, *special]),
        ApplyTimestampRules(tokenizer, len(before), 50),
    ):
        each.apply(logits, tokens)
    return logits


@pytest.mark.parametrize("shift", [-6.0, 0.0, 6.0])
def test_scores_are_those_of_openai_whisper_after_any_tokens(symbols, shift):
    rules, chance = Rules(symbols(False), timestamps=True), np.random.default_rng(0)
    for length in range(5):
        kinds = chance.integers(0, 2, (12, length))
        ids = np.where(kinds == 1, chance.integers(BEGIN, BEGIN + 1501, (12, length)), chance.integers(300, 50000, (12, length)))
        texts = ids.tolist()
        logits = torch.from_numpy(chance.standard_normal((12, 51864)).astype(np.float32))
        logits[:, BEGIN:] += shift
        assert rules.apply(logits.clone(), texts).equal(filtered(logits, texts)), length


def test_without_timestamps_blanks_and_noises_alone_are_forbidden(symbols):
    part = symbols(False)
    rules = Rules(part, timestamps=False)
    first, later = (rules.apply(torch.zeros(1, 51864), [text])[0] for text in ([], [500]))
    assert (first == -torch.inf).nonzero().flatten().tolist() == sorted({*part.suppressed, *part.blank})
    assert (later == -torch.inf).nonzero().flatten().tolist() == list(part.suppressed)


def test_a_text_begins_with_a_timestamp_of_its_first_second(symbols):
    scores = Rules(symbols(False), timestamps=True).apply(torch.zeros(1, 51864), [[]])[0]
    assert (scores == 0).nonzero().flatten().tolist() == list(range(BEGIN, BEGIN + 51))


def test_behind_the_last_timestamp_a_text_may_still_end(symbols):
    scores = Rules(symbols(False), timestamps=True).apply(torch.zeros(1, 51864), [[BEGIN, 500, BEGIN + 1500]])[0]
    assert scores[END] == 0 and scores[BEGIN + 1500] == 0 and scores[:END].max() == -torch.inf
