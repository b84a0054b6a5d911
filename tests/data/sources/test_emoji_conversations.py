"""Emoji as captions and questions, on a small folder of the form that ``zoo fetch emoji`` makes."""

import json

import numpy as np
import pytest
from PIL import Image

from zoo.errors import ConfigError
from zoo.sources.emoji import Emoji
from zoo.sources.emoji_conversations import DESCRIBED, KINDS, EmojiConversations

LABELS = [f"thing {2 * chr(97 + index)}" for index in range(20)]  # the last two are held out


@pytest.fixture
def folder(tmp_path):
    rows = []
    for style in ("noto", "fxemoji", "twemoji"):
        (tmp_path / style).mkdir()
        for index, label in enumerate(LABELS):
            Image.new("RGBA", (8, 8), (255, index, 0, 255)).save(tmp_path / style / f"{index}.png")
            tags = [f"tag {index}", "common"] if index % 3 else []
            rows.append({"path": f"{style}/{index}.png", "style": style, "label": label, "tags": tags, "held_out": index >= 18})
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("name", EmojiConversations.splits)
def test_answers_are_the_label_or_tags_of_the_drawing(folder, name):
    split = EmojiConversations(path=folder, concepts="all").split(name)
    kinds = set()
    for index in range(len(split)):
        for generator in (None, np.random.default_rng(index)):
            sample = split.sample(index, generator)
            conversation, number = sample.inputs["conversation"], int(sample.id.split("/")[-1].removesuffix(".png"))
            question, label = conversation.messages[0].text.removeprefix("<image>\n"), LABELS[number]
            tags = f"tag {number}, common"
            assert np.asarray(conversation.images[0])[0, 0, 1] == number and conversation.answer == sample.answers[0]
            assert sample.answers[0] in {"caption": (label, tags), "tags": (tags,)}.get(sample.kind, (label,))
            assert number % 3 or tags not in sample.answers
            assert (question in DESCRIBED) == (sample.kind == "caption") and (sample.kind != "choice" or label in question)
            kinds.add(sample.kind)
    assert kinds == set(KINDS) if name != "validation" else kinds <= set(KINDS)


def test_splits_are_those_of_the_emoji(folder):
    ours, theirs = EmojiConversations(path=folder, concepts="unseen"), Emoji(path=folder, concepts="unseen")
    for name in Emoji.splits:
        assert [each.name for each in ours.split(name).split.drawings] == [each.name for each in theirs.split(name).drawings]
    assert all("twemoji" in ours.split("test").sample(index).id for index in range(2)) and len(ours.split("test")) == 2


def test_captions_alone_make_the_first_stage(folder):
    source = EmojiConversations(path=folder, kinds=["caption"])
    samples = [source.split("train").sample(index, np.random.default_rng(index)) for index in range(10)]
    assert {sample.kind for sample in samples} == {"caption"}
    texts = set(source.captions())
    shown = {drawing.label for drawing in source.split("train").split.drawings}
    assert set(DESCRIBED) | shown <= texts and len(shown) > 10 and not set(LABELS[18:]) & texts


def test_what_has_no_label_is_captioned_and_shares_hold(folder, tmp_path_factory):
    extra = tmp_path_factory.mktemp("extra")
    Image.new("RGB", (8, 8)).save(extra / "a.png")
    (extra / "table.jsonl").write_text(json.dumps({"path": "a.png", "caption": "A red car.", "tags": []}) + "\n")
    split = EmojiConversations(path=folder, kinds=["label", "choice"], extra=[extra], other_share=0.5).split("train")
    sample = split.sample(len(split) - 1)
    assert (sample.kind, sample.answers) == ("caption", ["A red car."])
    assert (split.order(0, 0) == len(split) - 1).mean() == pytest.approx(0.5, abs=0.02)


def test_what_there_is_not_is_refused(folder):
    with pytest.raises(ConfigError, match="did you mean 'label'"):
        EmojiConversations(path=folder, kinds=["labels"])
    with pytest.raises(ConfigError, match="there is no 'tests'"):
        EmojiConversations(path=folder).split("tests")
