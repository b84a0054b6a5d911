"""ONNX export: onnxruntime computes what the model computes, from what ``preprocessing.json`` describes."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

import zoo
from zoo.interop.onnx import format as onnx_format
from zoo.interop.onnx.towers import towers_of

# torch's exporter and onnxscript use what torch and Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _unchecked():
    """Signatures are not checked: while a model is exported, its sizes are symbols."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    system = zoo.load("clip_vit_nano")
    return system, zoo.export(system, tmp_path_factory.mktemp("onnx") / "clip", "onnx")


def run(folder, name, **inputs):
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {key: np.asarray(value) for key, value in inputs.items()})


def test_a_clip_gives_two_files_and_what_they_need(clip):
    folder = clip[1]
    told = json.loads((folder / "preprocessing.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"image.onnx", "text.onnx", "preprocessing.json", "processor.json", "tokenizer.json"}
    assert told["models"]["image"]["inputs"]["pixels"] == {"shape": ["batch", 3, 32, 32], "type": "float32"}
    assert told["models"]["text"]["inputs"]["token_ids"] == {"shape": ["batch", "length"], "type": "int64"}
    assert onnx.load(folder / "image.onnx").opset_import[0].version == told["opset"] == 18


def test_an_image_prepared_by_the_description_has_the_models_embedding(clip, tmp_path):
    system, folder = clip
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    image.save(tmp_path / "x.png")
    told = json.loads((folder / "preprocessing.json").read_text())["models"]["image"]["preprocessing"]
    pixels = (np.asarray(image, dtype=np.float32) / 255 - np.float32(told["mean"])) / np.float32(told["std"])
    found = run(folder, "image", pixels=np.stack([pixels.transpose(2, 0, 1)] * 5))[0]  # 5 images: traced with 2
    np.testing.assert_allclose(found[:1], system.embed("image", [tmp_path / "x.png"]).numpy(), atol=1e-4)
    np.testing.assert_allclose(found[4], found[0], atol=1e-6)


def test_texts_of_the_copied_tokenizer_have_the_models_embeddings(clip):
    system, folder = clip
    texts = ["seven", "a photo of a two"]
    ids, mask = system.processor["text"](texts)
    for end in (ids.shape[1], ids.shape[1] + 3):  # two lengths; padding changes nothing
        padded = torch.nn.functional.pad(ids, (0, end - ids.shape[1])), torch.nn.functional.pad(mask, (0, end - ids.shape[1]))
        inputs = dict(zip(("token_ids", "mask"), padded, strict=True))
        found = run(folder, "text", **{name: inputs[name] for name in told_inputs(folder, "text")})[0]
        np.testing.assert_allclose(found, system.embed("text", texts).numpy(), atol=1e-4)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() <= 512


def told_inputs(folder, name):
    return json.loads((folder / "preprocessing.json").read_text())["models"][name]["inputs"]


def test_a_graph_that_differs_is_refused(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_format, "TOLERANCE", 1e-12)
    tower = towers_of(clip[0])["image"]
    with pytest.raises(zoo.ConfigError, match="image.onnx differs from the model by .* in onnxruntime; allowed is 1e-12"):
        onnx_format.check(tower, clip[1] / "image.onnx", {"pixels": {0: "batch"}})


def test_a_language_model_has_no_tower(tmp_path):
    with pytest.raises(zoo.ConfigError, match="cannot be written as 'onnx', which takes encoders of images, audio and texts"):
        zoo.export(zoo.create_model("llama_nano"), tmp_path / "out", "onnx")


def test_without_its_libraries_the_export_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(zoo.ConfigError, match=r"needs onnx, onnxscript and onnxruntime; install them with: zoo install onnx"):
        zoo.export(zoo.create_model("vit_nano"), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", ["whisper_nano", "pvig_nano", "bert_nano", "t5_nano", "xlnet_nano", "classifier_vit_nano", "timm_nano", "llava_nano"]
)
def test_every_kind_of_encoder_is_exported_and_equal(name, tmp_path):
    """The export itself compares: with onnxruntime, 3 items after tracing with 2."""
    folder = zoo.export(zoo.create_model(name), tmp_path / name, "onnx")
    models = json.loads((folder / "preprocessing.json").read_text())["models"]
    assert models and all(each["largest_difference"] <= 1e-4 and (folder / each["file"]).is_file() for each in models.values())
