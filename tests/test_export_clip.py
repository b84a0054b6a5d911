"""``zoo.export`` of whole image-text systems: transformers' pipeline and open_clip run what we wrote, and we read it back."""

import json

import open_clip
import pytest
import torch
import transformers
from PIL import Image
from skimage import data as photos
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

import zoo
from zoo.commands.cli import main
from zoo.runs.first_weights import start_from

SIZES = {"dim": 64, "depth": 2, "num_heads": 4}
IMAGE = {"name": "vit", "image_size": 56, "patch_size": 14, **SIZES, "eps": 1e-5, "pre_norm": True, "patch_bias": False}
TEXT = {"name": "text", "vocab_size": 400, "context_length": 64, **SIZES}
SIGLIP_IMAGE = {"name": "vit", "image_size": 56, "patch_size": 14, **SIZES, "class_token": False, "pool": "attention"}
SIGLIP_IMAGE |= {"activation": "gelu_tanh", "preprocessing": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash"}}
SIGLIP_WORDS = {"tokenizer": "given", "cleaning": "punctuation", "pad_to": "context_length", "mask_padding": False}
SIGLIP_WORDS |= {"pad_token_id": 1, "eot_token_id": 1}
SYSTEMS = {
    "openai": {
        "encoders": {"image": {**IMAGE, "activation": "quick_gelu"}, "text": {"name": "text", **SIZES, "activation": "quick_gelu"}},
        "head": {"name": "clip", "embed_dim": 20},
        "processor": {"text": {"tokenizer": "clip", "cleaning": "web", "eot_token_id": 49407}},
    },
    "trained here": {"encoders": {"image": IMAGE, "text": {**TEXT, "eot_token_id": 2}}, "head": {"name": "clip", "embed_dim": 20}},
    "siglip": {
        "encoders": {
            "image": SIGLIP_IMAGE,
            "text": {**TEXT, "eps": 1e-6, "activation": "gelu_tanh", "causal": False, "pool": "last"},
        },
        "head": {"name": "clip", "embed_dim": 64, "loss": "sigmoid", "projections": {"image": "none", "text": "linear_bias"}},
        "processor": {"text": SIGLIP_WORDS},
    },
}
LABELS = ["Astronaut", "a cat, sleeping", "Hello World!! naïve 猫"]
TEMPLATE = "This is a photo of {}."
PICTURES = [Image.fromarray(photos.astronaut()), Image.fromarray(photos.chelsea())]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    transformers.utils.logging.disable_progress_bar()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def pieces():
    """A SentencePiece-like tokenizer, as SigLIP has one."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(["this is a photo of the dog and an astronaut", "hello world", "a sleeping cat"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


@pytest.fixture
def made(scramble):
    def make(name, **changes):
        system = scramble(zoo.create_system({**SYSTEMS[name], **changes}))
        text = system.processor["text"]
        if name == "siglip":
            text.use(pieces())
            system.head.logit_bias.data.fill_(-1.3)
        if not text.is_fitted:
            text.fit(["a photo of a cat", "this is a dog", "an astronaut sleeping"])
        return system

    return make


@pytest.mark.parametrize("name", SYSTEMS)
def test_transformers_pipeline_gives_our_probabilities_and_we_read_it_back(name, made, tmp_path):
    system = made(name)
    ours = system.classify(PICTURES, LABELS, templates=[TEMPLATE])
    zoo.export(system, tmp_path / "out")
    pipe = transformers.pipeline("zero-shot-image-classification", model=str(tmp_path / "out"))
    for picture, expected in zip(PICTURES, ours.tolist(), strict=True):
        found = {row["label"]: row["score"] for row in pipe(picture, candidate_labels=LABELS, hypothesis_template=TEMPLATE)}
        assert [found[label] for label in LABELS] == pytest.approx(expected, abs=2e-3)  # a grey level here and there
    again = zoo.load(tmp_path / "out")
    torch.testing.assert_close(again.classify(PICTURES, LABELS, templates=[TEMPLATE]), ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SYSTEMS)
@torch.no_grad()
def test_transformers_loads_every_weight_and_features_are_equal(name, made, tmp_path):
    system = made(name)
    zoo.export(system, tmp_path / "out")
    kind = transformers.SiglipModel if name == "siglip" else transformers.CLIPModel
    model, report = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = transformers.AutoProcessor.from_pretrained(tmp_path / "out")(
        images=PICTURES, text=LABELS, padding="max_length", max_length=64, truncation=True, return_tensors="pt"
    )
    found = model.eval()(**inputs)
    torch.testing.assert_close(found.text_embeds, system.embed("text", LABELS), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.image_embeds, system.embed("image", inputs["pixel_values"]), atol=1e-5, rtol=0)
    levels = (
        (system.processor["image"](PICTURES)[0] - inputs["pixel_values"]).abs()
        * 255
        * torch.tensor(system.processor["image"].std).view(3, 1, 1)
    )
    assert levels.max() <= 1.01


@pytest.mark.parametrize("name", ["openai", "trained here"])
@torch.no_grad()
def test_open_clip_runs_it_from_the_directory_and_by_name_with_a_file(name, made, tmp_path):
    system = made(name)
    zoo.export(system, tmp_path / "our_clip", format="open_clip")
    open_clip.add_model_config(tmp_path / "our_clip" / "our_clip.json")
    pixels = system.processor["image"](PICTURES)[0]
    file = str(tmp_path / "our_clip" / "open_clip_model.safetensors")
    for model_name, keywords in ((f"local-dir:{tmp_path / 'our_clip'}", {}), ("our_clip", {"pretrained": file})):
        model, _, transform = open_clip.create_model_and_transforms(model_name, **keywords)
        ids = open_clip.get_tokenizer(model_name)(LABELS)
        torch.testing.assert_close(model.eval().encode_text(ids, normalize=True), system.embed("text", LABELS), atol=1e-5, rtol=0)
        torch.testing.assert_close(model.encode_image(pixels, normalize=True), system.embed("image", pixels), atol=1e-5, rtol=0)
        levels = (torch.stack([transform(picture) for picture in PICTURES]) - pixels).abs() * 255 * 0.28
        assert levels.max() <= 1.1
    again = zoo.load(tmp_path / "our_clip")
    assert torch.equal(again.embed("text", LABELS), system.embed("text", LABELS))


@torch.no_grad()
def test_open_clip_takes_forms_that_transformers_does_not_have(made, tmp_path, scramble):
    image = {
        **IMAGE,
        "pool": "mean",
        "layer_scale": 0.4,
        "activation": "gelu_tanh",
        "preprocessing": {"mean": [0.5] * 3, "resize": "squash"},
    }
    text = {**TEXT, "causal": False, "pool": "cls", "mlp_ratio": 100 / 64, "eps": 1e-6}
    words = {"pad_to": "context_length", "mask_padding": False}
    head = {"name": "clip", "embed_dim": 20, "loss": "sigmoid", "projections": {"text": "linear_bias"}}
    system = made("trained here", encoders={"image": image, "text": text}, head=head, processor={"text": words})
    with pytest.raises(zoo.ConfigError, match="head.projections.image: got 'linear'"):
        zoo.export(system, tmp_path / "out")
    zoo.save(system, tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), str(tmp_path / "out"), "--format", "open_clip"]) == 0
    name = f"local-dir:{tmp_path / 'out'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    pixels = torch.stack([transform(picture) for picture in PICTURES])
    torch.testing.assert_close(model.eval().encode_image(pixels, normalize=True), system.embed("image", pixels), atol=1e-5, rtol=0)
    ids = open_clip.get_tokenizer(name)(LABELS)
    torch.testing.assert_close(model.encode_text(ids, normalize=True), system.embed("text", LABELS), atol=1e-5, rtol=0)
    assert (pixels - system.processor["image"](PICTURES)[0]).abs().max() <= 1.1 / 255 / 0.26


@pytest.mark.parametrize(
    ("changes", "format", "message"),
    [
        ({"encoders": {"image": "vig_nano", "text": TEXT}}, "transformers", "encoders.image: 'vig' is in no CLIP"),
        ({"encoders": {"image": "vig_nano", "text": TEXT}}, "open_clip", "encoders.image: 'vig' is in no CLIP"),
        ({"encoders": {"image": {**IMAGE, "pool": "mean"}, "text": TEXT}}, "transformers", "encoders.image.pool: got 'mean'"),
        ({"encoders": {"image": IMAGE, "text": {**TEXT, "pool": "mean"}}}, "transformers", "encoders.text.pool: got 'mean'"),
        ({"encoders": {"image": IMAGE, "text": {**TEXT, "pool": "mean"}}}, "open_clip", "encoders.text.pool: got 'mean'"),
        (
            {"encoders": {"image": {**IMAGE, "activation": "quick_gelu"}, "text": TEXT}},
            "open_clip",
            "encoders.text.activation: .*one quick_gelu",
        ),
        ({"processor": {"image": {"crop_fraction": 0.9}}}, "open_clip", "processor.image.crop_fraction: got 0.9"),
        ({"processor": {"image": {"resize": "pad"}}}, "open_clip", "processor.image.resize: got 'pad'"),
        ({"processor": {"text": {"max_length": 12}}}, "open_clip", "processor.text.max_length: got 12"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_its_key(changes, format, message, tmp_path):
    encoders = {"image": IMAGE, "text": {**TEXT, "eot_token_id": 2}}
    if "encoders" in changes:
        encoders = {**changes["encoders"], "text": {**changes["encoders"]["text"], "eot_token_id": 2}}
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.export(zoo.create_system({**SYSTEMS["trained here"], **changes, "encoders": encoders}), tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_a_lone_encoder_is_no_model_of_open_clip(tmp_path):
    with pytest.raises(zoo.ConfigError, match="ViT cannot be written as 'open_clip', which takes systems of the encoders 'vit' and 'text'"):
        zoo.export(zoo.create_model("vit_nano"), tmp_path / "out", format="open_clip")


def test_a_run_may_start_its_text_tower_from_transformers_files_and_takes_the_tokenizer(made, tmp_path):
    theirs = made("siglip")
    zoo.export(theirs, tmp_path / "out")
    ours = zoo.create_system({**SYSTEMS["siglip"], "processor": {"text": {"max_length": 20}}})
    start_from(ours, {"encoders.text": str(tmp_path / "out")})
    assert ours.processor["text"].max_length == 20  # the user's
    ours.processor["text"].max_length = None
    ids = ours.processor["text"](LABELS)[0]
    assert torch.equal(ids, theirs.processor["text"](LABELS)[0])
    assert torch.equal(ours.encoders["text"].eval()(ids).pooled, theirs.encoders["text"](ids).pooled)
    (tmp_path / "out" / "tokenizer.json").unlink()
    with pytest.raises(zoo.WeightsError, match="brings no tokenizer for its text encoder"):
        start_from(zoo.create_system({**SYSTEMS["siglip"], "processor": {}}), {"encoders.text": str(tmp_path / "out")})


def test_configs_name_the_ids_that_the_tokenizer_has(made, tmp_path):
    zoo.export(made("trained here"), tmp_path / "out")
    text = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert (text["bos_token_id"], text["eos_token_id"], text["pad_token_id"]) == (1, 399, 0)  # 2 would mean the largest id there
