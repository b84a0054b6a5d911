"""Weights in the envelopes that training scripts write: tables under a key, prefixes, averages, scalars, any suffix."""

import datetime
import logging
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import zoo
from zoo.storage.containers import read_file
from zoo.storage.tensors import read_tensors

SIZES = {"image_size": 32, "patch_size": 8, "dim": 48, "depth": 2, "num_heads": 3}


def with_prefix(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def zeros(tensors):
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


ENVELOPES = {
    "compiled.pth": lambda sd: {"state_dict": with_prefix("_orig_mod.", sd)},
    "compiled_ddp.pth": lambda sd: {"state_dict": with_prefix("_orig_mod.module.", sd)},
    "ddp_compiled.bin": lambda sd: with_prefix("module._orig_mod.", sd),
    "deit.pth": lambda sd: {"model": sd, "args": Namespace(lr=0.1)},
    "run.pth.tar": lambda sd: {"state_dict": sd, "epoch": 3, "arch": "vit"},
    "lightning.ckpt": lambda sd: {"model_state_dict": sd},
    "ema.pth": lambda sd: {"state_dict": zeros(sd), "state_dict_ema": sd},
    "nested.pth": lambda sd: {"model": {"state_dict": sd}},
    "lightning_2.ckpt": lambda sd: {"state_dict": with_prefix("model.", sd), "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "loops": {}},
    "wrapped_twice.pth": lambda sd: {"state_dict": with_prefix("model._orig_mod.encoder.", sd)},
    "deepspeed.pt": lambda sd: {"module": with_prefix("module.", sd), "ds_config": {"a": 1}, "buffer_names": [], "global_steps": 3},
    "deit_ema.pth": lambda sd: {"model": zeros(sd), "model_ema": sd, "optimizer": {"state": {}, "param_groups": []}},
    "ema_in_ema.pth": lambda sd: {"model": zeros(sd), "ema": {"module": sd, "decay": 0.999}},
    "swa.pth": lambda sd: {"n_averaged": torch.tensor(3), **with_prefix("module.", sd)},
    "open_clip.pt": lambda sd: {"epoch": 1, "name": "x", "state_dict": with_prefix("module.", sd), "scaler": {"scale": 65536.0}},
    "other_key.pth": lambda sd: {"params": sd, "step": 3},
    "plain_data.pth": lambda sd: {"model": sd, "args": Namespace(out=Path("/x")), "mean": np.zeros(3), "at": datetime.datetime(2020, 1, 1)},
    "scalar.pth": lambda sd: {"state_dict": sd, "best_acc": np.float64(0.71), "lr": np.float32(0.1), "seen": np.int64(3)},
}


@pytest.fixture
def reference():
    """A tiny ViT of timm."""
    keywords = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 7}
    return timm.models.vision_transformer.VisionTransformer(**keywords).eval()


@pytest.mark.parametrize("name", ENVELOPES)
@torch.no_grad()
def test_every_envelope_gives_what_timm_reads_from_it(name, reference, tmp_path):
    expected, path = reference.state_dict(), tmp_path / name
    torch.save(ENVELOPES[name](expected), path)
    model = zoo.create_model("vit_nano", weights=path, weights_parts=["encoder"], pool="cls", **SIZES)
    pixels = torch.randn(2, 3, 32, 32)
    assert any(torch.equal(tensor, expected["cls_token"]) for name, tensor in read_tensors(path).items() if name.endswith("cls_token"))
    torch.testing.assert_close(model(pixels).tokens, reference.forward_features(pixels), rtol=0, atol=1e-5)


def test_a_key_chooses_among_tables_and_names(reference, tmp_path, caplog):
    expected = reference.state_dict()
    torch.save({"teacher": zeros(expected), "student": with_prefix("module.backbone.", expected)}, tmp_path / "two.pth")
    torch.save({"state_dict": {**with_prefix("model.", expected), "criterion.weight": torch.ones(2)}}, tmp_path / "loss.ckpt")
    with pytest.raises(zoo.WeightsError, match="tables of tensors under teacher, student; name the one to take: .*two.pth#teacher"):
        read_tensors(tmp_path / "two.pth")
    for name in ("two.pth#student", "loss.ckpt#model"):
        model = zoo.create_model("vit_nano", weights=f"{tmp_path / name}", weights_parts=["encoder"], pool="cls", **SIZES)
        assert torch.equal(model.positions.flatten(), expected["pos_embed"].flatten())
    assert "1 tensors beside it are left out (criterion.weight)" in caplog.text
    with pytest.raises(zoo.WeightsError, match="holds nothing under 'mode'.*did you mean 'model'"):
        read_tensors(tmp_path / "loss.ckpt", "mode")


def test_weights_of_ours_below_a_wrapper_load_into_a_model_of_ours(tmp_path):
    model = zoo.create_model("vit_nano")
    torch.save({"state_dict": with_prefix("net.", model.state_dict())}, tmp_path / "run.ckpt")
    again = zoo.create_model("vit_nano", weights=tmp_path / "run.ckpt")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_log_says_that_the_average_is_taken(reference, tmp_path, caplog):
    torch.save(ENVELOPES["ema.pth"](reference.state_dict()), tmp_path / "ema.pth")
    with caplog.at_level(logging.WARNING, "zoo"):
        read_tensors(tmp_path / "ema.pth")
    assert "holds 'state_dict_ema' and 'state_dict'; the averaged weights 'state_dict_ema' are taken" in caplog.text


def test_the_first_bytes_tell_the_container_and_not_the_suffix(reference, tmp_path):
    tensors = with_prefix("_orig_mod.", reference.state_dict())
    save_file(tensors, tmp_path / "weights.bin")
    save_file(tensors, tmp_path / "weights.safetensors")
    for name in ("weights.bin", "weights.safetensors"):
        assert read_tensors(tmp_path / name).keys() == reference.state_dict().keys()


def test_two_names_that_differ_by_a_prefix_only_are_refused(tmp_path):
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, tmp_path / "twice.pth")
    with pytest.raises(zoo.WeightsError, match="holds a twice, with and without the prefix"):
        read_tensors(tmp_path / "twice.pth")


class Runs:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lmgg" + bytes(60), "is a ggml file"),
        (b"hello, this is text", "is not a kind of weights"),
        (b"\x80\x02garbage", "cannot be read"),
    ],
)
def test_files_of_other_kinds_are_named_for_what_they_are(content, message, tmp_path):
    (tmp_path / "weights.bin").write_bytes(content)
    with pytest.raises(zoo.WeightsError, match=message):
        read_file(tmp_path / "weights.bin")


def test_a_pickle_that_would_run_code_is_refused_by_the_name_that_it_calls(tmp_path, capfd):
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Runs()}, tmp_path / "bad.pth")
    with pytest.raises(zoo.WeightsError, match=r"\((posix|nt|os)\.system\) and would run code when opened, which is never done"):
        zoo.create_model("vit_nano", weights=tmp_path / "bad.pth")
    assert "never run" not in capfd.readouterr().out
