"""Template sets against the libraries that define them, and label files in the forms that users write."""

import json
import subprocess
import sys

import pytest
from open_clip import zero_shot_metadata

import zoo
from zoo.data.zero_shot_prompts import Label, fill_templates, in_order, plain_labels, read_labels, read_templates, template_sets


def test_the_imagenet_sets_are_open_clips():
    assert [t("{}") for t in zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES] == read_templates("imagenet")
    assert [t("{}") for t in zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES] == read_templates("imagenet_7")
    assert len(read_templates("imagenet")) == 80 and read_templates("simple") == ["a photo of a {}."]


def test_the_cifar_set_is_built_as_openais():
    # data/prompts.md, CIFAR10: nine openings with "a" before the class, then the same with "the".
    openings = "photo of {}", "blurry photo of {}", "black and white photo of {}", "low contrast photo of {}", "high contrast photo of {}"
    openings += "bad photo of {}", "good photo of {}", "photo of {} small", "photo of {} big"

    def written(opening, article):
        before, _, after = opening.partition(" {}")
        return " ".join(filter(None, ["a", before, article, after.strip(), "{}."]))

    assert read_templates("cifar") == [written(opening, article) for article in ("a", "the") for opening in openings]


def test_sets_are_read_without_torch():
    code = (
        "import sys; from zoo.data.zero_shot_prompts import read_templates; read_templates('imagenet'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_templates_are_a_set_a_file_one_prompt_or_a_list(tmp_path):
    (tmp_path / "mine.txt").write_text("\ufeffa drawing of a {}\r\n  {} \n\n", encoding="utf-8")
    assert read_templates(str(tmp_path / "mine.txt")) == read_templates(tmp_path / "mine.txt") == ["a drawing of a {}", "{}"]
    assert read_templates("a {} in the snow") == ["a {} in the snow"] and read_templates(["{}", "a {}"]) == ["{}", "a {}"]
    assert template_sets() == ["cifar", "imagenet", "imagenet_7", "simple"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("imagnet", "templates: there is no template set and no file 'imagnet'; did you mean 'imagenet'"),
        ("nowhere/t.txt", "templates: nowhere/t.txt: no such file"),
        (["a {}", "a photo"], "template 2 of 2, 'a photo', has no {}"),
        ([], "there are no templates; give at least one"),
    ],
)
def test_templates_that_cannot_be_are_refused(wanted, message):
    with pytest.raises(zoo.DataError, match=message):
        read_templates(wanted)


def label_file(folder, content, name="labels.json"):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder / name


def test_text_and_json_lists_are_plain_labels(tmp_path):
    expected = [Label("käse", ("käse",)), Label("猫", ("猫",))]
    assert read_labels(label_file(tmp_path, "käse\n猫\n\n", "labels.txt")) == read_labels(label_file(tmp_path, ["käse", "猫"])) == expected


def test_a_class_has_prompts_names_or_both(tmp_path):
    content = {
        "sneaker": ["a {} on grass", "running shoes"],
        "bag": None,
        "coat": {"names": ["coat", "overcoat"], "prompts": ["worn in winter: a {}"]},
    }
    labels = read_labels(label_file(tmp_path, content))
    assert fill_templates(labels, ["a {}.", "the {}."]) == [
        ["a sneaker on grass", "running shoes"],
        ["a bag.", "the bag."],
        ["a coat.", "the coat.", "a overcoat.", "the overcoat.", "worn in winter: a coat"],
    ]
    assert [label.label for label in in_order(labels, ["coat", "bag"])] == ["coat", "bag"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ('"cat"', 'holds str "cat"; give one label per line'),
        ('["cat", 3]', "holds list"),
        ('["cat", "dog", "cat"]', "'cat' given more than once"),
        ('{"cat": ["a"], "cat": ["b"]}', "'cat' is given more than once"),
        ('{"cat": []}', "label 'cat' has no prompts and no names"),
        ('{"cat": 3}', "label 'cat' has int 3, but a list of texts"),
        ('{"cat": {"synonyms": []}}', "label 'cat' has 'synonyms'; allowed are 'names' and 'prompts'"),
        ('["cat", " "]', "label 2 of 2 is empty"),
        ("[]", "there are no labels"),
    ],
)
def test_label_files_that_cannot_be_are_refused(tmp_path, content, message):
    with pytest.raises(zoo.DataError, match=message):
        read_labels(label_file(tmp_path, content))


def test_twenty_thousand_labels_are_read_and_one_twice_is_found(tmp_path):
    names = [f"class {i}" for i in range(20_000)]
    assert len(read_labels(label_file(tmp_path, "\n".join(names), "labels.txt"))) == 20_000
    with pytest.raises(zoo.DataError, match="'class 7' given more than once"):
        plain_labels([*names, "class 7"])


def test_a_class_that_the_file_lacks_is_named():
    with pytest.raises(zoo.DataError, match="class 'dog' is not among the 1 labels of the file; did you mean 'dogs'"):
        in_order(plain_labels(["dogs"]), ["dog"])
