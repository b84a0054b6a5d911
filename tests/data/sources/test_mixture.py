"""Mixtures: shares of tokens for documents of any length, samples of every source, and refused settings."""

import json

import numpy as np
import pytest

from zoo.data.loader import Draw, ProcessedSplit
from zoo.data.packs import Packs
from zoo.data.system_processor import Processor, conversation_of
from zoo.errors import ConfigError, DataError
from zoo.processors.conversation import ConversationProcessor
from zoo.sources.mixture import Mixture


@pytest.fixture
def words(tmp_path):
    """Three sources: 100 texts of 4 words, 20 texts of 40 words, and 2 texts that are repeated."""
    made = {}
    for name, count, length in (("short", 100, 4), ("long", 20, 40), ("few", 2, 10)):
        rows = [{"text": " ".join([f"{name}{i}", *["cat"] * (length - 1)])} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        made[name] = {"name": "interleaved", "path": str(tmp_path / f"{name}.jsonl"), "split_fractions": [1.0, 0.0, 0.0]}
    return made


def shares(split, order, lengths):
    tokens = dict.fromkeys(split.splits, 0)
    for index in order:
        tokens[split.sample(int(index)).kind] += lengths[int(index)]
    return {name: count / sum(tokens.values()) for name, count in tokens.items()}


def test_each_source_has_its_share_of_the_words_and_each_item_as_often_up_to_one(words):
    split = Mixture(sources=words, weights={"short": 2.0, "long": 1.0, "few": 1.0}).split("train")
    order = split.order(0, 0)
    lengths = [len(split.sample(i).inputs["conversation"].messages[0].text.split()) for i in range(len(split))]
    assert len(order) == len(split) == 122
    found = shares(split, order, lengths)
    assert found == pytest.approx({"short": 0.5, "long": 0.25, "few": 0.25}, abs=0.1)
    counts = np.bincount(order, minlength=122)
    assert all(np.ptp(part) <= 1 for part in np.split(counts, [100, 120]))
    assert (split.order(0, 0) == order).all() and not (split.order(0, 1) == order).all()


def test_packs_count_the_tokens_and_give_each_source_its_share_of_them(words):
    part = ConversationProcessor(vocab_size=300, context_length=128, template="kosmos")
    part.fit(["cat short long few"])
    split = Mixture(sources=words, weights={"short": 1.0, "long": 1.0, "few": 2.0}).split("train")
    packs = Packs(ProcessedSplit(split, Processor({"conversation": part})), tokens=128, seed=0)
    tokens = dict.fromkeys(words, 0)
    for pack in packs.plan(0):
        for place in pack:
            tokens[split.sample(place.document).kind] += packs.measured.lengths[place.document][place.number]
    total = sum(tokens.values())
    assert {name: count / total for name, count in tokens.items()} == pytest.approx({"short": 0.25, "long": 0.25, "few": 0.5}, abs=0.05)
    batch = packs.collate([packs[Draw(0, (0, 0, 0))]])
    assert int(batch.masks["text"].sum()) <= 128 and packs.plan(0) != packs.plan(1)


def test_without_weights_every_item_stands_once_and_validation_takes_the_sources_that_have_it(words):
    words["long"]["split_fractions"] = [0.5, 0.5, 0.0]
    mixture = Mixture(sources=words)
    split = mixture.split("train")
    assert split.order is None and sum(split.sizes) == len(split)
    held = mixture.split("validation")
    assert {held.sample(i).kind for i in range(len(held))} == {"long"} and len(held) == 122 - len(split)
    assert len(mixture.captions()) == len(split) and mixture.kinds == ("short", "long", "few")
    with pytest.raises(DataError, match="the split has no document"):
        mixture.split("test")


def test_samples_are_those_of_the_sources_whatever_kind_they_are(words):
    mixture = Mixture(sources={"pictures": {"name": "digits"}, "text": words["few"]}, weights={"pictures": 1.0, "text": 1.0})
    split, alone = mixture.split("train"), mixture.sources["pictures"].split("train")
    assert np.array_equal(np.asarray(split.sample(3).inputs["image"]), np.asarray(alone.sample(3).inputs["image"]))
    conversation = conversation_of(split.sample(3))
    assert [message.role for message in conversation.messages] == ["user", "assistant"] and split.sample(3).kind == "pictures"
    assert split.sample(len(alone)).id == "few.jsonl:1"


def test_what_the_sources_left_out_is_told_by_source(words, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"text": "a"}\nno json\n')
    mixture = Mixture(sources=words)
    assert mixture.report()["few"]["documents"] == {"kept": 1, "json": 1} and mixture.skipped[0].startswith("few: few.jsonl:2")


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"sources": {}}, ConfigError, "sources: empty"),
        ({"weights": {"short": 1.0}}, ConfigError, "give a number above 0 for each of short, long, few"),
        ({"weights": {"short": 1.0, "long": 0.0, "few": 1.0}}, ConfigError, "above 0"),
        ({"media_tokens": -1}, ConfigError, "media_tokens: -1"),
        ({"sources": {"a": "digits"}}, ConfigError, r"sources\.a: 'digits'; give a source with its keywords"),
        ({"sources": {"a": {"name": "digit"}}}, ConfigError, r"sources\.a\.name: there is no source 'digit'"),
        ({"sources": {"a": {"name": "digits", "size": 3}}}, ConfigError, r"sources\.a\.size"),
        ({"sources": {"a": {"name": "interleaved", "path": "none.jsonl"}}}, DataError, r"data\.source\.sources\.a: .*cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(words, change, error, told):
    with pytest.raises(error, match=told):
        Mixture(**{"sources": words, **change})
