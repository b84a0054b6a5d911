"""Pictures of different sizes as one list of patches: a picture gives what it gives alone, padded, and as pixels of its own size."""

import numpy as np
import pytest
import torch

import zoo
from zoo.encoders.vit import ViT
from zoo.errors import ConfigError
from zoo.layers.patch_list import Pictures, grid_positions, refuse_patches
from zoo.layers.position import resize_positions
from zoo.types import Batch, encode

GRIDS = torch.tensor([[2, 5], [4, 4], [3, 3], [1, 7], [4, 4]])
KINDS = [
    {"pool": "attention", "class_token": False, "resampling": "bilinear"},
    {"pool": "cls", "antialias": False},
    {"pool": "concat", "pool_layers": (0, -1), "num_registers": 3, "pre_norm": True},
    {"pool": "mean_norm", "class_token": False, "layer_scale": 0.5, "resampling": "lookup"},
    {"pool": "none"},
]
TILER = {"kind": "budget", "max_patches": 16}


def a_vit(**keywords):
    model = ViT(image_size=16, patch_size=4, dim=16, depth=2, num_heads=2, **keywords).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model, torch.randn(int(GRIDS.prod(1).sum()), 48)


def pixels_of(patches, grid):
    rows, columns = grid.tolist()
    return patches.view(rows, columns, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(1, 3, 4 * rows, 4 * columns)


def pictures(*sizes):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


@pytest.mark.parametrize("keywords", KINDS)
def test_a_picture_gives_in_a_list_what_it_gives_alone_and_as_pixels(keywords):
    model, patches = a_vit(**keywords)
    whole = encode(model, patches, grids=GRIDS)
    for row, part in enumerate(patches.split(GRIDS.prod(1).tolist())):
        alone, pixels = model.encode_patches(part, GRIDS[row : row + 1]), model(pixels_of(part, GRIDS[row]))
        for other in (alone, pixels):
            torch.testing.assert_close(whole.tokens[row][whole.mask[row]], other.tokens[0], rtol=1e-5, atol=5e-6)
            if model.gives_pooled:
                torch.testing.assert_close(whole.pooled[row], other.pooled[0], rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("layer", [None, -1, 1, 0])
def test_patches_of_a_layer_equal_those_of_pixels(layer):
    model, patches = a_vit(pool="cls", num_registers=1)
    shown = encode(model, patches, grids=GRIDS, reads="patches", layer=layer, class_token=True)
    assert shown.pooled is None and shown.mask.sum(1).tolist() == (GRIDS.prod(1) + 1).tolist()
    for row, part in enumerate(patches.split(GRIDS.prod(1).tolist())):
        wanted = model.patches(pixels_of(part, GRIDS[row]), layer=layer, class_token=True).tokens[0]
        torch.testing.assert_close(shown.tokens[row][shown.mask[row]], wanted, rtol=1e-5, atol=5e-6)


def test_the_list_and_the_padded_batch_give_equal_outputs_and_gradients():
    def run(drop_path):
        torch.manual_seed(0)
        model, patches = a_vit(pool="attention", class_token=False, drop_path=drop_path)
        encoded = model.train().encode_patches(patches, GRIDS)
        encoded.pooled.square().sum().backward()
        return encoded.pooled, [parameter.grad for parameter in model.parameters()]

    # A drop rate so small that nothing is dropped needs the padded batch, because items are dropped whole.
    for found, wanted in zip(run(0.0)[1], run(1e-12)[1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(0.0)[0], run(1e-12)[0], rtol=1e-5, atol=1e-5)


def test_a_model_with_drop_path_drops_nothing_outside_of_training():
    model, patches = a_vit(drop_path=0.5)
    plain = ViT(image_size=16, patch_size=4, dim=16, depth=2, num_heads=2).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.encode_patches(patches, GRIDS).pooled, plain.encode_patches(patches, GRIDS).pooled)


def test_no_picture_sees_another_or_the_padding():
    model, patches = a_vit(pool="attention", class_token=False)
    counts = GRIDS.prod(1).tolist()
    other = torch.cat([part if row == 2 else torch.full_like(part, 1e4) for row, part in enumerate(patches.split(counts))])
    for packed in (True, False):
        # Only shapes differ between the two ways; what is padding, no picture sees.
        layout = Pictures(GRIDS, prefix=0, device=torch.device("cpu"), packed=packed)
        rows = [layout.padded(layout.run(model.blocks[0], layout.with_prefix(model._embed_list(x, GRIDS)[0]))) for x in (patches, other)]
        assert torch.equal(rows[0][2, : counts[2]], rows[1][2, : counts[2]])
    assert torch.equal(model.encode_patches(patches, GRIDS).pooled[2], model.encode_patches(other, GRIDS).pooled[2])


def test_positions_of_a_list_are_resized_by_picture():
    table = torch.randn(1, 16, 8)
    found = grid_positions(table, (4, 4), GRIDS, mode="bilinear").split(GRIDS.prod(1).tolist())
    for part, grid in zip(found, GRIDS.tolist(), strict=True):
        assert torch.equal(part, resize_positions(table, (4, 4), tuple(grid), mode="bilinear")[0])


def test_looked_up_positions_are_those_of_idefics3():
    table = torch.arange(16.0).view(1, 16, 1)
    found = resize_positions(table, (4, 4), (3, 2), mode="lookup")  # the corner of specs/resolution.md, section 3
    assert found.flatten().tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("patches", "grids", "message"),
    [
        (torch.zeros(10, 48), torch.tensor([[3, 3]]), "10 patches, but the grids have 9"),
        (torch.zeros(9, 12), torch.tensor([[3, 3]]), r"allowed is \[total, 48\]: 3 channels of 4 x 4"),
        (torch.zeros(0, 48), torch.tensor([[0, 3]]), "at least one row and one column"),
        (torch.zeros(9, 48), torch.tensor([3, 3]), r"whole numbers \[items, 2\]"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(patches, grids, message):
    with pytest.raises(zoo.DataError, match=message):
        refuse_patches(patches, grids, 4)


def a_system(*overrides):
    return zoo.create_system("siglip_vit_nano", [f"system.processor.image.tiler={TILER}".replace("'", ""), *overrides]).eval()


def test_a_system_embeds_and_classifies_pictures_of_their_own_size(tmp_path):
    system, given = a_system(), pictures((48, 64), (20, 90), (31, 33))
    batch = system.processor(image=given)
    assert batch.grids["image"].prod(1).tolist() == [12, 16, 16]
    assert len(batch) == 3 and batch.inputs["image"].shape == (int(batch.grids["image"].prod(1).sum()), 192)
    vectors = system.embed("image", given)
    for row, picture in enumerate(given):
        torch.testing.assert_close(system.embed("image", [picture])[0], vectors[row], rtol=1e-5, atol=1e-6)
    assert torch.equal(system.embed("image", batch), vectors)
    torch.testing.assert_close(system.embed("image", batch, batch_size=2), vectors, rtol=1e-5, atol=1e-6)
    zoo.save(system, tmp_path)
    again = zoo.load(tmp_path)
    assert again.processor["image"].settings["tiler"] == {**TILER, "patch_size": 8}
    assert torch.equal(again.embed("image", given), vectors)


def test_a_batch_without_pictures_reaches_every_parameter():
    system = a_system()
    encoded = system.encode_ready("image", torch.zeros(0, 192), grids=torch.zeros(0, 2, dtype=torch.int64))
    assert encoded.tokens.shape[0] == 0 and encoded.pooled.shape == (0, 64)
    (encoded.tokens.sum() + encoded.pooled.sum()).backward()
    assert all(parameter.grad is not None for parameter in system.encoders["image"].parameters())


def test_items_of_a_batch_are_taken_out_with_their_grids():
    batch = Batch({"image": torch.arange(58.0)[:, None]}, grids={"image": GRIDS})
    part = batch.given("image", [3, 2])
    assert part.grids["image"].tolist() == [[1, 7], [3, 3]]
    assert part.inputs["image"].flatten().tolist() == [*range(35, 42), *range(26, 35)]


def test_an_encoder_without_lists_of_patches_and_other_patch_sizes_are_refused():
    with pytest.raises(ConfigError, match="takes no lists of patches; choose an encoder that does, such as vit"):
        a_system("encoder@system.encoders.image=vig_nano")
    with pytest.raises(ConfigError, match=r"tiler.patch_size: 5, but system.encoders.image.patch_size is 8"):
        zoo.create_system("siglip_vit_nano", ["system.processor.image.tiler={kind: budget, patch_size: 5}"])
