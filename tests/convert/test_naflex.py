"""SigLIP 2 NaFlex: our parts equal transformers' ``Siglip2Model`` and timm's ``NaFlexVit``, both ways, and its goldens."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from transformers import Siglip2Config, Siglip2Model, Siglip2VisionConfig, Siglip2VisionModel
from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

import zoo
from zoo.encoders.vit import ViT
from zoo.errors import ConfigError
from zoo.interop.clip import naflex, transformers_clip
from zoo.interop.vit import timm_vit
from zoo.layers.meta import meta_device
from zoo.processors.image import ImageProcessor

SIDES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SIDES, "patch_size": 2, "num_patches": 16}
TEXT = {**SIDES, "vocab_size": 13, "max_position_embeddings": 6}
GRIDS = torch.tensor([[2, 5], [3, 3]])
IDS = torch.tensor([[5, 9, 3, 7, 1, 1], [11, 4, 8, 2, 6, 1]])
SIZES = [(48, 64), (224, 224), (333, 500), (120, 31), (9, 200), (64, 48)]


def fill(model):
    """Fill the parameters by the rule of the specifications: 0.3 sin(0.7 i + j), and 1 more in the weights of norms."""
    for place, (name, parameter) in enumerate(sorted(model.named_parameters())):
        values = 0.3 * torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + place)
        one = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = (values.view(parameter.shape) + one).to(parameter.dtype)
    return model.eval()


def padded_patches(length=12):
    values = torch.sin(0.1 * torch.arange(2 * length * 12, dtype=torch.float64)).view(2, length, 12)
    mask = torch.arange(length)[None] < GRIDS.prod(1)[:, None]
    return values * mask[..., None], mask


def as_list(values, mask):
    """Reorder transformers' patch vectors (row, column, channel) to ours, without the padding."""
    side = int((values.shape[2] / 3) ** 0.5)
    return values[mask.bool()].unflatten(1, (side, side, 3)).permute(0, 3, 1, 2).flatten(1)


@pytest.fixture
def directory(tmp_path):
    torch.manual_seed(0)
    reference = Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=VISION)).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reference.save_pretrained(tmp_path / "theirs")
    Siglip2ImageProcessor(patch_size=2, max_num_patches=12).save_pretrained(tmp_path / "theirs")
    return reference, tmp_path


def pictures():
    generator = np.random.default_rng(1)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in SIZES]


def test_goldens():
    reference = fill(Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=VISION)).double())
    assert sum(parameter.numel() for parameter in reference.parameters()) == 3142
    ours = zoo.create_system(
        {"name": "golden", **transformers_clip.system(config_of(reference)), "processor": {"image": {}, "text": {**READY}}}
    )
    ours = ours.double().eval()
    ours.load_state_dict(transformers_clip.to_zoo(reference.state_dict()))
    image = ours.encoders["image"].encode_patches(as_list(*padded_patches()), GRIDS)
    golden = [[0.544298, 1.264228, -2.173364, -2.128044], [-0.270116, 1.277297, -1.697017, -1.834442]]
    torch.testing.assert_close(image.pooled[:, :4], torch.tensor(golden).double(), rtol=0, atol=2e-6)
    vectors = {"image": ours.head.project("image", image), "text": ours.head.project("text", ours.encoders["text"](IDS))}
    logits = ours.head.logit_scale.exp() * vectors["image"] @ vectors["text"].T + ours.head.logit_bias
    wanted = torch.tensor([[-0.491524, -1.008102], [-0.280321, -0.819123]])
    torch.testing.assert_close(logits.float(), wanted, rtol=0, atol=2e-6)


READY = {"tokenizer": "given", "pad_to": "context_length", "mask_padding": False, "pad_token_id": 1, "eot_token_id": 1}


def config_of(reference):
    return json.loads(reference.config.to_json_string(use_diff=False))


@pytest.mark.card("siglip_vit_nano", "goes back")
def test_a_directory_is_loaded_and_goes_back(directory):
    reference, folder = directory
    system = zoo.load(folder / "theirs")
    given = pictures()
    theirs = Siglip2ImageProcessor.from_pretrained(folder / "theirs")([Image.fromarray(each) for each in given], return_tensors="pt")
    batch = system.processor(image=given)
    assert batch.grids["image"].tolist() == theirs["spatial_shapes"].tolist()
    ready = as_list(theirs["pixel_values"], theirs["pixel_attention_mask"])
    assert float((ready - batch.inputs["image"]).abs().max()) < 0.02  # two grey levels: filters of PIL and torchvision
    with torch.no_grad():
        wanted = reference.get_image_features(**theirs)
        wanted = torch.nn.functional.normalize(getattr(wanted, "pooler_output", wanted), dim=-1)
        text = reference.get_text_features(input_ids=IDS)
        text = torch.nn.functional.normalize(getattr(text, "pooler_output", text), dim=-1)
    batch.inputs["image"] = ready
    torch.testing.assert_close(system.embed("image", batch), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(system.embed("text", IDS), text, rtol=1e-5, atol=1e-5)
    zoo.export(system, folder / "ours", format="transformers")
    again = Siglip2Model.from_pretrained(folder / "ours")
    for (name, tensor), (other, wanted) in zip(again.state_dict().items(), reference.state_dict().items(), strict=True):
        assert name == other and torch.equal(tensor, wanted), name
    assert Siglip2ImageProcessor.from_pretrained(folder / "ours").max_num_patches == 12


def test_a_lone_tower_is_loaded_and_goes_back(tmp_path):
    torch.manual_seed(0)
    reference = Siglip2VisionModel(Siglip2VisionConfig(**VISION)).eval()
    reference.save_pretrained(tmp_path / "theirs")
    Siglip2ImageProcessor(patch_size=2, max_num_patches=12).save_pretrained(tmp_path / "theirs")
    model = zoo.load(tmp_path / "theirs")
    values, mask = padded_patches()
    found = model.encode_patches(as_list(values, mask).float(), GRIDS)
    with torch.no_grad():
        wanted = reference(pixel_values=values.float(), pixel_attention_mask=mask.int(), spatial_shapes=GRIDS)
    torch.testing.assert_close(found.pooled, wanted.pooler_output, rtol=1e-5, atol=1e-5)
    for row, real in enumerate(GRIDS.prod(1).tolist()):
        torch.testing.assert_close(found.tokens[row, :real], wanted.last_hidden_state[row, :real], rtol=1e-5, atol=1e-5)
    zoo.export(model, tmp_path / "ours", format="transformers")
    again = Siglip2VisionModel.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in reference.state_dict().items())


def test_timms_model_of_any_size_has_the_same_weights_and_outputs():
    torch.manual_seed(0)
    words = {"act_layer": "gelu_tanh", "global_pool": "map", "pos_embed_interp_mode": "bilinear"}  # as naflexvit_base_patch16_siglip
    small = NaFlexVitCfg(embed_dim=16, depth=2, num_heads=2, patch_size=4, pos_embed_grid_size=(4, 4), **words)
    reference = NaFlexVit(small, num_classes=0).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = ViT(
        image_size=16,
        patch_size=4,
        dim=16,
        depth=2,
        num_heads=2,
        activation="gelu_tanh",
        class_token=False,
        pool="attention",
        resampling="bilinear",
    ).eval()
    model.load_state_dict(timm_vit.to_zoo(reference.state_dict()))
    values, mask = torch.randn(2, 12, 48), torch.arange(12)[None] < GRIDS.prod(1)[:, None]
    coordinates = torch.zeros(2, 12, 2, dtype=torch.long)
    for row, (rows, columns) in enumerate(GRIDS.tolist()):
        coordinates[row, : rows * columns] = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    with torch.no_grad():
        wanted = reference({"patches": values, "patch_coord": coordinates, "patch_valid": mask})
        found = model.encode_patches(as_list(values, mask), GRIDS).pooled
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    back = timm_vit.from_zoo(model.state_dict(), any_size=True)
    assert back.keys() == reference.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in reference.state_dict().items())


def test_pixels_are_those_of_the_published_processor():
    """Mean, standard deviation and first value of ``Siglip2ImageProcessor``'s output, padding included; section 0 of the specification."""
    rows, columns = np.mgrid[:333, :500]
    picture = np.stack([np.round(127.5 + 100 * np.sin(0.02 * rows + 0.03 * columns + channel)) for channel in range(3)], axis=2)
    processor = ImageProcessor(
        image_size=256, interpolation="bilinear", mean=[0.5] * 3, std=[0.5] * 3, tiler={"kind": "budget", "patch_size": 16}
    )
    patches = processor([picture.astype(np.uint8)]).inputs["image"]
    padded = torch.cat([patches, torch.zeros(256 - len(patches), patches.shape[1])])
    found = [float(padded.mean()), float(padded.std(unbiased=False)), float(padded.flatten()[0])]
    assert found[:2] == pytest.approx([0.00254, 0.54445], abs=2e-4) and found[2] == pytest.approx(0.01176, abs=0.01)


@pytest.mark.parametrize(
    ("name", "total", "vision"), [("siglip2_naflex_vit_b16", 375_234_050, 92_930_304), ("siglip2_naflex_vit_so400m16", 1_135_670_962, None)]
)
def test_rows_have_the_published_numbers_of_parameters(name, total, vision):
    with meta_device():
        system = zoo.create_system(name)
    assert sum(parameter.numel() for parameter in system.parameters()) == total
    if vision is not None:
        assert sum(parameter.numel() for parameter in system.encoders["image"].parameters()) == vision


def test_what_the_other_library_cannot_express_is_refused(directory, tmp_path):
    reference, folder = directory
    with pytest.raises(ConfigError, match="num_patches: got 15; allowed is a square number"):
        naflex.with_image_size({"num_patches": 15, "patch_size": 2})
    system = zoo.load(folder / "theirs")
    system.processor.parts["image"] = ImageProcessor(image_size=8)
    with pytest.raises(ConfigError, match="Siglip2ImageProcessor cuts pictures into patches by a budget"):
        zoo.export(system, tmp_path / "other", format="transformers")
