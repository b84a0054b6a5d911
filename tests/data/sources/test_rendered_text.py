"""Opinions rendered as images."""

import numpy as np
import pytest

from zoo.errors import ConfigError, DataError
from zoo.sources.rendered_text import WORDS, RenderedText, draw_text, opinions


def test_a_not_turns_an_opinion_round():
    found = dict(opinions())
    assert found["The film is brilliant."] == 1 and found["The film is not brilliant."] == 0
    assert found["I found the plot truly dull."] == 0 and found["I found the plot not truly dull."] == 1
    assert sum(found.values()) * 2 == len(found) == 6400  # as many of each
    for text, label in found.items():
        praised = any(word in text for word in WORDS["positive"])
        assert label == praised ^ (" not " in text)


def test_splits_share_no_sentence_and_are_balanced():
    texts = {name: RenderedText().split(name).opinions for name in ("train", "validation", "test")}
    assert len({text for split in texts.values() for text, _ in split}) == sum(map(len, texts.values())) == 6400
    assert all(abs(np.mean([label for _, label in split]) - 0.5) < 0.08 for split in texts.values()) and len(texts["test"]) > 500


def test_letters_stay_within_the_picture():
    for size in (64, 224):
        for text, _ in sorted(opinions(), key=lambda each: -len(each[0]))[:20]:
            for generator in (None, np.random.default_rng(0)):
                picture = draw_text(text, size, generator)
                assert picture.shape == (size, size, 3) and picture.min() < 90
                edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
                assert (edge == 255).all(), text


def test_a_sample_asks_for_the_sentiment_of_what_is_drawn():
    split = RenderedText(size=64).split("test")
    sample, (text, label) = split.sample(4), split.opinions[4]
    conversation = sample.inputs["conversation"]
    assert conversation.messages[0].text == "<image>\nwhat is the sentiment of the opinion?"
    assert sample.answers == [conversation.answer] == [("negative", "positive")[label]] and sample.label == label
    assert (conversation.images[0] == draw_text(text, 64)).all() and sample.choices == ["negative", "positive"]
    varied = split.sample(4, np.random.default_rng(1)).inputs["conversation"].images[0]
    assert (varied != conversation.images[0]).any()


def test_what_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="size: 32; allowed is 64 or more"):
        RenderedText(size=32)
    with pytest.raises(ConfigError, match="question: ' '"):
        RenderedText(question=" ")
    with pytest.raises(DataError, match="did you mean 'train'"):
        RenderedText().split("trains")
