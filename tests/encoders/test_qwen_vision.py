"""The image towers of Qwen-VL: windows, and lists of pictures of different sizes. ``tests/convert/test_qwen_vl.py`` has the references."""

import pytest
import torch

import zoo
from zoo.errors import ConfigError, DataError
from zoo.layers.picture_lists import PictureList
from zoo.types import Batch


def test_windows_are_listed_as_in_the_specification():
    places = PictureList([(3, 5)], window=2, device=torch.device("cpu"))
    listed = (places.rows * 5 + places.columns).tolist()
    assert listed == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert [(group.rows, group.keys) for group in places.windows.groups] == [(2, 4), (3, 2), (1, 1)]
    windows = PictureList([(24, 36)], window=8, device=torch.device("cpu")).windows.groups
    assert sum(group.rows for group in windows) == 15


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("qwen_vision_nano", {}),
        ("qwen3_vl_vision_nano", {}),
        ("qwen_vision_nano", {"final_norm": True, "pool": "attention", "position_grid": 5}),
    ],
)
def test_pictures_in_a_list_give_what_each_gives_alone(name, keywords):
    torch.manual_seed(0)
    encoder = zoo.create_model(name, **keywords)
    grids = torch.tensor([[8, 8], [2, 6], [5, 3], [2, 6], [1, 1], [9, 13]])
    patches = torch.randn(int(grids.prod(1).sum()), 48)
    found = encoder.encode_patches(patches, grids)
    pieces = patches.split(grids.prod(1).tolist())
    for row, (piece, grid) in enumerate(zip(pieces, grids, strict=True)):
        alone = encoder.encode_patches(piece, grid[None])
        torch.testing.assert_close(found.tokens[row][found.mask[row]], alone.tokens[0], rtol=0, atol=1e-5)
        rows, columns = grid.tolist()
        pixels = piece.view(rows, columns, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(1, 3, 4 * rows, 4 * columns)
        torch.testing.assert_close(encoder(pixels).tokens[0], alone.tokens[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pooled[row], alone.pooled[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(encoder(pixels).pooled[0], alone.pooled[0], rtol=0, atol=1e-5)
    assert not found.tokens[~found.mask].any()
    with pytest.raises(DataError, match="no whole number of patches of 4"):
        encoder(torch.zeros(1, 3, 30, 32))
    with pytest.raises(DataError, match="give each picture rows x columns"):
        encoder.encode_patches(patches[1:], grids)
    assert Batch({"image": patches}, grids={"image": grids}).count("image") == 6


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_heads": 16}, "num_heads: heads have 2 channels; allowed are multiples of 4"),
        ({"window": 0}, "window: got 0; allowed are 1 or more"),
        ({"full_layers": [2]}, "allowed is a list of numbers from -2 to 1"),
        ({"image_size": 30}, "image_size: 30 is no multiple of patch_size 4"),
        ({"pool": "cls"}, "pool: there is no 'cls'; known: attention, mean"),
        ({"final_norm": True, "deepstack": [0]}, r"final_norm: true with deepstack \[0\]"),
    ],
)
def test_keywords_that_do_not_fit_are_refused(keywords, message):
    with pytest.raises(ConfigError, match=message):
        zoo.create_model("qwen_vision_nano", **keywords)


ROTARY = ["encoder@system.encoders.image=qwen_vision_nano", "system.encoders.image.final_norm=true"]


@pytest.mark.parametrize("tiler", ["budget", "fit"])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("siglip_vit_nano", ["system.encoders.image.pool=attention"]),
        ("clip_vit_nano", ["system.encoders.image.position_grid=8"]),
        ("classifier_vit_nano", ["system.encoders.image.norm=layer", "system.encoders.image.activation=gelu"]),
    ],
)
def test_rotary_rows_and_columns_and_windows_go_with_any_head(name, more, tiler):
    """Each weight gets a gradient, and a picture gives alone what it gives with others."""
    torch.manual_seed(0)
    options = {"budget": "{kind: budget, max_patches: 36}", "fit": "{kind: fit, min_pixels: 64, max_pixels: 1024}"}[tiler]
    system = zoo.create_system(name, [*ROTARY, *more, f"+system.processor.image.tiler={options}"])
    shown = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((40, 20), (9, 60), (33, 33))]
    given = {"image": shown} | ({} if name.startswith("classifier") else {"text": ["a cat", "two dogs", "so"]})
    if "text" in given:
        system.processor.fit(given["text"])
    batch = system.processor(**given)
    assert len({tuple(grid) for grid in batch.grids["image"].tolist()}) == 3
    batch.targets["groups"] = batch.targets["labels"] = torch.tensor([0, 1, 2])
    system(batch).loss.backward()
    assert not [key for key, each in system.named_parameters() if each.requires_grad and (each.grad is None or not each.grad.abs().sum())]
    system.eval()
    whole = system.encode("image", shown).pooled
    for row, picture in enumerate(shown):
        torch.testing.assert_close(system.encode("image", [picture]).pooled[0], whole[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["null", "-1", "-2"])
def test_rotary_rows_and_columns_go_with_llava_and_squares_of_tiles(layer):
    """The tower behind tiles of one size and a common connector, with the answer of any layer."""
    words = [*ROTARY, f"system.head.feature_layer={layer}", "+system.processor.image.tiler={kind: canvas, max_tiles: 2}"]
    system = zoo.create_system("llava_nano", [*words, "system.processor.conversation.tokenizer=characters"]).eval()
    system.processor.fit(["What is there? a cat"])
    asked = [[torch.randint(0, 256, (3, *size), dtype=torch.uint8), "What?"] for size in ((40, 20), (33, 33))]
    alone = torch.cat([system.score([each], ["a cat"]) for each in asked])
    torch.testing.assert_close(system.score(asked, ["a cat"] * 2), alone, rtol=1e-5, atol=1e-5)
