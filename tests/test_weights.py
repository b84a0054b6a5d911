"""Weights from every source through ``create_model(weights=...)``: converted and strict; partial only if parts are named."""

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification

import zoo
from zoo.assembly.loading import load_part
from zoo.interop import vig

TINY = {"image_size": 32, "patch_size": 8, "dim": 48, "depth": 2, "num_heads": 3}


@pytest.fixture
def timm_file(tmp_path):
    """A ViT of timm with a classifier of five, and the file of its weights."""
    reference = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=5
    ).eval()
    torch.nn.init.normal_(reference.head.weight)
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    return reference, tmp_path / "timm.pth"


def test_a_classifier_of_timm_becomes_a_system(timm_file):
    reference, path = timm_file
    config = {"encoders": {"image": {"name": "vit", **TINY}}, "head": {"name": "classifier", "num_classes": 5}}
    system, pixels = zoo.create_system(config, weights=path), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(system.logits(pixels), reference(pixels), rtol=0, atol=1e-5)


def test_an_encoder_takes_such_a_file_only_without_its_classifier(timm_file):
    reference, path = timm_file
    with pytest.raises(zoo.WeightsError, match=r"holds a classifier too \(head.bias.*weights_parts=\['encoder'\]"):
        zoo.create_model("vit_nano", weights=path, pool="cls", **TINY)
    model, pixels = zoo.create_model("vit_nano", weights=path, weights_parts=["encoder"], pool="cls", **TINY), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).pooled, reference.forward_features(pixels)[:, 0], rtol=0, atol=1e-5)


def test_published_vision_gnn_weights_load_into_system_and_encoder(tmp_path):
    system = zoo.create_model("classifier_vig_nano", head={"num_classes": 6, "hidden_dim": 1024})
    encoder = system.encoders["image"]
    published = vig.from_zoo(encoder.state_dict()) | vig.classifier_from_zoo(system.head.state_dict())
    torch.save({"state_dict": published}, tmp_path / "vig.pth")
    other = zoo.create_model("classifier_vig_nano", head={"num_classes": 6, "hidden_dim": 1024}, weights=tmp_path / "vig.pth")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in system.state_dict().items())
    alone = zoo.create_model("vig_nano", weights=tmp_path / "vig.pth", weights_parts=["encoder"])
    assert all(torch.equal(tensor, alone.state_dict()[name]) for name, tensor in encoder.state_dict().items())


def test_an_encoder_comes_out_of_a_system_by_its_name(tmp_path):
    system = zoo.create_model("clip_vit_nano")
    zoo.save(system, tmp_path / "clip")
    with pytest.raises(zoo.WeightsError, match="holds a whole system; name the part .* encoders.image, encoders.text, head"):
        zoo.create_model("vit_nano", weights=tmp_path / "clip")
    model = zoo.create_model("vit_nano", weights=tmp_path / "clip", weights_parts=["encoders.image"])
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in system.encoders["image"].state_dict().items())


def test_only_the_named_parts_of_a_system_are_loaded(tmp_path):
    zoo.save(zoo.create_model("clip_vit_nano"), tmp_path / "clip")
    torch.manual_seed(1)
    before = zoo.create_model("clip_vit_nano")
    torch.manual_seed(1)
    after = zoo.create_model("clip_vit_nano", weights=tmp_path / "clip", weights_parts=["encoders.text"])
    changed = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])}
    assert changed and all(name.startswith("encoders.text.") for name in changed)


def test_an_encoder_loads_into_a_part_of_a_system(tmp_path):
    encoder = zoo.create_model("vit_nano")
    zoo.save(encoder, tmp_path / "vit")
    system = zoo.create_model("clip_vit_nano")
    load_part(system, tmp_path / "vit", part="encoders.image")
    assert all(torch.equal(tensor, system.encoders["image"].state_dict()[name]) for name, tensor in encoder.state_dict().items())
    with pytest.raises(zoo.ConfigError, match="did you mean 'encoders.image'"):
        load_part(system, tmp_path / "vit", part="encoders.imag")


@pytest.mark.heavy
def test_weights_of_open_clip_load_into_the_system_of_that_size(tmp_path):
    reference = open_clip.create_model("ViT-B-32-quickgelu").eval()
    save_file(reference.state_dict(), tmp_path / "open_clip.safetensors")
    system = zoo.create_model("clip_vit_b32", weights=tmp_path / "open_clip.safetensors")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = reference.encode_image(pixels, normalize=True)
    torch.testing.assert_close(system.embed("image", pixels), expected, rtol=0, atol=1e-5)
    tower = zoo.create_model("vit_base_patch32_clip_224", weights=tmp_path / "open_clip.safetensors", weights_parts=["encoders.image"])
    assert torch.equal(tower.positions, system.encoders["image"].positions)


def test_a_backbone_of_timm_takes_timms_file_without_its_classifier(tmp_path):
    reference = timm.create_model("resnet10t").eval()
    torch.save(reference.state_dict(), tmp_path / "resnet.pth")
    model = zoo.create_model("timm/resnet10t", weights=tmp_path / "resnet.pth")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).pooled, reference.forward_head(reference.forward_features(pixels), pre_logits=True))


def test_a_backbone_of_transformers_takes_its_directory(tmp_path):
    config = ViTConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=64, image_size=32, patch_size=8)
    reference = ViTForImageClassification(config).eval()
    reference.save_pretrained(tmp_path)
    model, pixels = zoo.create_model(f"transformers/{tmp_path}", weights=tmp_path), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).tokens, reference.vit(pixels).last_hidden_state)


def test_nothing_is_loaded_where_something_does_not_fit(timm_file):
    model = zoo.create_model("vit_nano", pool="cls", **{**TINY, "depth": 3})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(zoo.WeightsError, match="12 missing: blocks.2"):
        load_part(model, timm_file[1], part="encoder")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_sharded_directories_are_read_whole_and_damaged_ones_refused(tmp_path):
    model = zoo.create_model("vit_nano")
    names = list(model.state_dict())
    shards = {name: f"part{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(shards.values()):
        save_file({name: model.state_dict()[name] for name in names if shards[name] == file}, tmp_path / file)
    (tmp_path / "config.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": ' + str(shards).replace("'", '"') + "}")
    other = zoo.create_model("vit_nano", weights=tmp_path)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
    index.write_text("[]")
    with pytest.raises(zoo.WeightsError, match="index.json: got .*; allowed is an object"):
        zoo.create_model("vit_nano", weights=tmp_path)


@pytest.mark.parametrize("source", ["timm://no_such_model", "hf://nobody/nothing-at-all"])
def test_what_cannot_be_fetched_is_said_in_one_line(source, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(zoo.WeightsError, match=f"^{source}: cannot be fetched") as caught:
        zoo.create_model("vit_nano", weights=source)
    assert len(str(caught.value).splitlines()) == 1
