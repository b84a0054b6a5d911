"""Tokens to words, against openai-whisper's tokenizer and timing."""

import copy

import pytest
from whisper.timing import WordTiming, merge_punctuations
from whisper.tokenizer import get_tokenizer

from zoo.language.transcription.words import APPENDED, PREPENDED, Timed, join_punctuation, split_words

TEXTS = [
    " Hello, world. It's 5 o'clock (or so), don't you think?",
    " Na\u00efve caf\u00e9s \u2014 \U0001f600\U0001f680 and \u65e5\u672c\u8a9e.",
    ' "Quoted" - text ... [noise] $5.00',
    "\u4eca\u65e5\u306f\u3001\u4e16\u754c\u3002\u00bfQu\u00e9?",
]


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("text", TEXTS)
def test_words_are_those_of_openai_whisper(symbols, text, language):
    tokenizer, part = get_tokenizer(True, language=language), symbols(True)
    ids = tokenizer.encode(text)
    words, tokens = tokenizer.split_to_word_tokens([*ids, tokenizer.eot])
    assert split_words(ids, part.decode, language) == list(zip(words, tokens, strict=True))[:-1]


def test_broken_characters_lose_no_token(symbols):
    part = symbols(False)
    ids = [*part.encode(" a \U0001f600"), part.encode("\u65e5")[0]]
    words = split_words(ids, part.decode, "en")
    assert [token for _, tokens in words for token in tokens] == ids


def test_punctuation_joins_the_words_that_openai_whisper_joins_it_to():
    words = [' "', " Hello", ",", " -", " (", "well", ")", ".", " no", "?!", " ", "\u3002", " [", " end"]
    theirs = [WordTiming(word, [number], 0.0, 0.0, 0.0) for number, word in enumerate(words)]
    ours = [Timed(word, [number], 0.0, 0.0, 0.0) for number, word in enumerate(copy.deepcopy(words))]
    merge_punctuations(theirs, PREPENDED, APPENDED)
    join_punctuation(ours)
    assert [(word.text, word.token_ids) for word in ours] == [(word.word, word.tokens) for word in theirs]
