"""The ``emoji`` source, on a small folder of the form that ``zoo fetch emoji`` makes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import ConfigError, DataError
from zoo.registry import find_part
from zoo.sources.emoji import Emoji, SharedOrder
from zoo.sources.wording.held_out import HeldOut, content_words

STYLES = ("noto", "fxemoji", "twemoji")
LABELS = [f"thing {2 * chr(97 + index)}" for index in range(20)]  # the last two are held out


def write(folder: Path, rows: list[dict]) -> Path:
    """A table, and for each row a red picture whose left half is transparent."""
    for row in rows:
        path = folder / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
        image.paste((0, 0, 0, 0), (0, 0, 4, 8))
        image.save(path)
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"path": f"{style}/{index}.png", "style": style, "label": label, "tags": ["a", "b", "c"], "held_out": index >= 18}
        for style in STYLES
        for index, label in enumerate(LABELS)
    ]
    return write(tmp_path / "emoji", rows)


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    rows = [
        {"path": "1.png", "label": "palm tree", "tags": []},
        {"path": "2.png", "label": "letter SS", "tags": ["thing"]},  # with its tag all words of "thing ss"
        {"path": "3.png", "label": None, "caption": "A red car in the rain."},
        {"path": "4.png", "style": "twemoji", "label": "plane", "tags": []},
        {"path": "5.png", "label": "thing qq", "held_out": True},
        {"path": "6.png", "label": "boat", "caption": "Two boats.", "tags": []},
    ]
    return write(tmp_path / "more", rows)


def names(source: Emoji, split: str) -> list[str]:
    part = source.split(split)
    return [part.sample(index).id for index in range(len(part))]


def test_it_is_registered() -> None:
    assert find_part("source", "emoji") is Emoji


def test_neither_the_test_style_nor_held_out_concepts_are_trained_on(folder: Path) -> None:
    source = Emoji(path=folder)
    train, validation, test = (names(source, split) for split in source.splits)
    assert len(train) + len(validation) == 36 and validation and not set(train) & set(validation)
    assert not any("twemoji" in name or name.endswith(("/18.png", "/19.png")) for name in train + validation)
    assert test == [f"emoji/twemoji/{index}.png" for index in range(18)]


@pytest.mark.parametrize(("concepts", "classes"), [("seen", LABELS[:18]), ("unseen", LABELS[18:]), ("all", LABELS)])
def test_the_concepts_chosen_are_the_classes_and_the_test(concepts: str, classes: list[str], folder: Path) -> None:
    source = Emoji(path=folder, concepts=concepts)
    test = source.split("test")
    assert source.class_names == classes and len(test) == len(classes)
    assert [source.class_names[test.sample(index).label or 0] for index in range(len(test))] == classes
    assert names(source, "train") == names(Emoji(path=folder), "train")


def test_without_a_generator_a_drawing_is_on_white_with_its_label(folder: Path) -> None:
    sample = Emoji(path=folder, backgrounds="varied").split("test").sample(3)
    image = np.array(sample.inputs["image"])
    assert sample.inputs["text"] == "thing dd" and image.shape == (8, 8, 3)
    assert (image[:, :4] == 255).all() and (image[:, 4:] == (255, 0, 0)).all()


def test_grounds_vary_in_training_and_follow_from_the_generator(folder: Path) -> None:
    train = Emoji(path=folder, backgrounds="varied").split("train")
    grounds = [np.array(train.sample(0, np.random.default_rng(seed)).inputs["image"])[0, 0].tolist() for seed in range(60)]
    assert 15 < sum(ground == [255, 255, 255] for ground in grounds) < 45
    assert len({tuple(ground) for ground in grounds}) > 15 and min(map(min, grounds)) >= 64
    assert grounds[7] == np.array(train.sample(0, np.random.default_rng(7)).inputs["image"])[0, 0].tolist()


def test_training_captions_are_templates_or_a_few_tags(folder: Path) -> None:
    def texts(share: float) -> set[str]:
        train = Emoji(path=folder, templates=["the {}", "{}!"], tag_share=share).split("train")
        return {train.sample(0, np.random.default_rng(seed)).inputs["text"] for seed in range(200)}

    assert texts(0) == {"the thing aa", "thing aa!"}
    assert {"a", "b, a", "c, b, a"} < texts(1) and not texts(1) & texts(0)
    assert texts(0.5) == texts(0) | texts(1)


def test_extra_drawings_that_mention_a_held_out_concept_stay_out(folder: Path, extra: Path) -> None:
    plain, source = Emoji(path=folder), Emoji(path=folder, extra=[extra])
    assert names(source, "train") == [*names(plain, "train"), "more/1.png", "more/3.png", "more/6.png"]
    assert names(source, "validation") == names(plain, "validation") and names(source, "test") == names(plain, "test")
    assert source.class_names == plain.class_names
    train = source.split("train")
    car = train.sample(len(train) - 2, np.random.default_rng(0))
    assert (car.inputs["text"], car.label) == ("A red car in the rain.", None)
    boat = {train.sample(len(train) - 1, np.random.default_rng(seed)).inputs["text"] for seed in range(50)}
    assert {"Two boats.", "boat", "a drawing of boat"} < boat


def test_equal_labels_are_one_group_in_every_style(folder: Path) -> None:
    source = Emoji(path=folder)
    train, test = source.split("train"), source.split("test")
    groups = {sample.inputs["text"]: sample.group for sample in map(test.sample, range(len(test)))}
    assert len(set(groups.values())) == 18
    assert all(sample.group == groups[sample.inputs["text"]] for sample in map(train.sample, range(len(train))))


def test_captions_hold_what_training_shows_and_no_held_out_label(folder: Path, extra: Path) -> None:
    captions = Emoji(path=folder, extra=[extra]).captions()
    assert {"an emoji of thing aa", "A red car in the rain.", "palm tree", "a, b, c"} <= set(captions)
    assert not any("thing ss" in caption or "thing tt" in caption for caption in captions)


def test_words_are_compared_in_lower_case_and_singular_without_fillers() -> None:
    assert content_words("Grinning cats with smiling eyes") == {"grinning", "cat", "smiling", "eye"}
    assert content_words("B and W") == {"b", "and", "w"}  # rather than nothing


@pytest.mark.parametrize(
    ("names", "tags", "mentioned"),
    [
        (["fries"], [], True),
        (["Frying a French fry"], [], True),
        (["a heart, green"], [], True),
        (["heart", "dark green things"], [], True),
        (["heart"], ["green"], True),
        (["potato"], ["fries"], False),
        (["heart"], [], False),
        (["red heart"], [], False),
        (["green tree"], ["palm"], False),
        ([""], [], False),
    ],
)
def test_a_word_of_its_own_or_all_words_name_a_held_out_concept(names: list[str], tags: list[str], mentioned: bool) -> None:
    held_out = HeldOut(["french fries", "green heart"], ["red heart", "tree", "green apple"])
    assert held_out.mentioned(*names, tags=tags) == mentioned


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"concepts": "sen"}, "concepts: there is no 'sen'; did you mean 'seen'"),
        ({"backgrounds": "black"}, "backgrounds: there is no 'black'"),
        ({"tag_share": 1.5}, "tag_share: 1.5; allowed are shares from 0 to 1"),
        ({"extra": "openclipart"}, "extra: 'openclipart' is one folder; give a list"),
        ({"templates": ["a picture"]}, "templates: 'a picture' is not allowed"),
    ],
)
def test_wrong_words_are_refused(words: dict, message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Emoji(path=folder, **words)


def test_a_wrong_split_lists_the_right_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no 'test_unseen'"):
        Emoji(path=folder).split("test_unseen")


def test_a_folder_without_its_table_says_how_to_get_it(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="has no table.jsonl; name the folder that `zoo fetch emoji` prints"):
        Emoji(path=tmp_path)
    with pytest.raises(DataError, match="`zoo fetch icons`"):
        Emoji(path=folder, extra=[tmp_path / "icons"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"label": "x"}', "row 2: no key 'path'"),
        ('{"path": 3, "label": "x"}', "row 2: path is 3"),
        ('{"path": "x.png"}', "row 2: neither a label nor a caption"),
        ('{"path": "x.png", "label": "x", "tags": "a"}', "row 2: tags are 'a'"),
        ("{", "row 2"),
    ],
)
def test_a_table_with_faults_is_refused(row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.jsonl").write_text('{"path": "a.png", "label": "a"}\n' + row + "\n")
    with pytest.raises(DataError, match=message):
        Emoji(path=tmp_path)


@pytest.mark.parametrize("backgrounds", ["white", "varied"])
def test_a_picture_that_cannot_be_read_is_named(backgrounds: str, folder: Path) -> None:
    split = Emoji(path=folder, backgrounds=backgrounds).split("train")
    split.drawings[0].path.write_bytes(b"\x89PNG\r\n\x1a\n cut")
    for seed in range(4):
        with pytest.raises(DataError, match="item emoji/noto/0.png: "):
            split.sample(0, np.random.default_rng(seed))


def test_an_epoch_holds_the_wanted_share_of_each_kind_evenly():
    order = SharedOrder([False] * 6 + [True] * 14, 0.25)
    epochs = [np.bincount(order(0, epoch), minlength=20) for epoch in range(3)]
    for counts in epochs:
        assert counts.sum() == 20 and counts[6:].sum() == 5
        assert set(counts[:6]) == {2, 3} and set(counts[6:]) == {0, 1}
    assert np.array_equal(order(0, 1), order(0, 1)) and not np.array_equal(epochs[0], epochs[1])
    assert sorted(SharedOrder([False] * 4, 0.5)(0, 0)) == [0, 1, 2, 3]
