"""``zoo answer``: the file of answers, its media, and the resume of an interrupted job."""

import json
import wave

import numpy as np
import pytest
import torch

import zoo
from zoo.commands.answer import AnswerWriter
from zoo.commands.cli import main
from zoo.processors.chat.messages import Conversation, Message
from zoo.processors.media.image_file import open_image
from zoo.sources.instruct import Instruct
from zoo.types import Sample, Split


class Questions(Split):
    """Item i shows a square of brightness 10 i, and every third a clip; item 4 cannot be read."""

    def __len__(self):
        return 11

    def sample(self, index, generator=None):
        if index == 4:
            raise zoo.DataError("item 4: cannot be read")
        image, clip = np.full((4, 4), 10 * index, dtype=np.uint8), np.full(80, index / 100, dtype=np.float32)
        heard = index % 3 == 0
        sound = (clip, 8000) if index == 3 else clip  # with a rate of its own, or at the processor's
        said = (Message("user", f"<image>{'<audio>' if heard else ''}\nWhat?"), Message("assistant", "as the data has it"))
        return Sample(f"q{index}", {"conversation": Conversation(said, (image,), (sound,) if heard else (), id=f"q{index}")})


class Teacher:
    """Stub that answers with brightness and seed, with an empty text for item 7, and raises after ``calls`` calls."""

    encoders = {}

    processor = None

    def __init__(self, calls=None):
        self.calls, self.asked = calls, 0

    def generate(self, prompts, *, seed, **options):
        if self.calls is not None and self.asked == self.calls:
            raise KeyboardInterrupt
        self.asked += 1
        return ["" if prompt.images[0].max() == 70 else f" {prompt.images[0].max()} by {seed} " for prompt in prompts]


def run(output, teacher, **job):
    return AnswerWriter(output, {"checkpoint": "a", **job}).run(teacher, Questions(), {"temperature": 1.0}, None, seed=5, batch_size=3)


def test_the_file_holds_the_teachers_answers_and_is_data_for_another(tmp_path):
    found = run(tmp_path / "out.jsonl", Teacher())
    assert (found.answers, found.empty, found.faults) == (9, 1, ["item 4: cannot be read"])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["messages"][-1]["content"] for row in rows[:4]] == ["0 by 5", "10 by 5", "20 by 5", "30 by 6"]
    source = Instruct(path=str(tmp_path / "out.jsonl"), validation=str(tmp_path / "out.jsonl"))
    conversation = source.split("validation").sample(3).inputs["conversation"]
    assert conversation.answer == "30 by 6" and np.asarray(open_image(conversation.images[0])).max() == 30
    with wave.open(str(conversation.audio[0])) as file:
        assert (file.getframerate(), file.getnframes()) == (8000, 80)
    assert not list(tmp_path.glob(".*"))


def test_a_job_that_was_stopped_goes_on_and_writes_the_same(tmp_path):
    run(tmp_path / "whole.jsonl", Teacher())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out.jsonl", Teacher(calls=2))
    assert not (tmp_path / "out.jsonl").exists()
    with (tmp_path / ".out.jsonl.unfinished").open("a") as file:
        file.write('{"answer": {"id": "cut in the mid')
    teacher = Teacher()
    run(tmp_path / "out.jsonl", teacher)
    assert teacher.asked == 2  # of four batches
    assert (tmp_path / "out.jsonl").read_text().replace("out_media", "whole_media") == (tmp_path / "whole.jsonl").read_text()


def test_an_unfinished_file_of_another_job_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out.jsonl", Teacher(calls=1))
    with pytest.raises(zoo.DataError, match="belongs to another job, which was interrupted"):
        run(tmp_path / "out.jsonl", Teacher(), split="test")
    with pytest.raises(zoo.DataError, match="give a file that ends in .jsonl"):
        AnswerWriter(tmp_path / "out.json", {})


def test_the_command_answers_with_a_saved_model(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    model = zoo.create_system("llava_nano")
    model.processor.fit(["what is it?", "a red ball"])
    zoo.save(model, tmp_path / "model")
    rows = [{"messages": [{"role": "user", "content": f"what {i}?"}, {"role": "assistant", "content": "it"}]} for i in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"checkpoint={tmp_path / 'model'}", "data=instruct", f"data.source.path={tmp_path / 'in.jsonl'}"]
    words += [f"data.source.validation={tmp_path / 'in.jsonl'}"]
    options = ["-o", str(tmp_path / "out.jsonl"), "--split", "validation", "--max-new-tokens", "4", "--json"]
    assert main(["answer", *words, *options]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["answers"] + told["empty"] == 4
    assert main(["answer", *words, "-o", str(tmp_path / "o.jsonl"), "--batch-size", "0"]) == 2
    assert "--batch-size: 0; allowed is 1 or more" in capsys.readouterr().err
    assert main(["answer", "checkpoint=clip_vit_nano", words[1], words[2], "-o", str(tmp_path / "o.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("zoo: ")


def test_a_second_job_is_told_and_a_full_disk_leaves_what_is_answered(tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"

    class Meeting(Teacher):
        def generate(self, prompts, **options):
            with pytest.raises(zoo.ConfigError, match="another zoo answer is writing to this file"):
                run(output, Teacher())
            return super().generate(prompts, **options)

    def full(*words):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(zoo.DataError, match="No space left on device.*same command again"):
        patch.setattr("zoo.commands.answer.write_whole", full)
        run(output, Meeting())
    run(output, Teacher(calls=1)), run(tmp_path / "whole.jsonl", Teacher())
    assert output.read_text().count("\n") == (tmp_path / "whole.jsonl").read_text().count("\n") == 9
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
