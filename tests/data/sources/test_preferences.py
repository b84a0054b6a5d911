"""Preference data: rows in the formats of TRL, pairs kept together, and splits that depend on the prompt only."""

import json

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.data.loader import StepSampler
from zoo.sources.preferences import Preferences

PAIR = {"prompt": "Which?", "chosen": "this", "rejected": "that"}


def written(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(folder, count=20, **options):
    rows = [{"prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)]
    return Preferences(path=written(folder, rows), **options)


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": [{"role": "user", "content": "Which?"}], "chosen": [{"role": "assistant", "content": "this"}], "rejected": "that"},
        {"prompt": {"role": "user", "content": "Which?"}, "chosen": {"role": "assistant", "content": "this"}, "rejected": "that"},
    ],
    ids=["strings", "messages", "message"],
)
def test_rows_are_read_in_the_forms_of_trl(tmp_path, row):
    split = Preferences(path=written(tmp_path, [row]), validation_share=0.0).split("train")
    samples = [split.sample(i) for i in range(2)]
    assert [s.label for s in samples] == [1, 0] and samples[0].group == samples[1].group
    assert [s.inputs["conversation"].answer for s in samples] == ["this", "that"] and samples[0].answers == ["this"]
    assert {s.inputs["conversation"].question().messages[0].text for s in samples} == {"Which?"}


def test_whole_conversations_need_no_prompt(tmp_path):
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    row = {key: [*said, {"role": "assistant", "content": key}] for key in ("chosen", "rejected")}
    split = Preferences(path=written(tmp_path, [row]), validation_share=0.0).split("train")
    assert [m.text for m in split.sample(1).inputs["conversation"].messages] == ["a", "b", "c", "rejected"]


def test_pictures_are_found_beside_the_file_and_marked_in_the_prompt(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    rows = [{**PAIR, "image": "red.png"}, {**PAIR, "prompt": "It is <image>?", "images": ["red.png"]}]
    split = Preferences(path=written(tmp_path, rows), validation_share=0.0).split("train")
    first, second = (split.sample(i).inputs["conversation"] for i in (0, 2))
    assert first.messages[0].text == "<image>\nWhich?" and first.images == second.images == (tmp_path / "red.png",)
    assert second.messages[0].text == "It is <image>?"


def test_single_answers_have_labels(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "x", "label": label} for i, label in enumerate((True, False, 1))]
    source = Preferences(path=written(tmp_path, rows), validation_share=0.0)
    split = source.split("train")
    assert [split.sample(i).label for i in range(3)] == [1, 0, 1] and not source.paired
    assert len({split.sample(i).group for i in range(3)}) == 3


def test_every_batch_holds_whole_pairs_and_follows_from_seed_and_epoch(tmp_path):
    split = pairs(tmp_path, validation_share=0.0).split("train")
    assert (split.order(1, 2) == split.order(1, 2)).all() and not (split.order(1, 2) == split.order(1, 3)).all()
    assert sorted(split.order(0, 0)) == list(range(40))
    for rank in range(2):
        sampler = StepSampler(len(split), batch_size=8, seed=3, start=0, stop=9, rank=rank, world_size=2, order=split.order)
        for draws in sampler:
            groups = [split.sample(draw.index).group for draw in draws]
            assert groups[::2] == groups[1::2] and len(set(groups)) == 2


def test_a_prompt_is_in_one_split_wherever_it_stands(tmp_path):
    first = pairs(tmp_path, 200, validation_share=0.3)
    ids = {
        name: {first.split(name).sample(i).inputs["conversation"].messages[0].text for i in range(len(first.split(name)))}
        for name in first.splits
    }
    assert len(ids["train"]) + len(ids["validation"]) == 200 and 30 < len(ids["validation"]) < 90
    longer = pairs(tmp_path, 210, validation_share=0.3).split("validation")
    assert ids["validation"] <= {longer.sample(i).inputs["conversation"].messages[0].text for i in range(len(longer))}
    assert first.captions()[0].startswith("Question") and np.issubdtype(first.split("train").order(0, 0).dtype, np.integer)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "chosen": "a"}, "no key 'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": 3}, "rejected: holds int"),
        ({"prompt": "q", "completion": "a", "label": "yes"}, "label: 'yes'; allowed are true and false"),
        ({"prompt": "q", "completion": "a"}, "no key 'label'"),
        ({**PAIR, "chosen": " "}, "an answer is empty"),
        ({"chosen": "a", "rejected": "b"}, "an answer is empty, or has no prompt"),
        ({**PAIR, "prompt": "<image> q"}, "holds 0 images but 1 `<image>`"),
        ({**PAIR, "prompt": [{"role": "usr", "content": "q"}]}, "no role 'usr'"),
        ("{", "JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_or_left_out(tmp_path, row, message):
    path = written(tmp_path, [PAIR, row])
    with pytest.raises(zoo.DataError, match="1 rows cannot be used .line 2: ") as error:
        Preferences(path=path)
    assert message in str(error.value)
    assert len(Preferences(path=path, on_bad="skip", validation_share=0.0).split("train")) == 2


def test_files_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(zoo.DataError, match="is not a JSON-lines file"):
        Preferences(path=tmp_path / "none.jsonl")
    with pytest.raises(zoo.DataError, match="holds pairs .* and single answers"):
        Preferences(path=written(tmp_path, [PAIR, {"prompt": "q", "completion": "a", "label": True}]))
    with pytest.raises(zoo.DataError, match="holds no row"):
        Preferences(path=written(tmp_path, []))
    with pytest.raises(zoo.DataError, match="the split 'validation' has no prompt"):
        Preferences(path=written(tmp_path, [PAIR]), validation_share=0.0).split("validation")
    with pytest.raises(zoo.ConfigError, match="split: there is no 'tran'"):
        pairs(tmp_path).split("tran")
    with pytest.raises(zoo.ConfigError, match="validation_share: 1.0"):
        Preferences(path=written(tmp_path, [PAIR]), validation_share=1.0)
