"""Conversations from files of the user."""

import json

import numpy as np
import pytest
from PIL import Image

from zoo.data.loader import ProcessedSplit, StepSampler, evaluation_loader, training_loader
from zoo.data.skips import Tolerant
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError
from zoo.processors.conversation import ConversationProcessor
from zoo.processors.image import ImageProcessor
from zoo.sources.instruct import Instruct, WeightedOrder


def llava(number, **more):
    said = [{"from": "human", "value": f"<image>\nquestion {number}?"}, {"from": "gpt", "value": f"answer {number}"}]
    return {"id": str(number), "image": "a.png", "conversations": said, **more}


def messages(number):
    return {"messages": [{"role": "user", "content": f"question {number}?"}, {"role": "assistant", "content": f"answer {number}"}]}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "rows.json").write_text(json.dumps([llava(number) for number in range(200)]))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(messages(number)) for number in range(50)) + "\n\n")
    return tmp_path


def processor_of(source):
    part = ConversationProcessor(vocab_size=400, context_length=128)
    part.fit(source.captions())
    part.counts = {"image": lambda item: 2}
    return Processor({"image": ImageProcessor(image_size=8), "conversation": part})


def test_json_and_json_lines_are_read_with_pictures_beside_the_file(folder):
    source = Instruct(path=[folder / "rows.json", folder / "rows.jsonl"], validation=folder / "rows.jsonl")
    split = source.split("train")
    first, last = split.sample(0), split.sample(len(split) - 1)
    assert len(split) == 250 and first.inputs["conversation"].images == (folder / "a.png",) and first.answers == ["answer 0"]
    assert last.id == "rows.jsonl:50" and last.inputs["conversation"].messages[0].text == "question 49?"
    assert len(source.split("validation")) == len(source.split("test")) == 50
    batch = next(iter(evaluation_loader(ProcessedSplit(split, processor_of(source)), batch_size=4)))
    assert batch.inputs["image"].shape == (4, 3, 8, 8) and (batch.inputs["text"] < 0).sum() == 8


def test_one_in_fifty_is_for_validation_and_never_for_training(folder):
    source = Instruct(path=folder / "rows.json")
    ids = {name: {row.number for row in source.split(name).rows} for name in ("train", "validation")}
    assert not ids["train"] & ids["validation"] and len(ids["train"] | ids["validation"]) == 200 and 1 <= len(ids["validation"]) <= 12


def test_files_are_mixed_by_their_weights(folder):
    source = Instruct(path=[folder / "rows.json", folder / "rows.jsonl"], weights=[1, 3], validation=folder / "rows.jsonl")
    order = source.split("train").order(0, 0)
    assert len(order) == 250 and np.isclose((order >= 200).mean(), 0.75, atol=0.01)
    assert (order == source.split("train").order(0, 0)).all() and (order != source.split("train").order(0, 1)).any()
    counts = np.bincount(WeightedOrder([2, 4], [1, 1])(0, 0), minlength=6)
    assert counts[:2].sum() == counts[2:].sum() == 3 and counts[:2].max() - counts[:2].min() <= 1
    assert Instruct(path=folder / "rows.json").split("train").order is None


def test_bad_rows_are_skipped_with_their_reasons_counted(folder):
    rows = [llava(0), llava(1, image=["a.png", "a.png"]), llava(2, image="gone.png"), llava(3)]
    rows[3]["conversations"][1]["value"] = " "
    lines = [json.dumps(row) for row in rows] + ["{not json", json.dumps({"text": "no"})] + [json.dumps(llava(n)) for n in range(4, 40)]
    (folder / "bad.jsonl").write_text("\n".join(lines))
    source = Instruct(path=folder / "bad.jsonl", validation=folder / "rows.jsonl")
    data = ProcessedSplit(Tolerant(source, "skip", 0.5).split("train"), processor_of(source))
    sampler = StepSampler(len(data), batch_size=6, seed=0, start=0, stop=len(data) // 6)
    batches = list(training_loader(data, sampler))
    assert all(len(batch) == 6 for batch in batches)  # the next good one stands in for each
    assert set(data.skips.counts) == {"markers", "empty", "json", "conversation", "other"}  # the last: a file that is not there
    assert any("gone.png" in example for example in data.skips.examples["other"])
    with pytest.raises(DataError, match=r"conversation bad.jsonl:2 holds 2 images but 1 `<image>`"):
        source.split("train").sample(1)


def test_reference_answers_and_kinds_are_kept(folder):
    (folder / "asked.jsonl").write_text(json.dumps(llava(0, answers=["yes", "yes", "no"], kind="open")))
    source = Instruct(path=folder / "rows.json", test=folder / "asked.jsonl")
    sample = source.split("test").sample(0)
    assert sample.answers == ["yes", "yes", "no"] and sample.kind == "open"


def test_what_cannot_be_read_is_refused(folder):
    with pytest.raises(DataError, match="nothing.json: no such file"):
        Instruct(path=folder / "nothing.json")
    (folder / "empty.json").write_text("[]")
    with pytest.raises(DataError, match="holds no conversation to train on"):
        Instruct(path=[folder / "rows.json", folder / "empty.json"])
    (folder / "cut.json").write_text('[{"a": ')
    with pytest.raises(DataError, match="is not JSON that can be read"):
        Instruct(path=folder / "cut.json")
    with pytest.raises(ConfigError, match="weights: .* for 1 file"):
        Instruct(path=folder / "rows.json", weights=[1, 2])
    (folder / "one.json").write_text(json.dumps([llava(0)]))
    with pytest.raises(DataError, match=r"the split has no conversation; give a file with data\.source\.validation"):
        Instruct(path=folder / "one.json").split("validation")
