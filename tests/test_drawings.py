"""Converters of drawings: SVG from collections, labels from names, and held-out concepts."""

import json

import numpy as np
import pytest
from PIL import Image

from zoo.downloads import emoji, emoji_styles, icons, openclipart, stamps, wordnet
from zoo.downloads.drawings import draw, squared
from zoo.downloads.iconify import read_icons

RED_LEFT = '<path fill="#f00" d="M0 0h8v16h-8z"/>'  # the left half of 16 x 16


def pixels(svg, tmp_path, side=16):
    pytest.importorskip("resvg_py")
    draw(svg, tmp_path / "drawn" / "x.png", side=side)
    with Image.open(tmp_path / "drawn" / "x.png") as image:
        return np.array(image.convert("RGBA")).astype(int)


def collection(folder, icons_, aliases=None, chars=None, **sizes):
    """Write a collection of Iconify."""
    folder.mkdir(parents=True)
    bodies = {name: icon if isinstance(icon, dict) else {"body": icon} for name, icon in icons_.items()}
    (folder / "icons.json").write_text(json.dumps({"prefix": "x", "icons": bodies, "aliases": aliases or {}, **sizes}))
    (folder / "chars.json").write_text(json.dumps(chars or {}))
    return folder


def test_an_alias_is_its_parent_turned_and_mirrored(tmp_path):
    aliases = {
        "right": {"parent": "left", "hFlip": True},
        "left again": {"parent": "right", "hFlip": True},
        "top": {"parent": "left", "rotate": 1},
        "bottom": {"parent": "top", "rotate": 2},
    }
    found = read_icons(collection(tmp_path / "x", {"left": RED_LEFT, "gone": {"body": RED_LEFT, "hidden": True}}, aliases))
    assert set(found) == {"left", *aliases}
    left = pixels(found["left"], tmp_path)
    assert (left[:, :8, 0] == 255).all() and (left[:, 8:, 3] == 0).all()
    expected = {"right": left[:, ::-1], "left again": left, "top": np.rot90(left, -1), "bottom": np.rot90(left)}
    for name, image in expected.items():
        assert np.abs(pixels(found[name], tmp_path) - image).max() <= 1, name


def test_an_icon_that_is_not_square_stands_in_the_middle(tmp_path):
    wide = {"body": '<path d="M0 0h32v16h-32z"/>', "width": 32}
    alpha = pixels(read_icons(collection(tmp_path / "x", {"wide": wide}, height=16))["wide"], tmp_path, side=32)[..., 3]
    assert (alpha[8:24] == 255).all() and (alpha[:8] == 0).all() and (alpha[24:] == 0).all()


def test_what_is_drawn_comes_to_the_middle_of_a_square():
    image = Image.new("RGBA", (100, 60), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (70, 10, 90, 50))  # 20 x 40
    found = squared(image, side=50)
    assert found.size == (50, 50) and found.getchannel("A").getbbox() == (13, 2, 36, 48)  # 46 high with margins of 4 %
    assert squared(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), side=50) is None
    assert squared(Image.new("RGBA", (90, 9), (0, 0, 0, 255)), side=50) is None


@pytest.fixture
def source(tmp_path):
    """Emojibase with 40 animals, 10 foods and excluded entries; styles with and without code points."""
    kept = [(f"animal {index}", f"1F4{index:02X}", "0") for index in range(40)] + [
        (f"food {index}", f"1F5{index:02X}", "1") for index in range(10)
    ]
    entries = [
        {"label": label, "hexcode": code, "group": int(group), "subgroup": 0, "version": 1, "tags": ["it’s"]} for label, code, group in kept
    ]
    left_out = [
        ("light skin tone", "1F3FB", 2, 1),
        ("flag: Chad", "1F1F9", 3, 1),
        ("keycap: 1", "0031-20E3", 0, 1),
        ("orca", "1FACD", 0, 17),
    ]
    entries += [
        {"label": label, "hexcode": code, "group": group, "subgroup": 0, "version": version} for label, code, group, version in left_out
    ]
    entries += [
        {"label": "regional indicator A", "hexcode": "1F1E6", "version": 0},
        {"label": "red heart", "hexcode": "2764-FE0F", "version": 1},
    ]
    entries[-1] |= {"group": 1, "subgroup": 0, "tags": ["love"]}
    base = tmp_path / "source" / "emojibase"
    base.mkdir(parents=True)
    groups = {"groups": dict(zip("0123", ["animals", "food", "component", "flags"], strict=True)), "subgroups": {"0": "some"}}
    (base / "data.json").write_text(json.dumps(entries))
    (base / "groups.json").write_text(json.dumps(groups))
    (base / "unicode-names.json").write_text(json.dumps({"2764": "HEAVY BLACK HEART"}))
    chars = {"2764-fe0f": "red-heart", "1f400": "mouse", "1f3fb": "light-skin-tone"}
    for style in (*emoji.NAMED_STYLES, *emoji_styles.NAMED_STYLES):
        if not (tmp_path / "source" / style).exists():
            named = dict.fromkeys(chars.values(), RED_LEFT)
            collection(tmp_path / "source" / style, named, {"old-mouse": {"parent": "mouse"}}, chars)
    for style in {*emoji.STYLES, *emoji_styles.STYLES} - {*emoji.NAMED_STYLES, *emoji_styles.NAMED_STYLES}:
        collection(tmp_path / "source" / style, dict.fromkeys(["old-mouse", "heavyblackheart", "food-3", "unknown"], RED_LEFT))
    return tmp_path / "source"


def test_concepts_are_what_is_no_flag_keycap_skin_tone_or_too_new(source):
    concepts = emoji.read_concepts(source / "emojibase")
    assert len(concepts) == 51 and concepts["2764"] == {"label": "red heart", "tags": ["love"], "group": "food", "subgroup": "some"}
    assert concepts["1F400"]["tags"] == ["it's"]


def test_a_tenth_of_each_group_is_held_out_whatever_the_order(source):
    concepts = emoji.read_concepts(source / "emojibase")
    found = emoji.held_out_concepts(concepts)
    assert [sum(concepts[code]["group"] == group for code in found) for group in ("animals", "food")] == [4, 1]
    assert emoji.held_out_concepts(dict(reversed(concepts.items()))) == found
    fewer = {code: concept for code, concept in concepts.items() if concept["group"] == "animals"}
    assert emoji.held_out_concepts(fewer) < found  # one group does not move another


def test_styles_without_code_points_are_matched_by_every_known_name(source, tmp_path):
    pytest.importorskip("resvg_py")
    (tmp_path / "target").mkdir()
    emoji.convert(source, tmp_path / "target")
    rows = [json.loads(line) for line in (tmp_path / "target" / "table.jsonl").read_text().splitlines()]
    found = {style: {row["code_points"] for row in rows if row["style"] == style} for style in emoji.STYLES}
    assert found["noto"] == {"2764", "1F400"} and found["fxemoji"] == {"2764", "1F400", "1F503"}
    for row in rows:
        with Image.open(tmp_path / "target" / row["path"]) as image:
            assert image.size == (emoji.SIDE, emoji.SIDE) and image.mode == "RGBA"


def test_further_styles_are_of_the_same_concepts_with_the_same_held_out(source, tmp_path):
    pytest.importorskip("resvg_py")
    (tmp_path / "target").mkdir()
    (source / emoji_styles.RENDERED).mkdir()
    for code in ("2764-fe0f", "1f1e6"):
        Image.new("RGBA", (256, 256), (255, 0, 0, 255)).save(source / emoji_styles.RENDERED / f"{code}.webp")
    emoji_styles.convert(source, tmp_path / "target")
    rows = [json.loads(line) for line in (tmp_path / "target" / "table.jsonl").read_text().splitlines()]
    held_out = emoji.held_out_concepts(emoji.read_concepts(source / "emojibase"))
    assert all(row["held_out"] == (row["code_points"] in held_out) for row in rows)
    assert [row["code_points"] for row in rows if row["style"] == emoji_styles.RENDERED] == ["2764"]
    assert {row["style"] for row in rows} == {*emoji_styles.STYLES, emoji_styles.RENDERED}


@pytest.mark.parametrize(
    ("name", "collection_", "label"),
    [
        ("tree-palm-02", "icon-park", "tree palm"),
        ("bird-one", "icon-park", "bird"),
        ("add-starburst-16", "fluent-color", "add starburst"),
        ("airplane-takeoff-duotone", "ph", "airplane takeoff"),
        ("7-eleven", "game-icons", "7 eleven"),
        ("2", "game-icons", "2"),
    ],
)
def test_names_of_icons_become_words(name, collection_, label):
    assert icons.label_of(name, icons.COLLECTIONS[collection_]) == label


def test_of_an_icon_in_several_sizes_the_largest_is_taken(tmp_path):
    folder = collection(tmp_path / "x", dict.fromkeys(["add-16", "add-48", "add-20", "other"], RED_LEFT))
    assert [name for name, _ in icons.labelled_icons(folder, icons.COLLECTIONS["fluent-color"]).values()] == ["add-48"]


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("Clipart by Nicu Buculei - palm_tree 02", "palm tree"),
        ("Stack of Books, Taller", "Stack of Books, Taller"),
        ("handphone 2", "handphone"),
        ("  ", ""),
        ("12 b", ""),
        ("gnu.svg", "gnu"),
        ("salt &amp; pepper", "salt & pepper"),
    ],
)
def test_titles_of_clip_art_lose_contributor_and_number(title, cleaned):
    assert openclipart.clean_title(title) == cleaned


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("A blue fedora.", "blue fedora"),
        ("Some cherries.", "cherries"),
        ("Knitting.", "Knitting"),
        ("Bread, sliced, and shared by everyone.", None),
        ("The sign for the letter W in American Sign Language.", None),
        ("Another one", "Another one"),
    ],
)
def test_a_short_sentence_gives_a_label(sentence, label):
    assert stamps.short_label(sentence) == label


def test_a_meaning_of_wordnet_gives_its_words_definition_and_examples():
    facts = "00442669 03 s 02 new_moon(p) 0 dark_of_the_moon 1 002 @ 00001740 n 0000 ~ 00001741 n 0000"
    line = f'{facts} | the time at which it is dark; "a new moon"; "no light"  \n'
    expected = ["new moon", "dark of the moon", "new moon: the time at which it is dark", "a new moon", "no light"]
    assert wordnet.texts_of(line) == expected
