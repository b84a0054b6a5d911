"""Options --device and --precision: on every command that runs a model, with one meaning everywhere."""

import json

import pytest
import torch

import zoo
from zoo.assembly import placement
from zoo.assembly.placement import find_device, find_precision
from zoo.commands.cli import _parser, main
from zoo.commands.model_options import RUNS_A_MODEL
from zoo.layers.low_precision.cpu import has_fbgemm
from zoo.layers.low_precision.modes import DTYPES, precision_of

NO_MODEL = {
    *("list", "info", "check", "export", "fetch", "compare", "completion", "fit-scaling", "guide", "doctor", "install"),
    "train",  # has training.precision, and Accelerate chooses the device
}


def test_every_command_that_runs_a_model_has_device_and_precision():
    commands = _parser()._subparsers._group_actions[0].choices
    assert set(commands) - NO_MODEL == set(RUNS_A_MODEL)
    for name in RUNS_A_MODEL:
        assert {"--device", "--precision"} <= set(commands[name]._option_string_actions), name


@pytest.mark.parametrize(
    "words",
    [
        ["classify", "PICTURES", "--labels", "a,b"],
        ["embed", "PICTURES", "-o", "index"],
        ["chat", "hello", "--model", "none"],
        ["speak", "seven", "-o", "s.wav"],
        ["draw-graph", "PICTURES/a.png"],
        ["evaluate", "checkpoint=clip_vit_nano", "data=digits"],
        ["interpolate", "clip_vit_nano", "clip_vit_nano", "-o", "mean"],
    ],
)
def test_an_unknown_precision_or_device_is_refused(words, tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "PICTURES").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "PICTURES" / "a.png")
    assert main([*words, "--precision", "fp8"]) == 2
    assert "precision: there is no 'fp8'" in capsys.readouterr().err
    assert main([*words, "--device", "gpu9"]) == 2
    assert "device: gpu9 cannot be used here" in capsys.readouterr().err


def test_auto_is_the_accelerator_where_there_is_one(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu") and find_device(None) is None
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda", 0))
    assert find_device("auto") == torch.device("cuda", 0) and find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("word", DTYPES)
def test_models_are_made_and_loaded_in_a_precision(word):
    for model in (zoo.create_model("vit_nano", precision=word), zoo.load("clip_vit_nano", precision=word, device="auto")):
        assert precision_of(model) == word
        assert next(model.parameters()).dtype == (torch.float32 if word == "fp16" and has_fbgemm() else DTYPES[word])
    with pytest.raises(zoo.ConfigError, match="contradicts dtype=torch.int8"):
        zoo.create_model("vit_nano", precision=word, dtype=torch.int8)


def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    assert find_precision("auto", device=torch.device("cuda")) == "bf16"
    assert find_precision("auto", device=torch.device("cpu")) == find_precision("auto") == "fp32" and find_precision(None) is None
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: False)
    assert find_precision("auto", device=torch.device("cuda")) == "fp32"


def test_bf16_on_a_cpu_without_its_instructions_is_warned_of_once(monkeypatch, caplog):
    for name in ("has_bf16", "has_amx"):
        monkeypatch.setattr(f"zoo.layers.low_precision.cpu.{name}", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    placement._warn_once.cache_clear()
    for _ in range(2):
        find_precision("bf16", device=torch.device("cpu"), key="--precision")
        find_precision("bf16", device=torch.device("cuda"))
        find_precision("fp32")
    (message,) = caplog.messages
    assert message.startswith("--precision: bf16: this CPU has no bfloat16 instructions")
    placement._warn_once.cache_clear()


def test_the_precision_of_an_evaluation_stands_in_its_metrics(tmp_path):
    words = [
        "checkpoint=clip_vit_nano",
        "data=digits",
        "evaluation=zero_shot",
        "evaluation.limit=20",
        f"output={tmp_path / 'out'}",
        "--precision",
        "int8",
    ]
    assert main(["evaluate", *words]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["precision"] == "int8"


def test_an_index_in_int8_is_neither_continued_nor_confused_with_fp32(pictures, capsys):
    assert main(["embed", "pictures", "-o", "index", "--model", "clip_vit_nano", "--precision", "int8"]) == 0
    assert main(["search", "three", "--index", "index", "--precision", "int8", "--json"]) == 0
    assert main(["embed", "pictures", "-o", "index", "--model", "clip_vit_nano"]) == 2
    assert precision_of(zoo.load("clip_vit_nano", precision="int8")) == "int8"


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder with three pictures of noise."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for n in range(3):
        pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
        Image.fromarray(pixels.numpy()).save(tmp_path / "pictures" / f"{n}.png")
    return tmp_path


def test_an_index_of_one_precision_is_searched_in_another(pictures, capsys):
    assert main(["embed", "pictures", "-o", "index", "--model", "clip_vit_nano", "--precision", "bf16"]) == 0
    for word in ("fp32", "fp16"):
        assert main(["search", "three", "--index", "index", "--precision", word, "--json"]) == 0
    assert main(["embed", "pictures", "-o", "index", "--model", "clip_vit_nano"]) == 2  # the job goes on in its own precision only
    assert main(["search", "three", "--index", "index", "--model", "clip_vig_nano"]) == 2
    assert "was made with other weights" in capsys.readouterr().err


def test_the_graph_of_an_image_is_drawn_in_half_precision(pictures):
    assert main(["draw-graph", "pictures/0.png", "-o", "graph.png", "--precision", "bf16"]) == 0
