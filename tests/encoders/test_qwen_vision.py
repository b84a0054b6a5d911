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
@pytest.mark.parametrize("name", ["qwen_vision_nano", "qwen3_vl_vision_nano"])
def test_pictures_in_a_list_give_what_each_gives_alone(name):
    encoder = zoo.create_model(name)
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
    ],
)
def test_keywords_that_do_not_fit_are_refused(keywords, message):
    with pytest.raises(ConfigError, match=message):
        zoo.create_model("qwen_vision_nano", **keywords)
