"""Models of timm as encoders: equal outputs for every layout of features, and timm's preprocessing."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import nn

import zoo
from zoo.layers.meta import meta_device
from zoo.processors.image import ImageProcessor
from zoo.storage.tensors import load_strictly
from zoo.training.optim import undecayed_names

# Per layout of the features: name, image size, prefix tokens; then models that widen them behind their pooling.
SEQUENCES = [("test_vit", 32, 1), ("deit_tiny_distilled_patch16_224", 32, 2), ("test_vit_relpos", 32, 0)]
MAPS = [("test_resnet", 64), ("test_convnext", 64), ("test_efficientnet", 64), ("test_coatnet", 64)]
CHANNELS_LAST = [("swin_tiny_patch4_window7_224", 56)]
WIDENED = [("mobilenetv3_small_050", 64, (2, 3)), ("efficientvit_b0", 64, (2, 3)), ("test_mambaout", 64, (1, 2))]
SYSTEM = {"encoders": {"image": "timm/test_vit", "text": "text_nano"}, "head": "clip_nano", "processor": {"text": {"vocab_size": 512}}}


def encoder_and_reference(name, image_size):
    """An encoder with random weights and statistics, and timm's own model with its classifier and the same weights."""
    encoder = zoo.create_model(f"timm/{name}", image_size=image_size)
    with torch.no_grad():
        for key, tensor in encoder.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1 if "var" in key else torch.randn_like(tensor) * 0.02)
    sizes = {"img_size": image_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    reference = timm.create_model(name, **sizes).eval()
    weights = {key.removeprefix("model."): tensor for key, tensor in encoder.state_dict().items()}
    assert not reference.load_state_dict(weights, strict=False).unexpected_keys
    return encoder, reference


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "image_size", "prefix"), SEQUENCES)
def test_sequences_are_timms_own(name, image_size, prefix):
    encoder, reference = encoder_and_reference(name, image_size)
    pixels = torch.rand(2, 3, image_size, image_size)
    features, encoded = reference.forward_features(pixels), encoder(pixels)
    assert_same(encoded.tokens, features)
    assert_same(encoded.pooled, reference.forward_head(features, pre_logits=True))
    assert (encoder.num_prefix_tokens, encoder.dim) == (prefix, features.shape[2]) and encoded.mask.all()
    assert features.shape[1] - prefix == (image_size // 16) ** 2


@pytest.mark.parametrize(("name", "image_size"), MAPS)
def test_feature_maps_are_flattened_row_by_row(name, image_size):
    encoder, reference = encoder_and_reference(name, image_size)
    pixels = torch.rand(2, 3, image_size, image_size)
    features, encoded = reference.forward_features(pixels), encoder(pixels)
    rows, columns = features.shape[2:]
    assert_same(encoded.tokens, torch.stack([features[:, :, i // columns, i % columns] for i in range(rows * columns)], dim=1))
    assert_same(encoded.pooled, reference.forward_head(features, pre_logits=True))


@pytest.mark.parametrize(("name", "image_size"), CHANNELS_LAST)
def test_maps_with_channels_last_are_flattened_row_by_row(name, image_size):
    encoder, reference = encoder_and_reference(name, image_size)
    pixels = torch.rand(2, 3, image_size, image_size)
    features, encoded = reference.forward_features(pixels), encoder(pixels)
    rows, columns = features.shape[1:3]
    assert encoder.dim == features.shape[3] == reference.num_features
    assert_same(encoded.tokens, torch.stack([features[:, i // columns, i % columns] for i in range(rows * columns)], dim=1))
    assert_same(encoded.pooled, reference.forward_head(features, pre_logits=True))


@pytest.mark.parametrize(("name", "image_size", "places"), WIDENED)
def test_models_that_widen_their_features_are_pooled_before_that(name, image_size, places):
    encoder, reference = encoder_and_reference(name, image_size)
    pixels = torch.rand(2, 3, image_size, image_size)
    encoded = encoder(pixels)
    assert reference.head_hidden_size != encoder.dim == reference.num_features == encoded.tokens.shape[2]
    assert_same(encoded.pooled, reference.forward_features(pixels).mean(places))
    pool = getattr(reference, "global_pool", None) or getattr(reference.head, "global_pool", None)
    if isinstance(pool, nn.Module):  # timm's own, where it is a module
        assert_same(encoded.pooled, pool(reference.forward_features(pixels)).flatten(1))


@pytest.mark.parametrize("name", ["timm_nano", "timm/test_vit", "timm/mobilenetv3_small_050", "timm/test_mambaout"])
def test_what_is_trained_gets_a_gradient_and_what_is_not_has_no_say(name):
    encoder = zoo.create_model(name).train()
    encoded = encoder(torch.rand(2, 3, encoder.image_size, encoder.image_size))
    (encoded.tokens.square().sum() + encoded.pooled.square().sum()).backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), key
    frozen = [key for key, parameter in encoder.named_parameters() if not parameter.requires_grad]
    assert all("head" in key for key in frozen) and bool(frozen) == (name in ("timm/mobilenetv3_small_050", "timm/test_mambaout"))


@pytest.mark.parametrize(("name", "tokens", "prefix"), [("pit_ti_distilled_224", 2, 2), ("levit_128s", 16, 0)])
def test_tokens_and_prefix_are_read_off_the_model(name, tokens, prefix):
    assert zoo.create_model(f"timm/{name}", device="meta").num_prefix_tokens == prefix
    assert zoo.summarize(f"timm/{name}").tokens == {"image": tokens}


def test_batch_statistics_change_in_training_only():
    encoder, pixels = zoo.create_model("timm/test_resnet"), torch.rand(4, 3, 64, 64)
    before = encoder.model.bn1.running_mean.clone()
    alone = torch.cat([encoder(pixels[i : i + 1]).pooled for i in range(4)])
    assert_same(encoder(pixels).pooled, alone)
    assert torch.equal(encoder.model.bn1.running_mean, before)
    encoder.train()(pixels)
    assert not torch.equal(encoder.model.bn1.running_mean, before)


def test_drop_path_changes_training_only():
    encoder, pixels = zoo.create_model("timm_nano", drop_path=0.9), torch.rand(8, 3, 32, 32)
    assert torch.equal(encoder(pixels).pooled, encoder(pixels).pooled)
    assert not torch.allclose(encoder(pixels).pooled, encoder.train()(pixels).pooled)


@pytest.mark.parametrize(
    "changes", [{}, {"crop_mode": "squash", "crop_pct": 0.9}, {"crop_mode": "border", "crop_pct": 1.0}, {"interpolation": "bilinear"}]
)
def test_images_are_prepared_as_timm_does(changes):
    """Within two of 255 steps, one for each direction: ours resamples only what survives the cut."""
    encoder = zoo.create_model("timm/test_vit")
    encoder.model.pretrained_cfg |= changes
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((320, 240), Image.Resampling.BILINEAR)
    theirs = create_transform(**resolve_model_data_config(encoder.model))(photo)
    ours = ImageProcessor(image_size=encoder.image_size, **encoder.preprocessing)([photo])[0][0]
    assert (ours - theirs).abs().max() <= 2.01 / 255 / min(encoder.preprocessing["std"])


def test_timms_preprocessing_reaches_the_systems_processor():
    settings = zoo.create_system(SYSTEM).processor["image"].settings
    expected = resolve_model_data_config(timm.create_model("test_vit"))
    assert (settings["image_size"], settings["crop_fraction"]) == (expected["input_size"][1], expected["crop_pct"])
    assert (tuple(settings["mean"]), tuple(settings["std"])) == (expected["mean"], expected["std"])


def test_a_saved_system_comes_back(tmp_path):
    system = zoo.create_system({**SYSTEM, "encoders": {"image": "timm/test_resnet", "text": "text_nano"}})
    system.processor.fit(["a word", "another word"])
    system.train()
    system.encoders["image"](torch.rand(4, 3, 160, 160))  # statistics that are not those of a new model
    system.eval()
    loaded = zoo.load(zoo.save(system, tmp_path / "saved"))
    photo = Image.new("RGB", (70, 50), (200, 30, 90))
    assert torch.equal(loaded.embed("image", [photo]), system.embed("image", [photo]))
    assert loaded.config["encoders"]["image"] == {"name": "timm", "model": "test_resnet"}


@pytest.mark.parametrize("name", ["test_vit", "levit_128s", "test_mambaout"])
def test_weights_with_a_classifier_fit_strictly_without_it(name):
    encoder = zoo.create_model(f"timm/{name}", device="meta")
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
    assert encoder.from_timm(theirs).keys() == encoder.state_dict().keys()
    assert set(encoder.from_timm({"stem.odd": torch.zeros(1)})) == {"model.stem.odd"}


def test_pretrained_weights_are_timms_own_at_this_image_size(tmp_path, monkeypatch):
    trained = timm.create_model("test_vit").eval()
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    configs = timm.models._registry._model_pretrained_cfgs
    local = replace(configs["test_vit.r160_in1k"], file=str(tmp_path / "model.safetensors"))
    monkeypatch.setitem(configs, "test_vit.r160_in1k", local)
    encoder = zoo.create_model("timm/test_vit.r160_in1k")
    load_strictly(encoder, encoder.read_pretrained(), origin="timm")
    pixels = torch.rand(1, 3, 160, 160)
    assert_same(encoder(pixels).tokens, trained.forward_features(pixels))
    larger = zoo.create_model("timm/test_vit", image_size=192)
    load_strictly(larger, larger.read_pretrained("test_vit.r160_in1k"), origin="timm")
    named = zoo.create_model("timm/test_vit", image_size=192, weights="timm://test_vit.r160_in1k")
    assert all(torch.equal(tensor, larger.state_dict()[name]) for name, tensor in named.state_dict().items())


def test_weights_that_do_not_exist_are_refused():
    with pytest.raises(zoo.WeightsError, match="timm://convit_nope: cannot be downloaded"):
        zoo.create_model("timm_nano").read_pretrained("convit_nope")


def test_positions_do_not_decay():
    system = zoo.create_system(SYSTEM)
    assert {"encoders.image.model.pos_embed", "encoders.image.model.cls_token"} <= set(undecayed_names(system))


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("resnet19", {}, "model: timm has no model 'resnet19'; did you mean 'resnet18'"),
        ("resnet18.a1_in1", {}, "did you mean 'resnet18.a1_in1k'"),
        ("hf-hub:timm/resnet18", {}, "timm/resnet18: no such directory, and as a hub id its config.json is not in the local cache"),
        ("", {}, "names no model"),
        ("efficientvim_m1", {}, "efficientvim_m1: gives 4 feature tensors instead of one"),
        ("vit_base_patch16_sapiens2", {}, "image_size: .*3 channels of 1024 x 768.*set image_size, for example 768"),
        ("test_vit", {"image_size": 33}, "image_size: .*images of 33 x 33 pixels: .*divisible by patch size"),
        ("vgg11", {"drop_path": 0.1}, "drop_path: got 0.1, but timm/vgg11 has no stochastic depth"),
        ("resnet18", {"drop_path": 1.0}, "drop_path: got 1.0; allowed is 0 to below 1"),
        ("resnet18", {"img_size": 64}, "img_size: .*did you mean 'image_size'"),
    ],
)
def test_what_timm_cannot_do_is_refused(name, keywords, message):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.create_model(f"timm/{name}", device="meta", **keywords)


def test_pixels_of_another_size_are_refused_where_the_model_fixes_it():
    with pytest.raises(zoo.DataError, match=r"pixels are \[1, 3, 40, 40\], which timm/test_vit refuses"):
        zoo.create_model("timm_nano")(torch.rand(1, 3, 40, 40))


def test_without_timm_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (lambda: zoo.create_model("timm/resnet18"), lambda: zoo.list_models("timm/*")):
        with pytest.raises(zoo.ConfigError, match=r"zoo install vision"):
            call()


def test_a_library_that_is_imported_while_nothing_is_filled_still_fills_later():
    with meta_device():
        kept = nn.init.normal_
        assert kept(torch.empty(3)).is_meta
    assert 0.9 < kept(torch.zeros(10_000)).std() < 1.1


def test_a_model_may_be_made_where_no_gradients_are_kept():
    with torch.inference_mode():
        assert zoo.create_model("timm/test_vit")(torch.rand(1, 3, 160, 160)).pooled.shape == (1, 64)
