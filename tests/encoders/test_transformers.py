"""Models of transformers as encoders: what transformers itself computes, from a config that needs no directory any more."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import zoo
from zoo.interop.base.image_preprocessing import image_keywords
from zoo.processors.image import ImageProcessor
from zoo.registry import find_row
from zoo.registry.construct import build_part, refuse_code
from zoo.storage.tensors import load_strictly
from zoo.training.optim import undecayed_names

SIZES = {"image_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {**SIZES, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CONFIGS = {  # model_type: its config, tokens at 32 x 32, prefix tokens
    "vit": (PATCHES, 17, 1),
    "deit": (PATCHES, 18, 2),
    "dinov2": (PATCHES, 17, 1),
    "dinov2_with_registers": ({**PATCHES, "num_register_tokens": 3}, 20, 4),
    "clip_vision_model": (PATCHES, 17, 1),
    "siglip_vision_model": (PATCHES, 16, 0),
    "vit_msn": (PATCHES, 17, 1),
    "ijepa": (PATCHES, 16, 0),
    "swin": ({"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}, 16, 0),
    "convnext": (STAGES, 1, 0),
    "resnet": ({**STAGES, "embedding_size": 8}, 1, 0),
    "segformer": ({"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}, 1, 0),
}
COLOURS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}


def sides(pixels):
    return {"height": pixels, "width": pixels}


def encoder_of(model_type, config=None, **keywords):
    config = {"model_type": model_type, **(config or {})}
    encoder = build_part("encoder", {"name": "transformers", "config": config, **keywords}, "encoder").eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return encoder


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_outputs_are_transformers_own(model_type):
    config, num_tokens, prefix = CONFIGS[model_type]
    encoder = encoder_of(model_type, config, image_size=32)
    parsed = transformers.AutoConfig.for_model(model_type, **config)
    reference = transformers.AutoModel.from_config(parsed).eval()
    reference.load_state_dict({key.removeprefix("model."): tensor for key, tensor in encoder.state_dict().items()})
    pixels = torch.rand(2, 3, 32, 32)
    expected, encoded = reference(pixels), encoder(pixels)
    tokens = expected.last_hidden_state
    if tokens.ndim == 4:
        tokens = torch.stack([tokens[:, :, i // tokens.shape[3], i % tokens.shape[3]] for i in range(tokens[0, 0].numel())], dim=1)
    assert_same(encoded.tokens, tokens)
    assert tokens.shape == (2, num_tokens, encoder.dim) and encoder.num_prefix_tokens == prefix and encoded.mask.all()
    pooled = expected.get("pooler_output")
    if pooled is None:
        pooled = tokens[:, 0] if model_type == "vit_msn" else tokens.mean(1)
    assert_same(encoded.pooled, pooled.reshape(2, -1))


def test_feature_maps_are_flattened_row_by_row():
    encoder, pixels = encoder_of("convnext", STAGES, image_size=96), torch.rand(1, 3, 96, 96)
    features = encoder.model(pixels).last_hidden_state  # [1, 32, 3, 3]
    assert_same(encoder(pixels).tokens[0, 5], features[0, :, 1, 2])


def test_maps_with_channels_last_are_flattened_row_by_row():
    config = {"hidden_size": 8, "embed_dim_per_stage": [8, 16], "num_attention_heads_per_stage": [1, 1], "blocks_per_stage": [1, 1]}
    config |= {"window_size_per_stage": [4, 4], "global_attention_blocks": [], "num_query_pool_stages": 1}
    encoder, pixels = encoder_of("sam2_hiera_det_model", config, image_size=64), torch.rand(1, 3, 64, 128)
    features = encoder.model(pixels).last_hidden_state  # [1, rows, columns, 16]
    rows, columns = features.shape[1:3]
    assert encoder.dim == features.shape[3] == 16 and columns == 2 * rows
    assert_same(encoder(pixels).tokens[0, columns + 1], features[0, 1, 1])


def test_positions_and_class_tokens_do_not_decay():
    names = {"embeddings.cls_token", "embeddings.position_embeddings"}
    assert set(undecayed_names(encoder_of("vit", PATCHES))) == {f"model.{name}" for name in names}


@pytest.mark.parametrize("model_type", ["vit", "dinov2", "dinov2_with_registers", "siglip_vision_model", "convnext"])
def test_what_is_trained_gets_a_gradient(model_type):
    encoder = encoder_of(model_type, CONFIGS[model_type][0], image_size=32).train()
    encoded = encoder(torch.rand(2, 3, 32, 32))
    (encoded.tokens.square().sum() + encoded.pooled.square().sum()).backward()
    assert all(parameter.requires_grad == (parameter.grad is not None) for parameter in encoder.parameters())
    frozen = [key for key, parameter in encoder.named_parameters() if not parameter.requires_grad]
    assert frozen == (["model.embeddings.mask_token"] if model_type.startswith("dinov2") else [])


def test_without_its_pooler_a_vit_gives_the_class_token():
    encoder = encoder_of("vit", PATCHES, pooler=False)
    encoded = encoder(torch.rand(2, 3, 32, 32))
    assert torch.equal(encoded.pooled, encoded.tokens[:, 0]) and not any("pooler" in key for key in encoder.state_dict())


@pytest.mark.parametrize(("model_type", "tokens"), [("vit", 65), ("dinov2", 65), ("siglip_vision_model", 64)])
def test_another_image_size_resizes_the_positions(model_type, tokens):
    encoder = encoder_of(model_type, PATCHES, image_size=64)
    assert encoder.image_size == 64 and encoder(torch.rand(1, 3, 64, 64)).tokens.shape[1] == tokens


def test_image_sizes_come_from_the_config_or_are_224():
    assert encoder_of("vit", PATCHES).image_size == 32
    assert encoder_of("resnet", CONFIGS["resnet"][0]).image_size == 224


def test_of_a_model_of_images_and_text_the_vision_tower_is_built():
    tower = encoder_of("clip", {"vision_config": PATCHES, "text_config": {"hidden_size": 16}})
    assert type(tower.model) is transformers.CLIPVisionModel and tower.dim == 32


def test_the_default_type_holds_whatever_the_config_says():
    assert encoder_of("vit", {**PATCHES, "dtype": "float16"}).model.dtype is torch.float32


# Directories that transformers saved


@pytest.fixture
def classifier(tmp_path):
    """A directory of a ViT with a classifier of two classes and without pooler."""
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**PATCHES)).eval()
    model.save_pretrained(tmp_path / "vit.v1")
    transformers.ViTImageProcessor(size=sides(32)).save_pretrained(tmp_path / "vit.v1")
    return model, tmp_path / "vit.v1"


def test_a_directory_is_a_row_that_says_everything(classifier):
    model, directory = classifier
    row = find_row(f"transformers/{directory}")
    assert (row.kind, row.family, row.modality) == ("encoder", "transformers", "image")
    assert row.arguments["config"]["hidden_size"] == 32 and "id2label" not in row.arguments["config"]
    assert row.arguments["image_size"] == 32 and row.arguments["pooler"] is False
    assert row.arguments["preprocessing"]["resize"] == "squash"
    refuse_code(row.arguments)


def test_weights_of_a_directory_fit_strictly(classifier):
    model, directory = classifier
    encoder, pixels = zoo.create_model(f"transformers/{directory}"), torch.rand(2, 3, 32, 32)
    load_strictly(encoder, encoder.read_pretrained(directory), origin="test")
    assert_same(encoder(pixels).tokens, model.vit(pixels).last_hidden_state)


def test_weights_of_a_vision_tower_are_taken_out_of_the_whole(tmp_path):
    text = {**SIZES, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
    model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=PATCHES, text_config=text)).eval()
    model.save_pretrained(tmp_path / "clip")
    encoder, pixels = zoo.create_model(f"transformers/{tmp_path}/clip/"), torch.rand(2, 3, 32, 32)
    load_strictly(encoder, encoder.read_pretrained(tmp_path / "clip"), origin="test")
    assert_same(encoder(pixels).pooled, model.vision_model(pixels).pooler_output)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"pooler": True}, r"2 weights missing for ViTModel \(pooler.*set pooler=false"),
        ({"config": {"num_hidden_layers": 1}}, "16 weights left over for ViTModel"),
        ({"config": {"intermediate_size": 48}}, r"weights resized for ViTModel \(.*\[64\] -> \[48\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(classifier, keywords, message):
    encoder = zoo.create_model(f"transformers/{classifier[1]}", **keywords)
    with pytest.raises(zoo.WeightsError, match=message):
        encoder.read_pretrained(classifier[1])


def test_pickled_weights_are_never_read(classifier):
    encoder, directory = zoo.create_model(f"transformers/{classifier[1]}"), classifier[1]
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(zoo.WeightsError, match="cannot be read as ViTModel"):
        encoder.read_pretrained(directory)


def test_a_saved_system_needs_no_directory_any_more(classifier, tmp_path):
    encoders = {"image": f"transformers/{classifier[1]}", "text": "text_nano"}
    system = zoo.create_system({"encoders": encoders, "head": "clip_nano", "processor": {"text": {"vocab_size": 512}}}).eval()
    system.processor.fit(["a word", "another word"])
    zoo.save(system, tmp_path / "saved")
    shutil.rmtree(classifier[1])
    photo = Image.new("RGB", (70, 50), (200, 30, 90))
    loaded = zoo.load(tmp_path / "saved")
    assert torch.equal(loaded.embed("image", [photo]), system.embed("image", [photo]))
    assert loaded.processor["image"].settings["mean"] == [0.5, 0.5, 0.5]


def write(directory, name, content):
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: is not JSON that can be read"),
        ([1], "holds a list, not a JSON object"),
        ({"architecture": "resnet18"}, "no model_type.*use timm/resnet18"),
        ({"model_type": "vitt"}, "config.model_type: transformers has no 'vitt'; did you mean 'vit'"),
        ({"model_type": "vit", "auto_map": {"AutoModel": "code.Model"}}, "config.auto_map: .* names code"),
        ({"model_type": "clip", "vision_config": {"auto_map": {}}}, "config.vision_config.auto_map: .* names code"),
        ({"model_type": "vit", "_target_": "os.system"}, None),
        ({"model_type": "bert"}, "'bert' is not a vision backbone: its model takes input_ids"),
        ({"model_type": "videomae"}, "cannot be used as an encoder of images of 224 x 224 pixels"),
        ({"model_type": "detr"}, "'detr' is not a vision backbone"),
        ({"model_type": "vit_mae"}, "hides patches at random.*config.model_type=vit"),
        ({"model_type": "timm_wrapper"}, "create that as timm/NAME"),
        ({"model_type": "vit", "hidden_size": "wide"}, "transformers rejects this config .*hidden_size"),
        ({"model_type": "vit", "image_size": [32, 64]}, r"config.image_size: got \[32, 64\]"),
        ({"model_type": "vit", "quantization_config": {}}, "quantization_config"),
    ],
)
def test_configs_that_are_no_backbone_are_refused(config, message, tmp_path):
    write(tmp_path / "model", "config.json", config)
    if message is None:  # keys of other frameworks are left out, and so run nothing
        assert "_target_" not in find_row(f"transformers/{tmp_path}/model").arguments["config"]
        return
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.create_model(f"transformers/{tmp_path}/model", device="meta")


def test_a_mapping_cannot_name_code_either():
    with pytest.raises(zoo.ConfigError, match="config._target_: 'os.system' names code"):
        build_part("encoder", {"name": "transformers", "config": {"model_type": "vit", "_target_": "os.system"}}, "encoder")


def test_nothing_is_fetched_by_a_constructor():
    with pytest.raises(zoo.ConfigError, match="transformers rejects this config for model_type 'edgetam'"):
        encoder_of("edgetam")


def test_without_transformers_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(zoo.ConfigError, match=r"zoo install transformers"):
        encoder_of("vit")


# Names: directories and hub ids


@pytest.mark.parametrize("name", ["nope", "a/b/c", "/nowhere/at/all", "../nowhere"])
def test_a_missing_directory_is_said_at_once(name):
    with pytest.raises(zoo.ConfigError, match="no such directory"):
        find_row(f"transformers/{name}")


def test_near_directories_are_named(tmp_path):
    write(tmp_path / "vit_base", "config.json", {"model_type": "vit"})
    with pytest.raises(zoo.ConfigError, match="no such directory; did you mean 'vit_base'"):
        find_row(f"transformers/{tmp_path}/vit_bas")


def test_an_unknown_hub_id_is_refused_offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(zoo.ConfigError, match="owner/name: no such directory, and as a hub id its config.json is not in the local cache"):
        find_row("transformers/owner/name")


def test_a_hub_id_is_read_from_the_local_cache(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    for part in ("refs", "snapshots/abc", ".no_exist/abc"):
        (folder / part).mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    write(folder / "snapshots/abc", "config.json", {"model_type": "vit", **PATCHES})
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / ".no_exist/abc" / name).touch()  # so the cache notes what a model does not have
    assert find_row("transformers/owner/name").arguments == {"config": {"model_type": "vit", **PATCHES}}


# Preprocessing


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {"size": sides(32)}),
        ("ViT", {"size": sides(32), "do_rescale": True, "rescale_factor": 1 / 127.5}),
        ("DeiT", {"size": sides(40), "crop_size": sides(32)}),
        ("CLIP", {"size": {"shortest_edge": 40}, "crop_size": sides(32)}),
        ("CLIP", {"size": {"shortest_edge": 32}, "crop_size": sides(32), "do_normalize": False}),
        ("Bit", {"size": {"shortest_edge": 48}, "crop_size": sides(32)}),
        ("Siglip", {"size": sides(32)}),
        ("Beit", {"size": sides(32)}),
        ("ConvNext", {"size": {"shortest_edge": 32}}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("Levit", {"size": {"shortest_edge": 32}, "crop_size": sides(32)}),
        ("MobileNetV2", {"size": {"shortest_edge": 40}, "crop_size": sides(32)}),
    ],
)
def test_images_are_prepared_as_transformers_does(kind, settings):
    """Within one of 255 steps: ours resamples only what survives the cut."""
    theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**COLOURS, **settings)
    noise = np.random.default_rng(0).integers(0, 255, (45, 81, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((162, 90), Image.Resampling.BILINEAR)
    size, keywords = image_keywords({**json.loads(theirs.to_json_string()), "image_processor_type": f"{kind}ImageProcessor"})
    ours = ImageProcessor(image_size=size, **keywords)([photo])[0]
    difference = (ours - theirs(photo, return_tensors="pt")["pixel_values"]).abs()
    assert difference.max() <= 1.01 / 255 / min(keywords["std"]) and difference.mean() < 1e-3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": 32}, ("squash", 32, 1.0)),
        ({"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor", "size": 32}, ("squash", 32, 1.0)),
        ({"image_processor_type": "CLIPImageProcessorFast", "size": 40, "crop_size": 32, "do_center_crop": True}, ("crop", 32, 0.8)),
    ],
)
def test_files_of_older_releases_are_read(changes, expected):
    settings = {"image_processor_type": "ViTImageProcessor", "resample": 2, **COLOURS, **changes}
    size, keywords = image_keywords(settings)
    assert (keywords["resize"], size, keywords["crop_fraction"]) == expected


def test_every_crop_fraction_gives_its_size_back():
    for scaled in range(224, 700):
        settings = {"size": {"shortest_edge": scaled}, "crop_size": sides(224), "do_center_crop": True, "resample": 3, **COLOURS}
        size, keywords = image_keywords({"image_processor_type": "CLIPImageProcessor", **settings})
        assert int(size / keywords["crop_fraction"]) == scaled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "EfficientNetImageProcessor"}, "image_processor_type 'EfficientNetImageProcessor' cannot be done"),
        ({"do_resize": False}, "do_resize: False cannot be done"),
        ({"do_pad": True}, "do_pad: True"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order: True"),
        ({"resample": 4}, "resample: got 4; allowed are"),
        ({"size": {"height": 32, "width": 40}}, "size: got .*allowed are a number, equal height and width"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "size: got"),
        ({"size": {"shortest_edge": 32}}, "do_center_crop: false leaves images that are not square"),
        ({"do_center_crop": True, "crop_size": 40}, "crop_size 40 is larger than size 32"),
        ({"image_mean": [0.5]}, r"image_mean: got \[0.5\]; allowed are three numbers"),
        ({"image_mean": None}, "image_mean: got None"),
    ],
)
def test_preprocessing_that_zoo_cannot_do_is_refused(changes, message):
    settings = {"image_processor_type": "ViTImageProcessor", "size": sides(32), "resample": 2, **COLOURS}
    with pytest.raises(zoo.ConfigError, match=message):
        image_keywords({**settings, **changes})


def test_the_processor_of_a_whole_model_is_read_too(tmp_path):
    write(tmp_path / "m", "config.json", {"model_type": "vit", **PATCHES})
    image = {"image_processor_type": "CLIPImageProcessor", "size": 40, "crop_size": 32, "do_center_crop": True, "resample": 3, **COLOURS}
    write(tmp_path / "m", "processor_config.json", {"image_processor": image})
    assert find_row(f"transformers/{tmp_path}/m").arguments["preprocessing"]["crop_fraction"] == 0.8
