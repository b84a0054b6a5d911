"""Jobs over many workers: shares give what one process gives, a dead worker is replaced, and the same command resumes."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import zoo
from zoo.commands.cli import main
from zoo.evaluation.measures.wer import WordErrorCounter
from zoo.evaluation.results.asr_result import Recognition
from zoo.runs.jobs.evaluation_parts import _read
from zoo.runs.jobs.launchers import LAUNCHERS, Launcher, Worker, make_launcher, worker_command
from zoo.runs.jobs.parts import Parts, part_length
from zoo.runs.jobs.shares import Share, read_share
from zoo.runs.jobs.supervise import MOST_STARTS, supervise


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty small pictures, one of them damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(20):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed:02d}.png")
    (folder / "07.png").write_bytes(b"x")
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    torch.manual_seed(0)
    system = zoo.create_system("whisper_nano", ["system.head.context_length=16"])
    system.processor["transcript"].fit(["some words to learn letters from", "The End."])
    return str(zoo.save(system, tmp_path_factory.mktemp("whisper") / "model"))


def files(directory):
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def shares(words, count, order=None):
    """Run all shares of a job in this process; return the statuses."""
    return [main([*words, "--shard", f"{index}/{count}"]) for index in order or range(count)]


def test_parts_are_cut_and_shared_without_gaps(tmp_path):
    assert (part_length(20_000, 2, 64), part_length(100, 2, 4), part_length(3, 8, 1), part_length(0, 1, 1)) == (1024, 16, 1, 1)
    parts = Parts(tmp_path / "parts", {"model": "a"}, map(str, range(23)), workers=2, multiple=2)
    assert [i for part in range(parts.num_parts) for i in parts.span(part)] == list(range(23))
    assert sorted(parts.missing(Share(0, 3)) + parts.missing(Share(1, 3)) + parts.missing(Share(2, 3))) == parts.missing()
    for part in reversed(parts.missing()):
        parts.write(part, ({"i": i} for i in parts.span(part)))
    assert [line["i"] for line in parts.lines()] == list(range(23)) and parts.num_done() == 23
    again = Parts(tmp_path / "parts", {"model": "a"}, map(str, range(23)), workers=50)
    assert again.length == parts.length and not again.missing()
    parts.remove()
    assert not (tmp_path / "parts").exists()


def test_parts_of_another_job_or_of_other_inputs_are_refused(tmp_path):
    parts = Parts(tmp_path, {"model": "a", "top_k": 3}, ["x", "y"])
    assert parts.agree("weights", "1") == "1" == parts.agree("weights", "1")
    with pytest.raises(zoo.ConfigError, match="other weights than this worker"):
        parts.agree("weights", "2")
    with pytest.raises(zoo.ConfigError, match="top_k 3 is now 4"):
        Parts(tmp_path, {"model": "a", "top_k": 4}, ["x", "y"])
    with pytest.raises(zoo.ConfigError, match="2 items, now 3"):
        Parts(tmp_path, {"model": "a", "top_k": 3}, ["x", "y", "z"])
    parts.path(0).write_text("{}\n{}\n")
    with pytest.raises(zoo.DataError, match="has 2 lines for 1 items"):
        list(parts.lines())


@pytest.mark.parametrize("text", ["3", "2/2", "-1/2", "a/b", "1/0", "1/2/3"])
def test_a_share_is_i_of_n(text):
    with pytest.raises(zoo.ConfigError, match="allowed is I/N"):
        read_share(text)


def test_embedding_in_shares_gives_the_bytes_of_one_process(pictures, tmp_path, capsys):
    words = ["embed", str(pictures), "--model", "clip_vit_nano", "--batch-size", "2", "-o"]
    assert main([*words, str(tmp_path / "one")]) == 1
    assert shares([*words, str(tmp_path / "two")], 3, order=(2, 0)) == [0, 1]
    assert "other shares are missing" in capsys.readouterr().out
    assert shares([*words, str(tmp_path / "two")], 3, order=(1,)) == [0]
    assert "the same command without --shard joins them" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "two")]) == 1, "one picture is damaged"
    said = capsys.readouterr()
    assert "19 vectors; 20 items were new" in said.out and "1 of 20 items could not be read" in said.err
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_an_index_is_updated_in_shares(pictures, tmp_path, capsys):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    words = ["embed", str(folder), "--model", "clip_vit_nano", "--batch-size", "2", "-o", str(tmp_path / "index")]
    assert main(words) == 1
    (folder / "07.png").unlink(), (folder / "00.png").unlink(), shutil.copy(folder / "05.png", folder / "99.png")
    assert shares(words, 2) == [2, 2] and "1 new, 0 changed and 2 removed" in capsys.readouterr().err
    assert shares([*words, "--update"], 2) == [0, 0]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "index": str(tmp_path / "index"),
        "count": 19,
        "failed": 0,
        "embedded": 1,
    }
    assert shares(words, 2) == [0, 0] and main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["embedded"] == 0, "nothing has changed"


def test_one_process_ends_an_embedding_that_shares_began(pictures, tmp_path):
    words = ["embed", str(pictures), "--model", "clip_vit_nano", "--batch-size", "2", "-o"]
    main([*words, str(tmp_path / "one")])
    shares([*words, str(tmp_path / "two")], 2, order=(1,))
    main([*words, str(tmp_path / "two")])
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.parametrize("suffix", ["csv", "json", "html"])
def test_classification_in_shares_gives_the_file_of_one_process(suffix, pictures, tmp_path, capsys):
    words = ["classify", str(pictures), "--labels", "a cat,a dog", "--model", "clip_vit_nano", "--batch-size", "3"]
    words += ["--no-cache", "--output"]
    assert main([*words, str(tmp_path / f"one.{suffix}")]) == 1
    assert shares([*words, str(tmp_path / f"two.{suffix}")], 2) == [1, 0]
    capsys.readouterr()
    assert main([*words, str(tmp_path / f"two.{suffix}")]) == 1
    said = capsys.readouterr()
    assert "1 of 20 images could not be read" in said.err and "(20 images)" in said.out
    assert (tmp_path / f"two.{suffix}").read_bytes() == (tmp_path / f"one.{suffix}").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_transcription_in_shares_gives_the_files_of_one_process(whisper, tmp_path, capsys):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number in range(5):
        soundfile.write(folder / f"{number}.wav", np.random.default_rng(number).standard_normal(4000 + number) * 0.1, 16000)
    (folder / "3.wav").write_bytes(b"")
    words = ["transcribe", str(folder), "--model", whisper, "--format", "json,txt", "--temperatures", "0"]
    words += ["--no-speech-threshold", "none", "--log-probability-threshold", "none", "-o"]
    assert main([*words, str(tmp_path / "one")]) == 1
    assert shares([*words, str(tmp_path / "two")], 2) == [0, 1]
    capsys.readouterr()
    assert main([*words, str(tmp_path / "two")]) == 1
    said = capsys.readouterr()
    assert "1 of 5 recordings could not be read" in said.err and "4 transcripts of 0.0 minutes" in said.out
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert main([*words, str(tmp_path / "two"), "--workers", "2", "--microphone"]) == 2


def test_answers_in_shares_are_those_of_one_process(tmp_path, capsys):
    torch.manual_seed(0)
    model = zoo.create_system("llava_nano")
    model.processor.fit(["what is it?", "a red ball"])
    zoo.save(model, tmp_path / "model")
    rows = [{"messages": [{"role": "user", "content": f"what {i}?"}, {"role": "assistant", "content": "it"}]} for i in range(7)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["answer", f"checkpoint={tmp_path / 'model'}", "data=instruct", f"data.source.path={tmp_path / 'in.jsonl'}"]
    words += [f"data.source.validation={tmp_path / 'in.jsonl'}", "--split", "validation", "--max-new-tokens", "4"]
    words += ["--batch-size", "2", "--temperature", "1", "-o"]
    assert main([*words, str(tmp_path / "one.jsonl")]) == 0
    assert shares([*words, str(tmp_path / "two.jsonl")], 2) == [0, 0]
    assert main([*words, str(tmp_path / "two.jsonl")]) == 0
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Small systems with processors for the digits, by the evaluation that uses them."""
    folder = tmp_path_factory.mktemp("systems")
    clip = zoo.create_system("clip_vit_nano")
    clip.processor.fit(["a photo of the digit one", "zero two three four five six seven eight nine"])
    llava = zoo.create_system("llava_nano")
    llava.processor.fit(["what digit is it?", "one two three"])
    return {"clip": str(zoo.save(clip, folder / "clip")), "llava": str(zoo.save(llava, folder / "llava"))}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("clip", ["data=digits", "evaluation=zero_shot", "evaluation.limit=30", "evaluation.batch_size=8"]),
        ("clip", ["data=digits", "evaluation=knn_probe", "evaluation.limit=40", "evaluation.train_limit=60", "evaluation.batch_size=8"]),
        ("llava", ["data=digit_questions", "evaluation=question_answering", "evaluation.limit=7", "evaluation.batch_size=2"]),
    ],
)
def test_an_evaluation_in_shares_gives_the_figures_of_one_process(model, words, trained, tmp_path, capsys):
    words = ["evaluate", f"checkpoint={trained[model]}", *words, "--json"]
    words += ["evaluation.max_new_tokens=3"] if model == "llava" else []
    assert main([*words, f"output={tmp_path / 'one'}"]) == 0
    one = json.loads(capsys.readouterr().out.splitlines()[-1])
    for _ in range(2):  # a probe reads two splits: the shares do the second one when all of the first are done
        assert shares([*words, f"output={tmp_path / 'two'}"], 2) == [0, 0]
    capsys.readouterr()
    assert main([*words, f"output={tmp_path / 'two'}"]) == 0
    two = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {**two, "output": one["output"]} == one and not list(tmp_path.glob(".*"))


def test_results_of_parts_cannot_run_code(tmp_path):
    compared = WordErrorCounter("none")("a b", "a c")
    torch.save([Recognition("x", "", None, 1.0, "a c", compared, compared)], tmp_path / "asr.pt")
    assert _read(tmp_path / "asr.pt")[0].compared.words.errors == 1
    torch.save((os.system, "true"), tmp_path / "x.pt")
    with pytest.raises(zoo.DataError, match="x.pt: cannot be read"):
        _read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers: 0; allowed is 1 or more"),
        (["--launcher", "ray"], "nothing is launched; add --workers N"),
        (["--workers", "2", "--shard", "0/2"], "give one of the two"),
        (["--workers", "2", "--launcher", "slurm"], "there is no 'slurm'"),
        (["--workers", "2", "--launcher-option", "x=1"], "the launcher local has no options"),
        (["--workers", "2", "--launcher-option", "x"], "allowed is KEY=VALUE"),
        (["--shard", "0/2", "--restart"], "one share would delete the work of the others"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message, pictures, tmp_path, capsys):
    assert main(["embed", str(pictures), "-o", str(tmp_path / "index"), "--model", "clip_vit_nano", *options]) == 2
    assert message in capsys.readouterr().err


def test_several_workers_need_an_output(pictures, capsys):
    assert main(["classify", str(pictures), "--labels", "a,b", "--model", "clip_vit_nano", "--workers", "2"]) == 2
    assert "several workers need a file to write" in capsys.readouterr().err


def test_a_worker_gets_the_command_of_the_job_with_its_share():
    words = ["embed", "F", "--workers", "3", "--launcher=ray", "--launcher-option", "num_cpus=1", "--restart", "-o", "D"]
    assert worker_command(words, 1, 3)[1:] == ["-m", "zoo", "embed", "F", "-o", "D", "--shard", "1/3"]


class Scripted(Launcher, Worker):
    """Launcher whose workers end at once with the statuses of a script."""

    def __init__(self, statuses, message="", done=None):
        super().__init__({}, 1)
        self.statuses, self.message, self.stopped, self.done = list(statuses), message, 0, done

    def start(self, command, number, log):
        log.write_text(self.message)
        if self.done is not None:
            self.done.append(1)
        return self

    def poll(self):
        return self.statuses.pop(0)

    def stop(self):
        self.stopped += 1


def run(launcher, folder, num_done=lambda: 0, workers=1):
    supervise(launcher, ["embed"], workers, folder, num_done, lambda items: None)


def test_a_dead_worker_is_started_again_and_a_deadly_item_ends_the_job(tmp_path):
    run(Scripted([-9, 3, 0]), tmp_path)
    with pytest.raises(
        zoo.DataError, match=rf"died {MOST_STARTS} times in a row \(signal 9, perhaps for lack of memory\)(.|\n)*worker_0.log"
    ):
        run(Scripted([-9] * MOST_STARTS), tmp_path)
    done = []
    run(Scripted([-9] * 5 + [0], done=done), tmp_path, lambda: len(done))  # each start finished a part


def test_a_users_mistake_stops_all_workers_with_its_message(tmp_path):
    launcher = Scripted([2], "some warning\nzoo: --model: there is no 'x'\ndid you mean y?")
    with pytest.raises(zoo.ConfigError, match="^--model: there is no 'x'\ndid you mean y\\?$"):
        run(launcher, tmp_path, workers=2)
    assert launcher.stopped == 1


def test_a_missing_engine_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(zoo.ConfigError, match=r"zoo install ray"):
        make_launcher("ray", {}, 1)
    assert set(LAUNCHERS) == {"local", "submitit", "ray"}


def kill_one(directory):
    """Kill the first of two workers once it has the queue of its job; return False if it cannot be found."""
    for _ in range(12_000):
        time.sleep(0.01)
        if not (directory / ".unfinished" / "queue.json").exists():
            continue
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except OSError:
                continue
            if str(directory).encode() in command and b"--shard\x000/2" in command:
                os.kill(int(path.parent.name), signal.SIGKILL)
                return True
    return False


@pytest.mark.heavy
def test_two_local_workers_of_which_one_is_killed_give_the_index_of_one_process(pictures, tmp_path, capsys):
    words = ["embed", str(pictures), "--model", "clip_vit_nano", "--batch-size", "1", "-o"]
    assert main([*words, str(tmp_path / "one")]) == 1
    killer = Thread(target=kill_one, args=(tmp_path / "two",))
    killer.start()
    assert main([*words, str(tmp_path / "two"), "--workers", "2"]) == 1
    killer.join()
    said = capsys.readouterr()
    assert "--workers counts processes" in said.err and "1 of 20 items could not be read" in said.err
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["submitit", "ray"])
def test_engines_run_workers(launcher, pictures, tmp_path):
    pytest.importorskip(launcher, reason=f"{launcher} is an extra")
    words = ["classify", str(pictures), "--labels", "a,b", "--model", "clip_vit_nano", "--no-cache", "--output"]
    options = {"submitit": ["--launcher-option", "cluster=local"], "ray": ["--launcher-option", "num_cpus=0.5"]}[launcher]
    assert main([*words, str(tmp_path / "one.csv")]) == 1
    assert main([*words, str(tmp_path / "two.csv"), "--workers", "1", "--launcher", launcher, *options]) == 1
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
