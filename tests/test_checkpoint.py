"""Weights: loaded strictly, saved atomically with their preprocessing, and never able to run code."""

import json
import os
import pickle

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import zoo
from zoo.assembly.loading import load_part
from zoo.errors import ConfigError
from zoo.storage.files import atomic_directory, recover
from zoo.storage.tensors import compress, read_tensors, write_tensors


@pytest.fixture
def saved(tmp_path):
    system = zoo.create_model("clip_vit_nano")
    system.processor.fit(["a cat", "a dog"])
    return zoo.save(system, tmp_path / "model"), system


def test_a_saved_system_loads_as_it_was(saved):
    directory, system = saved
    loaded = zoo.load(directory)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.embed("image", pixels), system.embed("image", pixels))
    assert torch.equal(loaded.embed("text", ["a cat"]), system.embed("text", ["a cat"]))
    assert not loaded.training


def test_a_saved_encoder_loads_as_it_was(tmp_path):
    encoder = zoo.create_model("vit_nano", depth=3)
    loaded = zoo.load(zoo.save(encoder, tmp_path / "encoder"))
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(pixels).pooled, encoder(pixels).pooled)


def test_weights_of_another_shape_are_refused_and_nothing_is_loaded(saved):
    directory, _ = saved
    other = zoo.create_model("clip_vit_nano", head={"embed_dim": 32})
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(zoo.WeightsError, match="2 resized: head.projections.image.weight"):
        load_part(other, directory)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_missing_and_left_over_weights_are_counted_and_named(saved, tmp_path):
    directory, _ = saved
    tensors = load_file(directory / "model.safetensors")
    tensors["extra"] = tensors.pop("head.logit_scale").clone()
    save_file(tensors, tmp_path / "changed.safetensors")
    with pytest.raises(zoo.WeightsError, match="1 missing: head.logit_scale; 1 unexpected: extra"):
        zoo.create_model("clip_vit_nano", weights=tmp_path / "changed.safetensors")


@pytest.mark.parametrize("file", ["processor.json", "tokenizer.json"])
def test_a_changed_processor_is_refused(saved, file):
    directory, _ = saved
    path = directory / file
    path.write_text(path.read_text().replace("0.5", "0.4").replace('"version"', '"Version"'))
    with pytest.raises(zoo.WeightsError, match="is not the one that these weights were saved with"):
        zoo.load(directory)


class Exploit:
    def __reduce__(self):
        return os.system, ("touch exploited",)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin"])
def test_a_pickle_that_runs_code_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        pickle.dump({"weight": Exploit()}, file)
    with pytest.raises(zoo.WeightsError, match="would run code|cannot be read"):
        zoo.create_model("vit_nano", weights=name)
    torch.save({"weight": Exploit()}, name)
    with pytest.raises(zoo.WeightsError, match="would run code when opened, which is never done"):
        zoo.create_model("vit_nano", weights=name)
    assert not (tmp_path / "exploited").exists()


def test_a_checkpoint_whose_config_names_code_is_refused(saved):
    directory, _ = saved
    config = yaml.safe_load((directory / "config.yaml").read_text())
    config["system"]["head"] = {"_target_": "os.system", "command": "true"}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises((zoo.WeightsError, zoo.ConfigError), match="names code"):
        zoo.load(directory)


def test_a_config_with_a_python_tag_is_refused(saved):
    directory, _ = saved
    (directory / "config.yaml").write_text("format: 1\nsystem: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(zoo.WeightsError, match="plain YAML"):
        zoo.load(directory)


def test_plain_torch_files_are_read(tmp_path):
    model = zoo.create_model("vit_nano")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "weights.pt")
    again = zoo.create_model("vit_nano", weights=tmp_path / "weights.pt")
    assert torch.equal(again.positions, model.positions)


@pytest.mark.parametrize("content", [b"", b"not tensors at all"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_damaged_and_foreign_files_are_refused(content, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(zoo.WeightsError, match="cannot be read|is not a kind of weights|would run code"):
        read_tensors(path)


@pytest.mark.parametrize("source", ["nowhere", "clip_vit_nanoo"])
def test_a_source_that_is_not_there_is_refused(source):
    with pytest.raises(zoo.WeightsError, match="no such directory"):
        zoo.load(source)


def test_a_write_that_fails_leaves_the_old_directory(tmp_path):
    target = tmp_path / "model"
    with atomic_directory(target) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(target) as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert (target / "file").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_two_renames_is_mended(tmp_path):
    target = tmp_path / "model"
    (tmp_path / ".model.old").mkdir()
    recover(target)
    assert target.is_dir()


def test_a_model_of_ones_own_cannot_be_saved_without_its_config(tmp_path):
    with pytest.raises(zoo.ConfigError, match="Linear has no config"):
        zoo.save(torch.nn.Linear(2, 2), tmp_path / "model")


def test_the_processor_is_plain_json(saved):
    directory, _ = saved
    assert json.loads((directory / "processor.json").read_text())["image"]["image_size"] == 32


def test_int8_rows_come_back_within_half_a_step_and_vectors_within_fp16(tmp_path):
    torch.manual_seed(0)
    state = {"matrix": torch.randn(80, 64) * torch.logspace(-6, 3, 80)[:, None], "conv": torch.randn(8, 32, 4, 4), "gain": torch.randn(64)}
    state |= {"zero": torch.zeros(64, 64), "count": torch.tensor(3), "ids": torch.arange(8192).view(64, 128)}
    write_tensors(compress(state, "int8"), tmp_path / "small.safetensors")
    found = read_tensors(tmp_path / "small.safetensors")
    assert found.keys() == state.keys() and torch.equal(found["zero"], state["zero"]) and torch.equal(found["ids"], state["ids"])
    for name in ("matrix", "conv"):
        step = state[name].flatten(1).abs().amax(1) / 127
        error = (found[name] - state[name]).flatten(1).abs().amax(1)
        assert found[name].dtype == torch.float32 and bool((error <= step * 0.5001).all())
    torch.testing.assert_close(found["gain"].float(), state["gain"], rtol=1e-3, atol=1e-3)
    assert (tmp_path / "small.safetensors").stat().st_size < sum(t.nbytes for t in (state["matrix"], state["conv"])) / 4 + 100_000


def test_a_model_saved_as_int8_loads_as_any_other(tmp_path):
    model = zoo.create_model("vit_nano")
    zoo.save(model, tmp_path / "plain")
    zoo.save(model, tmp_path / "small", storage="int8")
    small, pixels = zoo.load(tmp_path / "small"), torch.randn(1, 3, model.image_size, model.image_size)
    with torch.no_grad():
        cosine = torch.cosine_similarity(small(pixels).pooled, model(pixels).pooled)
    assert cosine > 0.999 and all(p.dtype == torch.float32 for p in small.parameters())
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "plain")]
    assert sizes[0] < 0.4 * sizes[1]


def test_a_number_too_large_for_fp16_stays_as_it_is():
    state = {"statistics": torch.tensor([1.0, 1e6]), "gain": torch.tensor([1.0, 2.0])}
    small = compress(state, "fp16")
    assert torch.equal(small["statistics"], state["statistics"]) and small["gain"].dtype == torch.float16


def test_an_unknown_storage_is_refused():
    with pytest.raises(ConfigError, match="storage: there is no 'int4'"):
        compress({}, "int4")
