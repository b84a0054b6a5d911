"""Models of the hub, against a small hub on loopback: names, revisions, access, files, faults of the network, cache."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import connect, running_hub
from huggingface_hub.utils import enable_progress_bars
from safetensors.torch import save_file

import zoo
from zoo.interop.base.hub_model import fetch_model, small_files

VIT = {"model_type": "vit", "image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as server:
        connect(server, monkeypatch, tmp_path / "cache")
        yield server


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of zoo, another with other weights, and a ViT of transformers."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("saved")
    for name in ("zoo", "zoo_v2"):
        zoo.save(zoo.create_model("vit_nano"), folder / name)
    ViTModel(ViTConfig(**VIT, intermediate_size=32)).save_pretrained(folder / "vit")
    return folder


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", ["hf://owner/name", "owner/name"])
def test_a_model_of_the_hub_equals_its_folder(name, hub, saved):
    hub.add("owner/name", saved / "zoo")
    assert same(zoo.load(name), zoo.load(saved / "zoo"))
    assert same(zoo.create_model("vit_nano", weights=name), zoo.load(saved / "zoo"))


@pytest.mark.parametrize(("name", "revision"), [("hf://owner/name@v2", None), ("owner/name@v2", None), ("hf://owner/name", "v2")])
def test_a_revision_is_obeyed(name, revision, hub, saved):
    hub.add("owner/name", saved / "zoo")
    commit = hub.add("owner/name", saved / "zoo_v2", "v2")
    assert same(zoo.load(name, revision=revision), zoo.load(saved / "zoo_v2"))
    assert same(zoo.load("owner/name", revision=commit), zoo.load(saved / "zoo_v2"))
    assert not same(zoo.load("hf://owner/name"), zoo.load(saved / "zoo_v2"))


def test_a_wrong_revision_is_told_with_those_that_exist(hub, saved):
    hub.add("owner/name", saved / "zoo", "main", "v2.0")
    with pytest.raises(zoo.WeightsError, match=r"hf://owner/name@v2.1: cannot be fetched: it has no revision 'v2.1'; did you mean 'v2.0'"):
        zoo.load("hf://owner/name@v2.1")


def test_a_revision_belongs_to_the_hub_alone(hub, saved):
    with pytest.raises(zoo.ConfigError, match="revision: got 'v2' for .*, but only models of the hub"):
        zoo.load(saved / "zoo", revision="v2")
    with pytest.raises(zoo.ConfigError, match="names one already"):
        zoo.load("hf://owner/name@v1", revision="v2")


def test_a_misspelt_path_never_asks_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(zoo.WeightsError, match="runs/nope: no such directory or file"):
        zoo.load("runs/nope")
    assert hub.asked == []


def test_a_name_that_no_hub_model_can_have_is_told(hub):
    with pytest.raises(zoo.WeightsError, match="hf://a b/c: is no name of a model on the hub; write hf://OWNER/NAME"):
        zoo.load("hf://a b/c")


# Access


def test_a_restricted_model_says_where_to_ask_and_how_to_log_in(hub, saved):
    hub.add("owner/name", saved / "zoo", gated=True)
    wanted = r"access to this model is restricted: ask for it at http://\S+/owner/name, then log in with `hf auth login`, or set HF_TOKEN"
    with pytest.raises(zoo.WeightsError, match=wanted):
        zoo.load("hf://owner/name")


@pytest.mark.parametrize("rights", [{"gated": True}, {"private": True}])
def test_a_token_opens_restricted_and_private_models(rights, hub, saved, monkeypatch):
    hub.add("owner/name", saved / "zoo", **rights)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert same(zoo.load("hf://owner/name"), zoo.load(saved / "zoo"))
    assert hub.leaks == 0


@pytest.mark.parametrize(
    ("token", "rights", "message"),
    [
        ("right", {"gated": True, "denied": True}, "restricted: .* the token in use has no access yet"),
        ("hf_wrong", {"private": True}, r"refuses the token in use \(status 401\); log in with"),
        ("hf_with\tcontrol", {"private": True}, "cannot be fetched"),
        ("", {"private": True}, "has no such model, or it is private; check the name .*for a private model: log in with"),
    ],
)
def test_no_message_holds_the_token(token, rights, message, hub, saved, monkeypatch):
    hub.add("owner/name", saved / "zoo", **rights)
    token = hub.token if token == "right" else token
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(zoo.WeightsError, match=message) as caught:
        zoo.load("hf://owner/name")
    assert not token or token not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_model_that_is_not_there_is_told(hub):
    with pytest.raises(zoo.WeightsError, match=r"nobody/nothing: cannot be fetched: http://\S+ has no such model, or it is private"):
        zoo.load("nobody/nothing")


# Which files


def unique(files):
    """Contents that differ, because the cache keeps equal files once."""
    return {name: json.dumps({"name": name}).encode() if name.endswith("json") else name.encode() for name in files}


def names_of(hub, files):
    hub.add("owner/name", unique(files))
    fetch_model("owner/name", "hf://owner/name")
    return hub.fetched()


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.fp16.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "onnx/model.onnx", "onnx/config.json", "openvino/model.bin", "rust_model.msgpack"], ["model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5", "pytorch_model.fp16.bin", "coreml/weights.bin", "optimizer.bin"], ["pytorch_model.bin"]),
        (["model.bin", "vocabulary.json"], ["model.bin", "vocabulary.json"]),
        (["model.safetensors", "1_Pooling/config.json", "modules.json"], ["model.safetensors", "1_Pooling/config.json", "modules.json"]),
        (
            ["model.safetensors", "chat_template.jinja", "merges.txt", "README.md"],
            ["model.safetensors", "chat_template.jinja", "merges.txt"],
        ),
        (
            ["model.safetensors", "adapter_config.json", "adapter_model.safetensors"],
            ["model.safetensors", "adapter_config.json", "adapter_model.safetensors"],
        ),
        (["model.safetensors", "checkpoint-500/model.safetensors", "checkpoint-500/config.json"], ["model.safetensors"]),
    ],
)
def test_one_set_of_weights_is_fetched(files, weights, hub):
    assert names_of(hub, ["config.json", *files]) == {"config.json", *weights}


@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_a_sharded_set_is_fetched_by_its_index(end, hub):
    stem = {"safetensors": "model", "bin": "pytorch_model"}[end]
    shards = [f"{stem}-0000{n}-of-00002.{end}" for n in (1, 2)]
    files = {"config.json": b"{}", f"{stem}.{end}.index.json": json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()}
    others = [f"{stem}.fp16-00001-of-00002.{end}", f"other.{end}", "tf_model.h5"]
    hub.add("owner/name", unique([*shards, *others]) | files)
    fetch_model("owner/name", "hf://owner/name")
    assert hub.fetched() == {*files, *shards}


@pytest.mark.parametrize(
    ("kind", "weights"), [("clip", "model.safetensors"), ("other", "open_clip_model.safetensors"), ("", "open_clip_model.safetensors")]
)
def test_of_a_clip_for_two_libraries_one_set_is_fetched(kind, weights, hub):
    files = unique(["model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
    files |= {"open_clip_config.json": b'{"model_cfg": {}}'} | ({"config.json": json.dumps({"model_type": kind}).encode()} if kind else {})
    hub.add("owner/name", files)
    fetch_model("owner/name", "hf://owner/name")
    assert {name for name in hub.fetched() if not name.endswith("json")} == {weights}


def test_a_file_alone_is_named_if_there_are_several(hub, tmp_path):
    save_file(zoo.create_model("vit_nano").state_dict(), tmp_path / "b.safetensors")
    weights = (tmp_path / "b.safetensors").read_bytes()
    hub.add("owner/two", {"a.safetensors": b"", "b.safetensors": weights})
    with pytest.raises(zoo.WeightsError, match=r"several files of weights; name one, for example hf://owner/two/a.safetensors \(a.safe"):
        zoo.create_model("vit_nano", weights="hf://owner/two")
    hub.add("owner/one", {"b.safetensors": weights, "README.md": b""})
    zoo.create_model("vit_nano", weights="hf://owner/two/b.safetensors")
    zoo.create_model("vit_nano", weights="hf://owner/one")
    assert "a.safetensors" not in hub.fetched()
    with pytest.raises(zoo.WeightsError, match="the model has no file 'c.safetensors'; it has: a.safetensors, b.safetensors"):
        zoo.create_model("vit_nano", weights="hf://owner/two/c.safetensors")


def test_a_model_without_weights_lists_what_it_has(hub):
    hub.add("owner/name", {"config.json": b"{}", "tf_model.h5": b""})
    with pytest.raises(zoo.WeightsError, match="holds no weights that can be read here; it has: config.json, tf_model.h5"):
        zoo.load("hf://owner/name")


def test_only_files_that_are_read_count_as_small():
    assert small_files(["a/config.json", "1_Pooling/config.json", "config.yaml", "x.yaml", "run.py", "m.model"]) == [
        "1_Pooling/config.json",
        "config.yaml",
        "m.model",
    ]


# Network and cache


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub, saved, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.add("owner/name", saved / "zoo")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is written at once; 10 MB otherwise
    hub.cuts["model.safetensors"] = 1
    assert same(zoo.load("hf://owner/name"), zoo.load(saved / "zoo"))
    half = (saved / "zoo" / "model.safetensors").stat().st_size // 2
    assert hub.ranges == [f"bytes={half // 1000 * 1000}-"]


def test_a_download_that_ends_in_the_middle_is_told_and_the_next_load_fetches_the_rest(hub, saved, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.add("owner/name", saved / "zoo")
    hub.cuts["model.safetensors"] = 10_000
    with pytest.raises(zoo.WeightsError, match="the connection broke off again and again; load again: files that are complete are kept"):
        zoo.load("hf://owner/name")
    hub.cuts.clear()
    hub.asked.clear()
    assert same(zoo.load("hf://owner/name"), zoo.load(saved / "zoo"))
    assert hub.fetched() == {"model.safetensors"}


def test_nothing_is_fetched_twice(hub, saved):
    hub.add("owner/name", saved / "zoo")
    zoo.load("hf://owner/name")
    hub.asked.clear()
    zoo.load("hf://owner/name")
    assert hub.fetched() == set()


def test_a_hub_that_is_down_gives_way_to_the_cache_with_a_warning(hub, saved, caplog):
    commit = hub.add("owner/name", saved / "zoo")
    zoo.load("hf://owner/name")
    hub.down = True
    with caplog.at_level(logging.WARNING, "zoo"):
        assert same(zoo.load("hf://owner/name"), zoo.load(saved / "zoo"))
    assert f"the hub cannot be reached; using commit {commit[:12]} of the cache, which may be old" in caplog.text
    with pytest.raises(zoo.WeightsError, match=r"owner/other: cannot be fetched: http://\S+ answers with status 503; try again later"):
        zoo.load("hf://owner/other")


def test_offline_reads_the_cache_and_says_what_is_not_there(hub, saved, monkeypatch, caplog):
    hub.add("owner/name", saved / "zoo")
    zoo.load("hf://owner/name")
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(zoo.load("hf://owner/name"), zoo.load(saved / "zoo"))
    with pytest.raises(zoo.WeightsError, match=r"it is not in the cache \S+, and HF_HUB_OFFLINE forbids to download it"):
        zoo.load("hf://owner/other")
    assert hub.asked == [] and caplog.text == ""


def test_half_a_copy_in_the_cache_is_no_model_offline(hub, saved, monkeypatch):
    hub.add("owner/name", saved / "zoo")
    hub.cuts["model.safetensors"] = 10_000
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(zoo.WeightsError, match="broke off"):
        zoo.load("hf://owner/name")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(zoo.WeightsError, match="its download was interrupted; load again with a network"):
        zoo.load("hf://owner/name")


def test_a_terminal_sees_progress(hub, saved, monkeypatch, capsys):
    hub.add("owner/name", saved / "zoo")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    enable_progress_bars()  # other tests switch them off for the whole process
    zoo.load("hf://owner/name")
    assert "Fetching" in capsys.readouterr().err


def test_hf_endpoint_is_obeyed_by_the_command_line(hub, saved, tmp_path):
    hub.add("owner/name", saved / "zoo")
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "zoo.commands.cli", "export", "owner/name", str(tmp_path / "out"), "--format", "zoo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same(zoo.load(tmp_path / "out"), zoo.load(saved / "zoo"))


# Names of other libraries


def test_a_backbone_of_transformers_may_name_a_revision(hub, saved):
    hub.add("owner/name", {"config.json": b"{}"})
    hub.add("owner/name", saved / "vit", "v2")
    model = zoo.create_model("transformers/owner/name@v2", weights="hf://owner/name@v2")
    assert same(model, zoo.create_model(f"transformers/{saved / 'vit'}", weights=saved / "vit"))


def test_a_restricted_backbone_of_transformers_says_so(hub, saved):
    hub.add("owner/name", saved / "vit", gated=True)
    with pytest.raises(zoo.ConfigError, match="owner/name: no such directory, and as a hub id .* access to this model is restricted"):
        zoo.create_model("transformers/owner/name")


@pytest.fixture
def timm_hub(hub, tmp_path):
    import timm

    theirs = timm.create_model("test_vit", num_classes=3)
    config = {
        "architecture": "test_vit",
        "num_classes": 3,
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.5, "classifier": "head"},
    }
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    hub.add("owner/name", {"config.json": json.dumps(config).encode(), "model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    return theirs


def test_timm_of_the_hub_is_a_name_and_its_weights_a_source(timm_hub):
    ours = zoo.create_model("timm/hf_hub:owner/name", weights="timm://hf_hub:owner/name")
    pixels = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(ours(pixels).tokens, timm_hub.eval().forward_features(pixels), atol=1e-5, rtol=1e-5)
    assert ours.preprocessing["mean"] == [0.1, 0.2, 0.3] and ours.preprocessing["crop_fraction"] == 0.5


def test_timm_of_the_hub_is_restricted_or_no_model_of_timm(hub, timm_hub, saved):
    hub.repositories["owner/name"].gated = True
    with pytest.raises(zoo.WeightsError, match="timm://hf_hub:owner/name: cannot be fetched: access to this model is restricted"):
        zoo.create_model("timm/test_vit", weights="timm://hf_hub:owner/name")
    hub.add("owner/vit", saved / "vit")
    with pytest.raises(
        zoo.ConfigError, match="timm/hf-hub:owner/vit: its config.json names no architecture of timm; try transformers/owner/vit"
    ):
        zoo.create_model("timm/hf-hub:owner/vit")


def test_a_chat_template_of_the_hub_is_that_of_the_folder(hub, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "[UNK]": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}a {{ m['content'] }} b{% endfor %}"
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    assert (tmp_path / "llm" / "chat_template.jinja").is_file()
    hub.add("owner/llm", tmp_path / "llm")
    ours: Any = zoo.load("hf://owner/llm")
    folder: Any = zoo.load(tmp_path / "llm")
    assert ours.processor.get("conversation").settings == folder.processor.get("conversation").settings
    assert "chat_template.jinja" in hub.fetched() and Path(tmp_path / "cache").is_dir()
