"""Commands on pictures of their own sizes: classify, embed, search, serve's verbs, retrieval, and export to timm and back."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

import zoo
from zoo.commands.cli import main
from zoo.commands.index.store import Index
from zoo.evaluation.retrieval import Retrieval
from zoo.registry.construct import build_part

SIZES = {"a.png": (48, 64), "b.png": (20, 90), "c.png": (31, 33), "d.png": (9, 9), "e.png": (160, 40)}
THIN = "thin.png"  # 1 x 3000 pixels
TILERS = {"budget": "{kind: budget, max_patches: 16}", "fit": "{kind: fit, min_pixels: 256, max_pixels: 4096}"}
NAMES = "system.head.class_names=[cat, dog, so]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of five sizes, and a table with captions of them."""
    place, generator = tmp_path_factory.mktemp("sizes"), np.random.default_rng(0)
    for name, size in SIZES.items():
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(place / name)
    return place


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a function that gives the folder of a saved system with a tiler."""
    made = {}

    def make(name, tiler):
        if (name, tiler) not in made:
            torch.manual_seed(0)
            words = [NAMES] if name.startswith("classifier") else []
            system = zoo.create_system(name, [f"+system.processor.image.tiler={TILERS[tiler]}", *words]).eval()
            if not words:
                system.processor.fit(["a photo of a cat", "two dogs", "so and so"])
            made[name, tiler] = tmp_path_factory.mktemp("models") / "model"
            zoo.save(system, made[name, tiler])
        return made[name, tiler]

    return make


@pytest.mark.parametrize("tiler", TILERS)
@pytest.mark.parametrize("name", ["classifier_vit_nano", "siglip_vit_nano"])
def test_classify_gives_each_picture_what_it_gets_alone(name, tiler, folder, models, capsys):
    model, labels = models(name, tiler), [] if name.startswith("classifier") else ["--labels", "cat,dog,so"]
    assert main(["classify", str(folder), "--model", str(model), "--json", *labels]) == 0
    found = {line["path"].rpartition("/")[2]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(found) == set(SIZES)
    for file, line in list(found.items())[:2]:
        assert main(["classify", str(folder / file), "--model", str(model), "--json", *labels]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert alone["labels"] == pytest.approx(line["labels"], abs=1e-5)
    system = zoo.load(model)
    rows = (
        system.classify([folder / file for file in SIZES])
        if not labels
        else system.classify([folder / file for file in SIZES], ["cat", "dog", "so"], templates=["a photo of a {}"])
    )
    assert rows.shape == (5, 3) and len({tuple(row.tolist()) for row in rows}) == 5


@pytest.mark.parametrize("tiler", TILERS)
def test_a_thin_picture_is_taken_or_named_and_the_others_go_on(tiler, folder, models, tmp_path, capsys):
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    Image.new("RGB", (3000, 1), (200, 10, 10)).save(tmp_path / THIN)
    (tmp_path / "empty.png").write_bytes(b"")
    status = main(["classify", str(tmp_path), "--model", str(models("classifier_vit_nano", tiler)), "--json"])
    said = capsys.readouterr()
    found = {line["path"].rpartition("/")[2]: line for line in map(json.loads, said.out.splitlines())}
    bad = {"empty.png"} | ({THIN} if tiler == "fit" else set())
    assert status == 1 and f"{len(bad)} of 4 images could not be read" in said.err
    assert {name for name, line in found.items() if line["error"]} == bad
    if tiler == "fit":
        assert "1 x 3000 pixels; tiler fit takes a ratio of the sides of at most 200" in found[THIN]["error"]


@pytest.mark.parametrize("tiler", TILERS)
def test_pictures_without_pixels_are_named(tiler, models):
    system = zoo.load(models("siglip_vit_nano", tiler))
    for wrong in (np.zeros((0, 5, 3), dtype=np.uint8), torch.zeros(3, 4, 0, dtype=torch.uint8)):
        with pytest.raises(zoo.DataError, match=r"(array uint8 \[0, 5, 3\]|shape \[3, 4, 0\])"):
            system.embed("image", [wrong])


@pytest.mark.parametrize("tiler", TILERS)
def test_an_index_of_mixed_sizes_is_embedded_and_searched(tiler, folder, models, tmp_path, capsys):
    model, index = models("siglip_vit_nano", tiler), tmp_path / "index"
    assert main(["embed", str(folder), "-o", str(index), "--model", str(model), "--batch-size", "2"]) == 0
    paths = [item["path"] for item in Index(index).items()]
    expected = zoo.load(model).embed("image", [folder / path for path in paths])
    np.testing.assert_allclose(np.concatenate(list(Index(index).chunks(2))), expected.numpy(), atol=1e-5)
    capsys.readouterr()
    assert main(["search", "--image", str(folder / "b.png"), "--index", str(index), "--top-k", "1", "--json"]) == 0
    assert "b.png" in capsys.readouterr().out


@pytest.mark.parametrize("tiler", TILERS)
def test_retrieval_reads_pictures_of_their_own_sizes(tiler, folder, models):
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "caption", "split"), *((name, f"picture {name[0]}", "test") for name in SIZES)])
    source = build_part(
        "source", {"name": "folder", "path": str(folder), "table": "table.csv", "path_key": "path", "caption_key": "caption"}, "source"
    )
    found = [Retrieval(batch_size=size)(zoo.load(models("siglip_vit_nano", tiler)), source, "test").metrics for size in (1, 4)]
    assert found[0].keys() == found[1].keys() and found[0]["image_to_text_recall@5"] == pytest.approx(found[1]["image_to_text_recall@5"])


def test_a_naflex_tower_goes_to_timm_and_back(tmp_path):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 2, "class_token": False, "activation": "gelu_tanh"}
    vit = {"name": "vit", **sizes, "pool": "attention", "resampling": "bilinear"}
    image = {"tiler": {"kind": "budget", "max_patches": 16}}
    head = {"name": "classifier", "class_names": ["cat", "dog"]}
    system = zoo.create_system({"name": "native", "encoders": {"image": vit}, "head": head, "processor": {"image": image}}).eval()
    zoo.save(system, tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "timm"), "--format", "timm"]) == 0
    (file,) = (tmp_path / "timm").glob("*.safetensors")
    settings = {"act_layer": "gelu_tanh", "global_pool": "map", "pos_embed_interp_mode": "bilinear"}
    reference = NaFlexVit(
        NaFlexVitCfg(embed_dim=24, depth=2, num_heads=2, patch_size=8, pos_embed_grid_size=(4, 4), **settings), num_classes=2
    )
    reference.load_state_dict(load_file(file))
    batch = system.processor(image=[np.zeros((48, 64, 3), np.uint8), np.full((20, 90, 3), 200, np.uint8)])
    for patches, (rows, columns) in zip(
        batch.inputs["image"].split(batch.grids["image"].prod(1).tolist()), batch.grids["image"].tolist(), strict=True
    ):
        given = {
            "patches": patches.unflatten(1, (3, 8, 8)).permute(0, 2, 3, 1).flatten(1)[None],
            "patch_coord": torch.cartesian_prod(torch.arange(rows), torch.arange(columns))[None],
            "patch_valid": torch.ones(1, rows * columns, dtype=torch.bool),
        }
        with torch.no_grad():
            wanted = reference.eval()(given).softmax(-1)[0]
        one = zoo.Batch({"image": patches}, grids={"image": torch.tensor([[rows, columns]])})
        torch.testing.assert_close(system.classify(one)[0], wanted, rtol=0, atol=1e-5)
    again = zoo.create_system(system.config, weights=file)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in system.state_dict().items())
