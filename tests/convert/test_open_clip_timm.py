"""open_clip's CLIPs with an image tower of timm, in and out: SigLIP, PE-Core, MobileCLIP, EVA02, ViTamin and ConvNeXt are of these kinds."""

import json

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from PIL import Image
from safetensors.torch import save_file
from skimage import data as photos

import zoo

TEXT = {"context_length": 13, "vocab_size": 300, "width": 64, "heads": 2, "layers": 2}
SIGLIP_TEXT = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
SIGLIP_TEXT |= {"act_kwargs": {"approximate": "tanh"}}
KINDS = {  # of: class, image tower, text tower, whole
    "SigLIP 2": (CustomTextCLIP, ("test_vit3", 160, "map", "none"), {**SIGLIP_TEXT, "width": 96}, {"init_logit_bias": -10.0}),
    "PE-Core": (CustomTextCLIP, ("vit_pe_core_tiny_patch16_384", 384, "map", None), {}, {}),
    "MobileCLIP": (CustomTextCLIP, ("fastvit_t8", 256, "avg", None), {"no_causal_mask": True}, {}),
    "EVA02": (CustomTextCLIP, ("eva02_tiny_patch14_224", 224, "token", None), {"width": 32}, {}),
    "ConvNeXt": (CLIP, ("test_convnext", 96, "", "linear"), {}, {"quick_gelu": True}),
}
EMBED_DIM = 96
every_kind = pytest.mark.parametrize("kind", KINDS)


def config_of(kind):
    _, (name, size, pool, proj), text, whole = KINDS[kind]
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": proj, "image_size": size}
    return {"embed_dim": EMBED_DIM, "vision_cfg": vision, "text_cfg": {**TEXT, **text}, **whole}


def reference_of(kind, scramble):
    config = config_of(kind)
    towers = {"vision_cfg": CLIPVisionCfg(**config["vision_cfg"]), "text_cfg": CLIPTextCfg(**config["text_cfg"])}
    return scramble(KINDS[kind][0](**{**config, **towers}))


def written(model, kind, directory, **preprocessing):
    directory.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / "open_clip_model.safetensors")
    config = {"model_cfg": config_of(kind), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"} | preprocessing}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    return directory


def inputs_of(kind):
    size = KINDS[kind][1][1]
    token_ids = torch.randint(1, 299, (3, 13))
    token_ids[0, 5:], token_ids[0, 5], token_ids[1:, -1] = 0, 299, 299
    return torch.randn(2, 3, size, size), token_ids


def assert_equal(ours, theirs, kind):
    pixels, token_ids = inputs_of(kind)
    with torch.no_grad():
        image, text = theirs.eval().encode_image(pixels, normalize=True), theirs.encode_text(token_ids, normalize=True)
    torch.testing.assert_close(ours.embed("image", pixels), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.embed("text", token_ids), text, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.head.logit_scale, theirs.logit_scale.reshape(()))


@every_kind
def test_a_directory_gives_what_open_clip_gives_and_goes_back(kind, tmp_path, scramble):
    reference = reference_of(kind, scramble)
    system = zoo.load(written(reference, kind, tmp_path / "theirs"))
    assert_equal(system, reference, kind)
    zoo.export(system, tmp_path / "ours", format="open_clip")
    again = open_clip.create_model(f"local-dir:{tmp_path / 'ours'}")
    assert_equal(system, again, kind)
    settings = system.processor["image"].settings
    assert (settings["image_size"], settings["resize"], settings["crop_fraction"]) == (KINDS[kind][1][1], "squash", 1.0)


def test_images_are_resized_as_the_config_says_longest(tmp_path, scramble):
    """Compare within two grey levels: PIL's filter, with which open_clip resizes, rounds differently from torch's."""
    directory = written(reference_of("ConvNeXt", scramble), "ConvNeXt", tmp_path, size=96, resize_mode="longest", interpolation="bilinear")
    picture = Image.fromarray(photos.chelsea())
    expected = open_clip.create_model_and_transforms(f"local-dir:{directory}")[2](picture)
    found = zoo.load(directory).processor["image"]([picture])[0][0]
    assert (found - expected).abs().max() <= 2.01 / 255 / 0.5
    assert (found[:, 0] == -1).all()  # black, not the mean colour


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("visual.attnpool.c_proj.weight", "OpenAI's modified ResNet"),
        ("text_decoder.ln_final.weight", "it is a CoCa"),
        ("visual.head.mlp.fc1.weight", "its image projection has two layers"),
        ("text.transformer.embeddings.word_embeddings.weight", "its text tower is a model of transformers"),
    ],
)
def test_models_of_other_parts_are_refused_by_name(name, reason, tmp_path):
    """Names of RN50, coca_ViT-B-32, convnext_large_d and xlm-roberta-base-ViT-B-32, which stand beside those of any CLIP."""
    others = dict.fromkeys(("visual.trunk.stem.0.weight", "token_embedding.weight", "logit_scale"), torch.zeros(1))
    save_file({**{key: t.clone() for key, t in others.items()}, name: torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 4}}))
    for source in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        with pytest.raises(zoo.ConfigError, match=reason):
            zoo.load(source)
