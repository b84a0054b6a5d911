"""Files of saved models, runs and indexes with values of wrong types: one error that names file, key and value, and nothing runs."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml

import zoo
from zoo.commands.index import checks
from zoo.commands.index.store import Index, hash_file, read_json_lines, read_manifest
from zoo.runs.run_directory import read_run_config
from zoo.storage.outside import MAX_DEPTH, parse_json, read_json_object, read_yaml_object


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    zoo.save(zoo.create_model("clip_vit_nano"), folder)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    """A copy of a saved model, and a function that sets one key of its config."""
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)

    def put(key, value):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        node, *words = config, *key.split(".")
        for word in words[:-1]:
            node = node[word]
        node[words[-1]] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    put.folder = folder
    return put


WRONG = [
    ("system", 2.5, "system: got 2.5"),
    ("system.encoders.image", True, "system.encoders.image: got True"),
    ("system.encoders", [1], "system.encoders: got"),
    ("system.head", None, "system.head: got None"),
    ("system.processor", 2.5, "system.processor: got 2.5"),
    ("system.processor", {"text": -1}, "system.processor.text: got -1"),
    ("system.processor", {"image": {"mean": [{}, 0.5, 0.5]}}, "image.mean: got"),
    ("processor_sha256", 1000, "processor_sha256: got 1000"),
    ("format", "1", "format: got '1'"),
    ("system.encoders.text.context_length", -1, "context_length: got -1"),
    ("system.encoders.text.vocab_size", 10**12, "vocab_size: got 1000000000000"),
    ("system.encoders.image.depth", 0, "depth: got 0"),
    ("system.encoders.image.depth", 10**12, "depth: got 1000000000000 layers"),
    ("system.encoders.image.num_heads", 7, "num_heads"),
    ("system.encoders.image.patch_size", "x", "patch_size: got 'x'"),
    ("system.encoders.image.mlp_ratio", [], "mlp_ratio: got"),
    ("system.name", "${oc.env:HOME}", "interpolation"),
    ("system.head.embed_dim", "${oc.env:HOME}", "interpolation"),
    ("system.head._target_", "os.system", "names code"),
]


@pytest.mark.parametrize(("key", "value", "told"), WRONG, ids=[f"{key}={str(value)[:20]}" for key, value, _ in WRONG])
def test_a_wrong_value_in_a_saved_config_is_told(model, key, value, told):
    with pytest.raises(zoo.ZooError) as error:
        zoo.load(model(key, value))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "cannot be read"),
        ("a: 2026-13-45", "cannot be read"),
        ("a: 2026-01-01", "put it in quotes"),
        ("!!python/object/apply:os.system ['touch MARK']", "cannot be read"),
        ("a: &x [*x]", "nested more than"),
        ("[" * 500 + "]" * 500, "nested more than"),
        ("- 1", "not a YAML mapping"),
        ("? [1, 2]\n: 3", "cannot be read"),
        ("1.5: 3", "has the key 1.5"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("\n".join(["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]), "entries"),
        ("a: \x00", "cannot be read"),
    ],
    ids=range(12),
)
def test_yaml_that_is_no_plain_mapping_is_told(tmp_path, text, told):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(zoo.ConfigError, match="config.yaml") as error:
        read_yaml_object(path)
    assert told in str(error.value) and not (tmp_path / "MARK").exists()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, '{"a": ' * 200 + "1" + "}" * 200, "\udc80", "nul"])
def test_json_that_cannot_be_read_is_told(text):
    with pytest.raises(zoo.DataError, match="row 3: "):
        parse_json(text.encode("utf-8", "surrogateescape"), "row 3", zoo.DataError)
    assert parse_json("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), "row 3")


@pytest.mark.parametrize("text", [r'{"eos_token": "\udcff"}', r'{"a": ["\uD800x"]}'])
def test_half_a_character_in_json_is_told(tmp_path, text):
    """JSON may write it, but no tokenizer takes it."""
    path = tmp_path / "tokenizer_config.json"
    path.write_text(text)
    with pytest.raises(zoo.WeightsError, match=r"tokenizer_config\.json: .* half a character \(\\u"):
        read_json_object(path)
    path.write_text(r'{"a": "\ud83d\ude00 \\ud"}')  # a whole character in two halves
    assert read_json_object(path) == {"a": "\U0001f600 \\ud"}


def test_a_processor_file_that_is_a_folder_or_a_pipe_is_told_at_once(model):
    path = model.folder / "processor.json"
    for make in (path.mkdir, lambda: os.mkfifo(path)):
        path.unlink() if path.is_file() else shutil.rmtree(path)
        make()
        with pytest.raises(zoo.WeightsError, match=r"processor\.json: cannot be opened, it is (a folder|a named pipe)"):
            read_json_object(path)
        path.rmdir() if path.is_dir() else path.unlink()
        path.touch()


@pytest.mark.parametrize("name", ["processor.json", "tokenizer.json"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_saved_model_with_a_folder_or_a_pipe_for_a_processor_file_is_told(model, name, make):
    (model.folder / name).unlink(missing_ok=True)  # an untrained model has no tokenizer.json
    make(model.folder / name)
    with pytest.raises(zoo.ZooError, match=f"{name}: .*only ordinary files"):
        zoo.load(model.folder)


@pytest.mark.parametrize("content", ['{"image": 3}', "[]", '{"image": {"image_size": "x"}}', '{"nose": {}}', '{"image": {"size": 3}}'])
def test_processor_settings_of_wrong_types_are_told(model, content):
    from zoo.data.system_processor import Processor

    (model.folder / "processor.json").write_text(content)
    with pytest.raises(zoo.ZooError, match="image|processor|nose"):
        Processor.load(model.folder)


@pytest.mark.parametrize("text", ["a: [", "zz: ${zz}", '"${a"', "system: 3\ntraining: {}", "training: 3", "training: {max_steps: x}"])
def test_a_damaged_run_config_is_told(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(zoo.ConfigError, match="config.yaml|resume"):
        read_run_config(tmp_path)


MANIFEST = {
    **dict.fromkeys(("model", "weights", "preprocessing", "modality", "origin", "listing", "items"), "a"),
    **{"format": 1, "dim": 4, "dtype": "float32", "storage": "npy", "count": 2, "failed": 0},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [("count", None), ("weights", 1.5), ("model", True), ("origin", None), ("dim", 0), ("count", -1), ("storage", []), ("dtype", "x")],
)
def test_a_manifest_with_a_wrong_value_is_told(tmp_path, key, value):
    (tmp_path / "manifest.json").write_text(json.dumps({**MANIFEST, key: value}))
    with pytest.raises(zoo.DataError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        *("{}", "[]", "no JSON", '{"path": "\udcb3"}', '{"path": 3}', '{"path": "a"}', '{"path": "a", "size": "x", "mtime_ns": 1}'),
        '{"path": "a", "size": "\\udcff", "mtime_ns": 1}',
    ],
)
def test_an_item_that_is_none_is_told(tmp_path, line):
    (tmp_path / "items.jsonl").write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(zoo.DataError, match=r"items\.jsonl, line 1"):
        list(read_json_lines(tmp_path / "items.jsonl"))


def test_a_plan_and_vectors_that_fit_nothing_are_told(tmp_path):
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(zoo.DataError, match=r"plan\.json"):
        checks.read_plan(tmp_path / "plan.json", ["weights"])
    np.save(tmp_path / "v.npy", np.zeros(8))
    (tmp_path / "items.jsonl").write_text("")
    facts = {**MANIFEST, "items": hash_file(tmp_path / "items.jsonl")}
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    whole = (tmp_path / "v.npy").read_bytes()
    for damaged in (whole.replace(b"}", b"("), b"PK" + whole[2:]):  # the second begins as a zip archive
        (tmp_path / "embeddings.npy").write_bytes(damaged)
        with pytest.raises(zoo.DataError, match="the index is damaged"):
            Index(tmp_path)
    with pytest.raises(zoo.DataError, match="shape"):
        checks.check_shape((8,), (2, 4), tmp_path / "v.npy")


def test_weights_with_nan_are_named_at_load_and_refused_for_export(model, caplog, tmp_path):
    from safetensors.torch import load_file, save_file

    path = model.folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("encoders.image"))
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, path)
    system = zoo.load(model.folder)
    assert name in caplog.text and "NaN" in caplog.text
    with pytest.raises(zoo.WeightsError, match="NaN or infinity"):
        zoo.export(system, tmp_path / "out", "zoo")
    assert zoo.export(system, tmp_path / "out", "zoo", allow_nan=True).is_dir()


def test_a_config_larger_than_its_weights_is_refused_with_both_sizes(model):
    with pytest.raises(zoo.WeightsError, match=r"describes a model of \d.* GB, the weights beside it hold .* MB"):
        zoo.load(model("system.head.embed_dim", 50_000_000))


def test_a_config_larger_than_the_machine_is_refused_with_both_sizes():
    with pytest.raises(zoo.ConfigError, match=r"describes a model of .* TB, this machine has .* of memory"):
        zoo.create_model("vit_nano", depth=9, dim=640_000)
