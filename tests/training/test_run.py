"""Training runs from the command line."""

import json
from importlib.metadata import version

import pytest
import torch
import yaml
from PIL import Image

import zoo
from zoo.assembly.compose import compose
from zoo.runs.evaluate import evaluate
from zoo.runs.first_weights import start_from
from zoo.runs.run_directory import read_run_config
from zoo.runs.train import train
from zoo.storage.places import packaged_directory
from zoo.storage.tensors import read_tensors
from zoo.training.curves import draw_curves
from zoo.training.log import read_lines
from zoo.training.state import states

SMALL = [
    "training.max_steps=6",
    "training.batch_size=16",
    "training.checkpoint_every=3",
    "training.evaluate_every=3",
    "training.log_every=1",
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.training.loop.draw_curves", draw_curves)  # the figure, which other runs of the tests leave out
        train(compose("train", [*SMALL, f"run_dir={folder}"]))
    return folder


def test_a_run_leaves_config_environment_log_curves_state_and_models(run_dir):
    expected = {"config.yaml", "environment.json", "metrics.jsonl", "timing.jsonl", "curves.png", "state", "best", "last", "processor"}
    assert expected <= {path.name for path in run_dir.iterdir()}
    with Image.open(run_dir / "curves.png") as curves:
        assert curves.format == "PNG"
    assert not [path for path in run_dir.rglob("*") if path.name.endswith((".tmp", ".old"))]
    assert json.loads((run_dir / "environment.json").read_text())["versions"]["torch"] == version("torch")


def test_the_log_has_every_step_and_evaluation(run_dir):
    lines = read_lines(run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6]


def test_old_states_are_dropped(run_dir):
    assert [path.name for path in states(run_dir)] == ["step_000000006"]


def test_a_run_directory_in_use_is_refused(run_dir):
    with pytest.raises(zoo.ConfigError, match="holds a run already; resume it"):
        train(compose("train", [*SMALL, f"run_dir={run_dir}"]))


def test_resuming_what_is_no_run_is_refused(tmp_path, capsys):
    from zoo.commands.cli import main

    assert main(["train", f"resume={tmp_path}"]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_evaluation_uses_the_runs_own_data_and_writes_its_figures(run_dir, tmp_path):
    result, output = evaluate({"checkpoint": str(run_dir), "output": str(tmp_path / "out")})
    written = json.loads((output / "metrics.json").read_text())
    assert written["top1"] == result.metrics["top1"] and written["items"] == result.num_items == 359
    assert (output / "confusion.png").stat().st_size > 1000


def test_a_loss_that_is_not_finite_stops_with_the_items(tmp_path, run_dir):
    config = compose("train", [*SMALL, f"run_dir={tmp_path / 'run'}", "training.learning_rate=1e30", "training.clip_gradients=null"])
    with pytest.raises(zoo.DataError, match=r"not finite at step \d+; its batch holds digits:\d+, digits:"):
        train(config)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(zoo.ConfigError, match="training.batch_size: 5000 is more than the 1258 training items"):
        train(compose("train", [f"run_dir={tmp_path / 'run'}", "training.batch_size=5000"]))
    assert not (tmp_path / "run").exists()  # so that the mended command can use it


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(zoo.ConfigError, match="training.trackers.*wandbb"):
        train(compose("train", [*SMALL, f"run_dir={tmp_path / 'run'}", "training.trackers=[wandbb]"]))
    assert not (tmp_path / "run").exists()


def test_bf16_averaging_and_accumulation_train(tmp_path):
    words = ["training.precision=bf16", "training.ema_decay=0.5", "training.accumulate=2", "training.trackers=[tensorboard]"]
    result = train(compose("train", [*SMALL, f"run_dir={tmp_path / 'run'}", *words]))
    assert result.metrics["loss"] < 4 and list((tmp_path / "run" / "tracked").iterdir())


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "inverse_sqrt"])
def test_schedules_warm_up_and_stay_between_zero_and_peak(schedule):
    from zoo.training.schedule import learning_rate_at

    rates = [learning_rate_at(s, peak=1.0, final=0.0, warmup_steps=4, max_steps=20, schedule=schedule) for s in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(0 <= rate <= 1 for rate in rates)
    assert schedule == "constant" or rates[-1] < rates[4]


def test_the_linear_schedule_is_the_row_in_its_docstring():
    from zoo.training.schedule import learning_rate_at

    rates = [learning_rate_at(s, peak=1.0, final=0.0, warmup_steps=2, max_steps=6, schedule="linear") for s in range(6)]
    assert rates == [0.5, 1, 1, 0.75, 0.5, 0.25]


def test_only_matrices_decay():
    from zoo.training.optim import parameter_groups

    system = zoo.create_model("clip_vit_nano")
    decayed, undecayed = parameter_groups(system, 0.1)
    named = {id(p): name for name, p in system.named_parameters()}
    names = {named[id(p)] for p in undecayed["params"]}
    assert {"head.logit_scale", "encoders.image.positions", "encoders.image.class_token", "encoders.text.positions"} <= names
    assert all(p.ndim >= 2 for p in decayed["params"]) and undecayed["weight_decay"] == 0


SHORT = ["training.max_steps=2", "training.batch_size=4", "training.evaluate_every=0", "training.log_every=1"]
CLASSIFIER = ["system=classifier_vit_nano", *SHORT]


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes."""
    for name in ("ankle_boot", "bag"):
        (tmp_path / "pictures" / "train" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 30), (60 * i, 0, 0)).save(tmp_path / "pictures" / "train" / name / f"{i}.png")
    return tmp_path / "pictures"


def test_a_classifier_takes_its_classes_from_the_data_and_keeps_them(pictures, tmp_path):
    run_dir = tmp_path / "run"
    train(compose("train", [*CLASSIFIER, "data=folder", f"data.source.path={pictures}", "data.num_workers=0", f"run_dir={run_dir}"]))
    names = ["ankle boot", "bag"]
    for config in (read_run_config(run_dir), yaml.safe_load((run_dir / "last" / "config.yaml").read_text())):
        assert config["system"]["head"] == {"name": "classifier", "num_classes": 2, "class_names": names}
    assert zoo.load(run_dir).head.class_names == names
    assert "top1" in read_lines(run_dir / "metrics.jsonl")[-1]


def test_a_classifier_needs_no_captions(tmp_path, monkeypatch):
    from zoo.sources.digit_pairs import DigitPairs

    monkeypatch.delattr(DigitPairs, "captions")
    train(compose("train", [*CLASSIFIER, "data=digit_pairs", f"run_dir={tmp_path / 'run'}"]))
    assert zoo.load(tmp_path / "run").head.num_classes == 100


def test_another_number_of_classes_is_refused_by_check_and_where_only_the_data_know_it_by_train(pictures, tmp_path):
    with pytest.raises(zoo.ConfigError, match="system.head.num_classes: 1000, but .* data.source has 10 classes"):
        zoo.check(compose("train", ["system=classifier_vit_tiny_patch16_224", "system.head.num_classes=1000"]))
    words = [*CLASSIFIER, "system.head.num_classes=3", "data=folder", f"data.source.path={pictures}", f"run_dir={tmp_path / 'run'}"]
    zoo.check(compose("train", words))
    with pytest.raises(
        zoo.ConfigError, match=r"num_classes: 3, but .* 2 classes \(ankle boot, bag\); set system.head.num_classes=2, or null"
    ):
        train(compose("train", words))


def test_a_run_starts_from_the_weights_of_another_and_its_tokenizer(tmp_path):
    freeze = "training.freeze=[encoders,head.projections]"
    train(compose("train", [*SHORT, "weights=clip_vit_nano", freeze, "training.ema_decay=0.5", f"run_dir={tmp_path / 'run'}"]))
    bundled = packaged_directory("assets") / "clip_vit_nano"
    ours, theirs = (read_tensors(folder / "model.safetensors") for folder in (tmp_path / "run" / "last", bundled))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == ["head.logit_scale"]
    assert (tmp_path / "run" / "processor" / "tokenizer.json").read_bytes() == (bundled / "tokenizer.json").read_bytes()


def test_parts_start_from_sources_of_their_own(tmp_path):
    zoo.save(zoo.create_model("text_nano"), tmp_path / "text")
    words = ["training.freeze=[encoders.image]", "weights.encoders.image=clip_vit_nano", f"run_dir={tmp_path / 'run'}"]
    train(compose("train", [*CLASSIFIER, *words]))
    encoder, bundled = zoo.load(tmp_path / "run").encoders["image"].state_dict(), zoo.load("clip_vit_nano").encoders["image"].state_dict()
    assert all(torch.equal(encoder[name], bundled[name]) for name in bundled)
    with pytest.raises(zoo.WeightsError, match=f"weights.encoders.text: {tmp_path / 'text'} brings no tokenizer for its text encoder"):
        train(compose("train", [*SHORT, f"weights.encoders.text={tmp_path / 'text'}", f"run_dir={tmp_path / 'other'}"]))


def test_a_text_encoder_brings_its_tokenizer(tmp_path):
    train(compose("train", [*SHORT, "weights.encoders.text=clip_vit_nano", f"run_dir={tmp_path / 'run'}", "data=digit_pairs"]))
    bundled = packaged_directory("assets") / "clip_vit_nano"
    assert (tmp_path / "run" / "processor" / "tokenizer.json").read_bytes() == (bundled / "tokenizer.json").read_bytes()


def test_silence_behind_a_sound_may_be_left_away(tmp_path):
    """Use an encoder trained on whole windows of 30 s in short mode."""
    strict = {"pad_to": "context", "mask": False}
    told = {"encoders": {"audio": "whisper_nano_encoder"}, "head": "llava_head_nano", "language": "llama_nano", "name": "strict"}
    whole = zoo.create_system({**told, "processor": {"audio": strict, "conversation": {"tokenizer": "characters"}}})
    whole.processor.fit(["a"])
    zoo.save(whole, tmp_path / "strict")
    short = zoo.create_system("llava_whisper_nano")
    start_from(short, {"encoders.audio": str(tmp_path / "strict")})
    assert short.processor["audio"].pad_to == "longest"
    assert torch.equal(short.encoders["audio"].state_dict()["norm.weight"], whole.encoders["audio"].state_dict()["norm.weight"])


REFUSED_WEIGHTS = {
    "weights.encoders.imag=clip_vit_nano": "weights.encoders.imag: the system has no part 'encoders.imag'; did you mean 'encoders.image'",
    "weights.head=3": "weights.head: got 3; give a run directory",
    "weights.encoders.image=nowhere": "weights.encoders.image: nowhere: no such",
    "weights=clip_vit_nano": r"weights: clip_vit_nano: the weights do not fit System: .* missing: head.linear",
    "weights.encoders.image=clip_vit_nano system.processor.image.mean=[0.4,0.4,0.4]": (
        r"system.processor.image.mean: \[0.4, 0.4, 0.4\], but weights.encoders.image=clip_vit_nano was trained with \[0.5, 0.5, 0.5\]"
    ),
    "weights=a weights.head=b": "weights.head: weights=a loads this part too; give one of the two",
    "weights.encoders.image=a weights.encoders.image.blocks=b": "weights.encoders.image=a loads this part too",
}


@pytest.mark.parametrize("words", REFUSED_WEIGHTS)
def test_weights_that_cannot_be_started_from_are_refused(words, tmp_path):
    with pytest.raises(zoo.ZooError, match=REFUSED_WEIGHTS[words]):
        train(compose("train", [*CLASSIFIER, *words.split(), f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_parts_may_be_written_as_one_mapping():
    whole = compose("train", ["weights={encoders.image: a, head: {linear: b}}"])
    with pytest.raises(zoo.ConfigError, match="weights.head.linear: the system has no part"):
        zoo.check(whole)
    zoo.check({**whole, "weights": {"encoders.image": "a", "encoders": {"text": "b"}}})


def test_other_weights_are_refused_on_resume(run_dir):
    config = {**read_run_config(run_dir), "resume": str(run_dir)}
    with pytest.raises(zoo.ConfigError, match="weights: a resumed run continues with its own"):
        train({**config, "weights": "clip_vit_nano"})
