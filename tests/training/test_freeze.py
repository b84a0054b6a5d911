"""Frozen parts do not change: neither weights nor statistics nor outputs."""

import pytest
import torch
from resuming import train as train_apart
from safetensors.torch import load_file

import zoo
from zoo.assembly.compose import compose
from zoo.runs.train import train
from zoo.training.fingerprint import hash_parameters
from zoo.training.freeze import freeze, train_mode

SMALL = ["training.max_steps=4", "training.batch_size=8", "training.checkpoint_every=4", "training.evaluate_every=2", "evaluation.limit=16"]


def frozen_names(model):
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("average", ["null", "0.5"])
def test_a_frozen_encoder_keeps_its_weights_and_statistics_through_training_and_evaluation(average, tmp_path):
    """``classifier_vig_nano`` has BatchNorm in encoder and head; evaluation between the steps goes through ``eval`` and back."""
    words = ["system=classifier_vig_nano", "evaluation=classification", *SMALL, f"training.ema_decay={average}"]
    torch.manual_seed(3)
    zoo.save(zoo.create_model("vig_nano"), tmp_path / "encoder")
    words += [f"weights.encoders.image={tmp_path / 'encoder'}", "training.freeze=[encoders.image]", f"run_dir={tmp_path / 'run'}"]
    train(compose("train", words))
    before, after = zoo.load(tmp_path / "encoder"), zoo.load(tmp_path / "run" / "last")
    assert hash_parameters(after.encoders["image"]) == hash_parameters(before)
    assert after.head.hidden_norm.num_batches_tracked == 4 and after.head.linear.bias.abs().max() > 0


def test_frozen_modules_stay_as_in_evaluation_and_the_others_train():
    model = zoo.create_model("clip_vit_nano")
    train_mode(model, freeze(model, ["encoders.image.blocks.0", "encoders.text"]))
    image = model.encoders["image"]
    assert not image.blocks[0].drop_path.training and not any(m.training for m in model.encoders["text"].modules())
    assert image.training and image.blocks[1].drop_path.training and model.head.training


def test_wildcards_and_parameters_are_frozen_by_name():
    model = zoo.create_model("clip_vit_nano")
    freeze(model, ["encoders.*.blocks.0", "head.logit_scale", "*.positions"])
    found = frozen_names(model)
    assert {"head.logit_scale", "encoders.text.positions", "encoders.image.positions"} <= found
    legal = ("encoders.image.blocks.0.", "encoders.text.blocks.0.", "head.logit_scale")
    assert all(name.startswith(legal) or name.endswith("positions") for name in found)
    assert "encoders.image.blocks.0.norm1.weight" in found and "encoders.image.class_token" not in found


def test_nothing_is_ever_thawed():
    """Use Pyramid Vision GNN, which has tables that are never trained."""
    model = zoo.create_system({"encoders": {"image": "pvig_nano"}, "head": "classifier_nano"})
    born = frozen_names(model)
    freeze(model, ["head"])
    train_mode(model, [])
    assert born and frozen_names(model) == born | {"head.linear.weight", "head.linear.bias"}


def test_only_what_is_not_frozen_is_counted_as_trained():
    report = zoo.check(compose("train", ["system=classifier_vit_nano", "training.freeze=[encoders]"]))
    assert report.trainable == 64 * 10 + 10 < report.parameters


REFUSED = {
    "training.freeze=[encoders.imag]": "training.freeze: the model has no part 'encoders.imag'; did you mean 'encoders.image'",
    "training.freeze=[encoders.image.blocks.7]": "has no part 'encoders.image.blocks.7'; did you mean 'encoders.image.blocks.1'",
    "training.freeze=[encoders,head]": "training.freeze: no parameter gets a gradient, so nothing would be trained",
    "training.freeze=['*']": "training.freeze: no parameter gets a gradient",
    "training.freeze=head": "training.freeze: 'head' is one string; give a list, training.freeze=\\[head\\]",
}


@pytest.mark.parametrize("override", REFUSED)
def test_wrong_names_and_nothing_to_train_are_found_by_check(override):
    with pytest.raises(zoo.ConfigError, match=REFUSED[override]):
        zoo.check(compose("train", [override]))


def test_a_frozen_part_needs_no_state_of_the_optimizer(tmp_path):
    words = [
        "system=classifier_vit_nano",
        *SMALL[:3],
        "training.evaluate_every=0",
        "training.freeze=[encoders]",
        f"run_dir={tmp_path / 'run'}",
    ]
    train(compose("train", words))
    (state,) = (tmp_path / "run" / "state").glob("step_*")
    optimizer = torch.load(state / "optimizer.bin", weights_only=True)
    assert len(optimizer["state"]) == 2, "weight and bias of the head"


@pytest.mark.heavy
@pytest.mark.parametrize("processes", [1, 2])
def test_batchnorm_layer_decay_and_frozen_parts_resume_exactly(processes, tmp_path, launcher):
    """BatchNorm's statistics differ between ranks and only the main process saves them."""
    words = ["system=classifier_vig_nano", "training.freeze=[encoders.image.stem]", "training.layer_decay=0.7", "training.batch_size=8"]
    words += ["training.schedule=constant", "training.ema_decay=0.5", "training.evaluate_every=2", "evaluation=classification"]
    words += ["evaluation.limit=16", "training.trace=true", "system.encoders.image.drop_path=0.2"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train_apart(launcher, [*words, "training.max_steps=6", f"run_dir={whole}"], tmp_path / "whole.log", processes)
    train_apart(launcher, [*words, "training.max_steps=3", f"run_dir={halves}"], tmp_path / "half.log", processes)
    train_apart(launcher, [f"resume={halves}", "training.max_steps=6"], tmp_path / "resumed.log", processes)
    for rank in range(processes):
        assert (whole / f"trace_{rank}.jsonl").read_text() == (halves / f"trace_{rank}.jsonl").read_text()
    ours, theirs = (load_file(run / "last" / "model.safetensors") for run in (whole, halves))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_other_frozen_parts_on_resume_are_refused(tmp_path):
    words = ["system=classifier_vit_nano", *SMALL[:3], "training.evaluate_every=0", f"run_dir={tmp_path / 'run'}"]
    train(compose("train", words))
    config = {**compose("train", [*words, "training.freeze=[encoders]", "training.max_steps=8"]), "resume": str(tmp_path / "run")}
    with pytest.raises(zoo.ConfigError, match="training.freeze or training.layer_decay: the state in .* was saved with other values"):
        train(config)
