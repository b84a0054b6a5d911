"""The generated corpus: splits by number, the cache, buckets; its sound is that of espeak-ng, whose library comes with the tests."""

import json

import numpy as np
import pytest

from zoo.errors import ConfigError
from zoo.processors.media.voices import find_voice
from zoo.sources.spoken_numbers import SpokenNumbers, _sentences, bucketed, split_of

WORDS = {"engine": "espeak", "voice": "en-us", "highest": 60}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


def test_no_number_is_in_two_splits_whatever_the_sentence():
    source = SpokenNumbers(**WORDS, kinds=["numbers", "commands"])
    texts = {name: set() for name in source.splits}
    for kind, text, number in _sentences(source.settings):
        texts[split_of(number)].add(text if kind == "numbers" else text.split(" ", 3)[-1])
    assert not texts["train"] & (texts["test"] | texts["validation"])
    shares = [split_of(number) for number in range(10_000)]
    assert 0.02 < shares.count("validation") / 10_000 < 0.04 and 0.04 < shares.count("test") / 10_000 < 0.06


def test_what_is_said_is_heard_and_made_alike(place, tmp_path):
    first = SpokenNumbers(**WORDS, path=place).split("test")
    again = SpokenNumbers(**WORDS, path=tmp_path).split("test")
    assert len(first) > 0
    for index in range(len(first)):
        (sound, rate), (other, _) = (split.sample(index).inputs["audio"] for split in (first, again))
        assert rate == 22050 and 0.3 < len(sound) / rate < 3 and np.abs(sound).max() > 3000
        np.testing.assert_array_equal(sound, other)
    facts = json.loads(next(place.glob("*/corpus.json")).read_text())
    assert facts["origin"].startswith("synthetic")


def test_the_second_time_it_comes_from_the_cache(place, monkeypatch):
    SpokenNumbers(**WORDS, path=place).split("test")
    monkeypatch.setattr("zoo.sources.spoken_numbers._make", lambda *words: pytest.fail("made again"))
    SpokenNumbers(**WORDS, path=place).split("test")


@pytest.mark.parametrize(("kind", "beginning"), [("dates", "january"), ("commands", "turn on the light zero")])
def test_kinds_of_sentences(kind, beginning):
    (_, text, _), *_ = _sentences(SpokenNumbers(**WORDS, kinds=[kind]).settings)
    assert text.startswith(beginning) and not any(map(str.isdigit, text))


def test_buckets_are_a_permutation_of_batches_of_like_length():
    lengths = np.random.default_rng(0).integers(10, 200, 330)
    order = bucketed(lengths, 16, seed=1, epoch=2)
    assert sorted(order) == list(range(330))
    batches = [lengths[order[start : start + 16]] for start in range(0, 320, 16)]
    spread = np.mean([batch.max() - batch.min() for batch in batches])
    assert spread < 30 < np.ptp(lengths)
    np.testing.assert_array_equal(order, bucketed(lengths, 16, seed=1, epoch=2))
    assert (order != bucketed(lengths, 16, seed=1, epoch=3)).any()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"engine": "festival"}, "engine: there is no 'festival'"),
        ({"kinds": ["songs"]}, "songs"),
        ({"kinds": "numbers"}, "list"),
        ({"highest": 3}, "highest 3"),
    ],
)
def test_wrong_words_are_refused(words, match):
    with pytest.raises(ConfigError, match=match):
        SpokenNumbers(**words)


def test_voices_that_are_not_there_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="espeak-ng has no 'nobody'"):
        find_voice("espeak", "nobody")
    with pytest.raises(ConfigError, match="slt"):
        find_voice("flite", "sltt")
    monkeypatch.setattr("zoo.processors.media.voices._places", lambda name: iter(()))
    with pytest.raises(ConfigError, match="zoo fetch flite"):
        find_voice("flite", "awb")
    with pytest.raises(ConfigError, match="there is no 'other'"):
        SpokenNumbers(**WORDS).split("other")
