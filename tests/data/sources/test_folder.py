"""The ``folder`` source: class folders, tables, splits that stay, and every kind of bad row."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo.data.groups import stable_group
from zoo.errors import ConfigError, DataError
from zoo.registry import find_part
from zoo.sources.folder import Folder

ALL_TRAIN = (1.0, 0.0, 0.0)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), "red").save(path)
    return path


def pictures(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        picture(root / name)
    return root


def csv_source(root: Path, text: str | bytes, **options: Any) -> Folder:
    pictures(root, ["a.png", "b.png"])
    (root / "table.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Folder(path=root, table="table.csv", **{"split_fractions": ALL_TRAIN, **options})


def json_source(root: Path, *rows: Any, **options: Any) -> Folder:
    pictures(root, ["a.png", "b.png"])
    (root / "table.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return Folder(path=root, table="table.jsonl", **{"split_fractions": ALL_TRAIN, **options})


def ids(source: Folder, split: str) -> set[str]:
    part = source.split(split)
    return {part.sample(index).id for index in range(len(part))}


def test_it_is_registered() -> None:
    assert find_part("source", "folder").__name__ == "Folder"


def test_class_folders_give_captions_labels_and_groups(tmp_path: Path) -> None:
    source = Folder(path=pictures(tmp_path, ["hot_dog/1.png", "apple/deep/2.png"]), split_fractions=ALL_TRAIN)
    assert source.class_names == ["apple", "hot dog"]
    sample = source.split("train").sample(1)
    assert (sample.id, sample.label, sample.inputs["text"]) == ("hot_dog/1.png", 1, "a photo of a hot dog.")
    assert sample.group == stable_group("hot dog") and 0 <= sample.group < 2**63
    assert sample.inputs["image"].shape == (2, 2, 3)


def test_a_generator_draws_templates_and_none_takes_the_first(tmp_path: Path) -> None:
    source = Folder(path=pictures(tmp_path, ["cat/1.png"]), split_fractions=ALL_TRAIN, templates=("a {}", "the {}", "my {}"))
    split, rng = source.split("train"), np.random.default_rng(0)
    assert {split.sample(0, rng).inputs["text"] for _ in range(40)} == {"a cat", "the cat", "my cat"}
    assert {split.sample(0).inputs["text"] for _ in range(9)} == {"a cat"}
    assert source.captions() == ["a cat", "the cat", "my cat"]


def test_a_new_picture_moves_no_other(tmp_path: Path) -> None:
    pictures(tmp_path, [f"cat/{number}.png" for number in range(60)])
    before = {split: ids(Folder(path=tmp_path), split) for split in Folder.splits}
    pictures(tmp_path, [f"ant/{number}.png" for number in range(10)])
    after = {split: ids(Folder(path=tmp_path), split) for split in Folder.splits}
    assert sum(map(len, before.values())) == 60 and sum(map(len, after.values())) == 70
    assert all(before[split] <= after[split] for split in Folder.splits)
    assert 36 <= len(before["train"]) <= 58


def test_splits_and_groups_are_the_same_in_every_run(tmp_path: Path) -> None:
    source = Folder(path=pictures(tmp_path, [f"cat/{number}.png" for number in range(20)]))
    assert ids(source, "validation") == {"cat/1.png", "cat/17.png"}  # as first written down; a change moves everyone's splits
    assert ids(source, "test") == {"cat/2.png", "cat/18.png"}
    assert stable_group("hot dog") == 7294395171899542186


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_folders_named_by_split_are_the_splits(validation: str, tmp_path: Path) -> None:
    source = Folder(path=pictures(tmp_path, ["train/cat/1.png", "train/dog/2.png", f"{validation}/cat/3.png", "test/dog/4.png"]))
    assert source.class_names == ["cat", "dog"]
    assert ids(source, "validation") == {f"{validation}/cat/3.png"}
    assert ids(source, "train") == {"train/cat/1.png", "train/dog/2.png"}
    assert source.split("test").sample(0).label == 1


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    assert Folder(path=pictures(tmp_path, ["train/1.png", "bus/2.png"])).class_names == ["bus", "train"]


def test_a_class_that_training_lacks_is_a_fault(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/cat/1.png", "test/cats/2.png"])
    with pytest.raises(DataError, match=r"test/cats/2.png: label 'cats' is not among .* did you mean 'cat'"):
        Folder(path=tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "no images in class folders"),
        (["loose.png"], "loose.png: is not in a class folder"),
        (["cat/1.png", "dog/readme/.hidden.png"], "dog: a class folder without images"),
        (["hot dog/1.png", "hot_dog/2.png"], "has the same class name as hot dog"),
        (["train/a/1.png", "test/a/1.png", "other/1.png"], "are mixed with other folders"),
        (["train/a/1.png", "val/a/1.png", "validation/a/1.png"], "keep one"),
    ],
)
def test_a_faulty_folder_is_refused(names: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected):
        Folder(path=pictures(tmp_path, names))


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "absent", "does not exist"), (picture(tmp_path / "x.png"), "is a file")):
        with pytest.raises(DataError, match=expected):
            Folder(path=path)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/1.png"])
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat", target_is_directory=True)
    assert ids(Folder(path=tmp_path, split_fractions=ALL_TRAIN), "train") == {"cat/1.png"}


def test_an_unreadable_picture_is_named_when_asked_for(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/1.png"]).joinpath("cat/2.png").write_bytes(b"nothing")
    split = Folder(path=tmp_path, split_fractions=ALL_TRAIN).split("train")
    assert split.sample(0).id == "cat/1.png"
    with pytest.raises(DataError, match=r"^item cat/2.png: .*not an image"):
        split.sample(1)


def test_csv_rows_become_samples(tmp_path: Path) -> None:
    source = csv_source(tmp_path, '\ufeffcaption,path\n"red, ""small""\nsquare",a.png\n\nred,b.png\nred,a.png\n')
    samples = [source.split("train").sample(index) for index in range(3)]
    assert [sample.id for sample in samples] == ["a.png:2", "b.png:4", "a.png:5"]
    assert samples[0].inputs["text"] == 'red, "small"\nsquare' and samples[0].label is None
    assert samples[1].group == samples[2].group != samples[0].group
    assert source.captions() == ['red, "small"\nsquare', "red"] and source.class_names == []


def test_json_rows_with_labels_and_splits(tmp_path: Path) -> None:
    rows = [
        {"path": "a.png", "caption": "one", "label": 7, "split": "train"},
        {"path": "b.png", "caption": "two", "label": 7, "split": "val"},
    ]
    source = json_source(tmp_path, *rows, templates=["a {}"])
    assert source.class_names == ["7"] and source.captions() == ["one", "a 7"]
    assert source.split("validation").sample(0).label == 0
    assert ids(source, "train") == {"a.png:1"}


def test_paths_are_relative_to_table_or_folder(tmp_path: Path) -> None:
    pictures(tmp_path, ["images/a.png", "meta/b.png", "images/c.png"])
    table = "path,caption\nimages/a.png,x\nb.png,x\n../images/c.png,x\n" + f"{tmp_path.absolute()}/meta/b.png,y\n"
    (tmp_path / "meta/rows.csv").write_text(table)
    source = Folder(path=tmp_path, table="meta/rows.csv", split_fractions=ALL_TRAIN)
    assert ids(source, "train") == {"images/a.png:2", "meta/b.png:3", "images/c.png:4", "meta/b.png:5"}


def test_other_keys_can_be_named(tmp_path: Path) -> None:
    options = {"path_key": "file", "caption_key": "text", "label_key": "kind"}
    assert csv_source(tmp_path, "file,text,kind\na.png,x,k\n", **options).class_names == ["k"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("absent.png,x", "there is no file 'absent.png'"),
        ("a.png,  ", "caption is empty"),
        (",x", "path is empty"),
        ("a.png", "1 cells where the header has 2"),
        ("a.png,x,y", "3 cells where the header has 2"),
        ("../b.png,x", "leads out of the folder"),
        ("/etc/hostname,x", "leads out of the folder"),
        ("b.png,fine", "the same path and caption as row 2"),
        ('a.png,"open', "malformed CSV"),
        (b"a.png,caf\xe9", "not UTF-8"),
    ],
)
def test_a_bad_csv_row_is_named_or_skipped(row: str | bytes, expected: str, tmp_path: Path) -> None:
    text = b"path,caption\nb.png,fine\n" + (row if isinstance(row, bytes) else row.encode()) + b"\n"
    with pytest.raises(DataError, match=rf"table.csv: 1 bad entry.*\n  row 3: .*{expected}"):
        csv_source(tmp_path, text)
    source = csv_source(tmp_path, text, on_bad="skip")
    assert ids(source, "train") == {"b.png:2"}
    assert len(source.skipped) == 1 and source.skipped[0].startswith("row 3: ")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('{"path": "a.png", ', "malformed JSON"),
        ("[" * 100_000, "malformed JSON"),
        ('["a.png", "x"]', "a JSON list"),
        ('{"path": "a.png", "captoin": "x"}', "no key 'caption'; keys present: path, captoin; did you mean 'captoin'"),
        ('{"path": "a.png", "caption": 3}', "caption is 3"),
        ('{"path": "a.png", "caption": null}', "caption is None"),
        ('{"path": "a.png", "caption": "\\ud800"}', "not UTF-8"),
        ('{"path": "a\\u0000.png", "caption": "x"}', "there is no file"),
        ('{"path": "a.png", "caption": "x", "label": [1]}', "label is"),
        ('{"path": "a.png", "caption": "x", "split": "tain"}', "did you mean 'train'"),
        ('{"path": "a.png", "caption": "x", "split": "test", "label": "new"}', "label 'new' is not among"),
    ],
)
def test_a_bad_json_row_is_named_or_skipped(row: str, expected: str, tmp_path: Path) -> None:
    good = {"path": "b.png", "caption": "fine", "label": "old", "split": "train"}
    with pytest.raises(DataError, match=f"row 2: .*{expected}"):
        json_source(tmp_path, good, row)
    source = json_source(tmp_path, good, row, on_bad="skip")
    assert ids(source, "train") == {"b.png:1"} and len(source.skipped) == 1


def test_five_faults_are_shown_and_all_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        csv_source(tmp_path, "path,caption\na.png,x\n" + "".join(f"{number}.png,x\n" for number in range(40)))
    lines = str(caught.value).splitlines()
    assert "40 bad entries" in lines[0] and len(lines) == 6 and lines[5].startswith("  row 7:")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("path,captions\n", "no key 'caption'; keys present: path, captions; did you mean 'captions'"),
        ("path,caption,path\n", "2 times"),
        ("", "is empty"),
        (b"p\xe4th,caption\n", "the first row is not UTF-8"),
        ("path,caption\n", "no usable rows"),
    ],
)
def test_a_bad_header_is_refused(header: str | bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected):
        csv_source(tmp_path, header, on_bad="skip")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.png"]).joinpath("captions.csv").touch()
    with pytest.raises(DataError, match=r"did you mean 'captions.csv'"):
        Folder(path=tmp_path, table="caption.csv")
    with pytest.raises(DataError, match=r"must end in one of .csv"):
        Folder(path=tmp_path, table="a.png")


def test_a_split_without_items_says_so(tmp_path: Path) -> None:
    source = Folder(path=pictures(tmp_path, ["cat/1.png"]), split_fractions=ALL_TRAIN)
    with pytest.raises(DataError, match=r"the split 'validation' has no image \(train 1, validation 0, test 0\)"):
        source.split("validation")
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        source.split("tain")


@pytest.mark.parametrize(
    "options",
    [
        {"templates": "a {}"},
        {"templates": []},
        {"templates": ["no slot"]},
        {"split_fractions": (0.5, 0.5)},
        {"split_fractions": (0.9, 0.2, -0.1)},
        {"on_bad": "skpi"},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Folder(path=pictures(tmp_path, ["cat/1.png"]), **options)


def test_a_file_name_that_is_not_utf8_is_escaped_in_the_id(tmp_path: Path) -> None:
    try:
        os.rename(picture(tmp_path / "cat/x.png"), os.fsencode(tmp_path) + b"/cat/\xff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert ids(Folder(path=tmp_path, split_fractions=ALL_TRAIN), "train") == {"cat/\\udcff.png"}
