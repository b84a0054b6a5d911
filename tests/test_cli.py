"""Command line: exit status, messages, files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.commands.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    system = zoo.create_model("clip_vit_nano")
    system.processor.fit(["a photo of a cat", "a photo of a dog"])
    return str(zoo.save(system, tmp_path_factory.mktemp("models") / "model"))


@pytest.fixture
def pictures(tmp_path):
    """One of each kind of file that a folder may hold."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "plain.png")
    Image.fromarray(noise).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise).convert("P").save(folder / "palette.gif")
    Image.fromarray((noise[..., 0].astype(np.uint16)) * 257).save(folder / "sixteen.png")
    Image.new("RGB", (20000, 4)).save(folder / "wide.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "plain.png").read_bytes()[:500])
    return folder


def test_a_users_mistake_is_six_lines_at_most_without_traceback(capsys, monkeypatch):
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    assert main(["info", "vit_nan"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'vit_nano'" in said and "Traceback" not in said and len(said.splitlines()) <= 6


def test_zoo_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("ZOO_DEBUG", "1")
    with pytest.raises(zoo.ConfigError):
        main(["info", "vit_nan"])


def test_list_gives_json_lines(capsys):
    assert main(["list", "vit_nano", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "vit_nano", "kind": "encoder", "family": "vit", "modalities": ["image"]}


def test_info_tells_parameters_tokens_and_memory(capsys):
    assert main(["info", "clip_vit_b32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == 151_277_313 and told["tokens"] == {"image": 50, "text": 77}


def test_check_names_every_edge(capsys):
    assert main(["check", "--json"]) == 0
    targets = [edge["target"] for edge in json.loads(capsys.readouterr().out)["edges"]]
    assert {"system.encoders.image", "system.encoders.text", "system.head", "loss"} <= set(targets)


def test_classify_goes_on_after_bad_files_and_counts_them(model, pictures, capsys):
    status = main(["classify", str(pictures), "--labels", "cat,dog", "--model", model, "--json"])
    said = capsys.readouterr()
    found = {line["path"].rpartition("/")[2]: line for line in map(json.loads, said.out.splitlines())}
    assert status == 1 and "2 of 7 images could not be read" in said.err
    assert {name for name, line in found.items() if line["error"]} == {"empty.png", "cut.png"}
    assert all(len(line["labels"]) == 2 for line in found.values() if not line["error"])


@pytest.mark.parametrize("suffix", ["csv", "json", "html"])
def test_classify_writes_reports(model, pictures, tmp_path, suffix):
    output = tmp_path / f"found.{suffix}"
    assert main(["classify", str(pictures / "plain.png"), "--labels", "cat,dog", "--model", model, "--output", str(output)]) == 0
    text = output.read_text()
    if suffix == "csv":
        assert next(csv.DictReader(text.splitlines()))["label_1"] in ("cat", "dog")
    assert "plain.png" in text and "dog" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.png", "--labels", "cat,dog"], "no such file"),
        (["PICTURE", "--labels", "cat,cat"], "'cat' given more than once"),
        (["PICTURE", "--labels", "cat,,dog"], "label 2 of 3 is empty"),
        (["PICTURE", "--labels-file", "nowhere.txt"], "nowhere.txt: no such file"),
        (["PICTURE", "--labels", "cat", "--output", "found.xls"], "allowed are .csv, .json, .html"),
        (["PICTURE", "--labels", "cat", "--top-k", "0"], "allowed is 1 or more"),
        (["PICTURE", "--labels", "cat", "--model", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_wrong_input_to_classify_is_refused(model, pictures, capsys, words, message):
    words = [str(pictures / "plain.png") if word == "PICTURE" else word for word in words]
    assert main(["classify", "--model", model, *words]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) <= 6


def test_labels_and_templates_come_from_files(model, pictures, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("cat\ndog\n\n")
    (tmp_path / "templates.txt").write_text("a photo of a {}\na drawing of a {}\n")
    words = ["--labels-file", str(tmp_path / "labels.txt"), "--templates", str(tmp_path / "templates.txt")]
    assert main(["classify", str(pictures / "plain.png"), "--model", model, "--json", *words]) == 0
    assert set(json.loads(capsys.readouterr().out)["labels"]) == {"cat", "dog"}


@pytest.mark.heavy
def test_a_sweep_trains_each_job_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["training.max_steps=2", "training.batch_size=8", "training.evaluate_every=0", "system.encoders.image.drop_path=0.1"]
    assert main(["train", "-m", "run_dir=sweep", "seed=0,1", *small]) == 0
    seeds = [(tmp_path / "sweep" / str(job) / "config.yaml").read_text().count(f"seed: {job}\n") for job in (0, 1)]
    assert seeds == [1, 1]
    assert not Path("multirun.yaml").exists(), "a sweep writes into its own folder only"


def test_hydra_shows_the_config_of_a_job(capsys):
    assert main(["train", "--cfg", "job", "training.max_steps=7"]) == 0
    assert "max_steps: 7" in capsys.readouterr().out


def test_a_foreign_class_in_hydras_own_node_is_refused(capsys):
    assert main(["train", "-m", "seed=0", "+hydra.callbacks.mine._target_=os.system"]) == 2
    assert "names code" in capsys.readouterr().err


def test_a_trained_classifier_classifies_among_its_own_classes(tmp_path, capsys):
    system = zoo.create_model("classifier_vit_nano", head={"class_names": ["even", "odd", "neither"]})
    zoo.save(system, tmp_path / "model")
    words = ["classify", "assets/samples", "--model", str(tmp_path / "model"), "--json"]
    assert main(words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 6 and all(set(line["labels"]) == {"even", "odd", "neither"} for line in lines)
    assert main([*words, "--labels", "a,b"]) == 2
    assert "with fixed classes" in capsys.readouterr().err


def test_a_zero_shot_model_asks_for_labels(capsys):
    assert main(["classify", "assets/samples", "--model", "clip_vit_nano"]) == 2
    assert "give --labels" in capsys.readouterr().err
