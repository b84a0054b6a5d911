"""Tilers: the plans of pictures of six sizes, against the published processors and over many random sizes."""

import numpy as np
import pytest
import torch

from zoo.errors import ConfigError, DataError
from zoo.processors.image import ImageProcessor
from zoo.processors.media.tiles import cut_tiles
from zoo.registry import find_part, part_names

HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SIZES = [(48, 64), (224, 224), (333, 500), (480, 640), (1080, 1920), (1000, 250)]


def tiler(kind, **options):
    return find_part("tiler", kind)(**options)


def one_vision():
    return tiler("anyres", tile_size=384, canvases=[[i, j] for i in range(1, 7) for j in range(1, 7)], most_tiles=9)


def written_length(kind, plan, per_tile, symbol=1):
    """Length in ids: a symbol for each text between the runs, but a tag with the symbol around it is two."""
    return sum(part if isinstance(part, int) else symbol * (part.count("<") + ("\n" in part)) for part in kind.written(plan, per_tile))


def test_every_kind_is_registered():
    assert part_names("tiler") == ["anyres", "budget", "canvas", "fit", "split", "square"]


@pytest.mark.parametrize(
    ("most", "grids"),
    [
        (256, [(14, 18), (16, 16), (13, 19), (14, 18), (12, 21), (32, 8)]),
        (784, [(24, 32), (28, 28), (23, 34), (24, 32), (21, 37), (56, 14)]),
    ],
)
def test_budget_gives_the_grids_of_naflex(most, grids):
    kind = tiler("budget", patch_size=16, max_patches=most)
    assert [kind.plan(*size).grid for size in SIZES] == grids
    assert tiler("budget", patch_size=16).plan(16, 4000).grid == (1, 250)


def test_anyres_gives_the_canvases_and_tokens_of_llava_next():
    kind = tiler("anyres", tile_size=336)
    plans = [kind.plan(*size) for size in SIZES]
    assert [plan.canvas for plan in plans] == [(336, 672), (336, 672), (336, 672), (672, 672), (672, 672), (1008, 336)]
    assert [plan.num_tiles for plan in plans] == [3, 3, 3, 5, 5, 4]
    assert [kind.count(plan, 24 * 24) for plan in plans] == [1368, 1176, 1464, 2340, 1948, 1944]
    assert plans[2].resized == ((336, 505),) and plans[2].corner == (0, 83)


def test_anyres_gives_the_canvases_and_tokens_of_one_vision():
    kind = one_vision()
    plans = [kind.plan(*size) for size in SIZES]
    assert [plan.canvas for plan in plans] == [(384, 384), (384, 384), (384, 768), (768, 768), (1152, 1920), (1152, 384)]
    assert [plan.num_tiles for plan in plans] == [2, 2, 3, 5, 16, 4]
    assert [kind.count(plan, 27 * 27) for plan in plans] == [1317, 1485, 1836, 2929, 7269, 2511]


def test_split_gives_the_grids_and_ids_of_idefics3_and_smolvlm():
    kind = tiler("split", tile_size=364)
    plans = [kind.plan(*size) for size in SIZES]
    assert [plan.grid for plan in plans] == [(3, 4), (4, 4), (3, 4), (3, 4), (3, 4), (4, 1)]
    assert [kind.count(plan, 169) for plan in plans] == [2197, 2873, 2197, 2197, 2197, 845]
    assert [written_length(kind, plan, 169) for plan in plans] == [2227, 2912, 2227, 2227, 2227, 860]
    smol = tiler("split", tile_size=512)
    assert [smol.count(smol.plan(*size), 64) for size in SIZES] == [832, 1088, 832, 832, 832, 320]
    assert [written_length(smol, smol.plan(*size), 64) for size in SIZES] == [862, 1127, 862, 862, 862, 335]


def test_canvas_gives_the_grids_and_tokens_of_internvl():
    kind = tiler("canvas", tile_size=448)
    plans = [kind.plan(*size) for size in SIZES]
    assert [plan.grid[::-1] for plan in plans] == [(4, 3), (1, 1), (3, 2), (4, 3), (4, 2), (1, 4)]  # columns x rows
    assert [plan.num_tiles for plan in plans] == [13, 1, 7, 13, 9, 5]
    assert [kind.count(plan, 256) for plan in plans] == [3328, 256, 1792, 3328, 2304, 1280]
    assert kind.plan(633, 633).grid == (1, 1) and kind.plan(634, 634).grid == (2, 2)


@pytest.mark.parametrize(
    ("options", "grids"),
    [
        ({"patch_size": 14}, [(4, 4), (16, 16), (24, 36), (34, 46), (52, 94), (72, 18)]),
        ({"patch_size": 14, "max_pixels": 12_845_056}, [(4, 4), (16, 16), (24, 36), (34, 46), (78, 138), (72, 18)]),
        (
            {"patch_size": 16, "min_pixels": 65_536, "max_pixels": 16_777_216},
            [(14, 20), (16, 16), (20, 32), (30, 40), (68, 120), (62, 16)],
        ),
    ],
)
def test_fit_gives_the_grids_of_qwen(options, grids):
    kind = tiler("fit", **options)
    assert [kind.plan(*size).grid for size in SIZES] == grids
    assert [kind.count(kind.plan(*size)) for size in SIZES] == [rows * columns // 4 for rows, columns in grids]


def random_sizes(number, seed):
    sides = np.exp(np.random.default_rng(seed).uniform(np.log(20), np.log(2500), (number, 2))).astype(int)
    return [tuple(map(int, each)) for each in sides]


def test_plans_equal_the_references_on_random_sizes():
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
    from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

    next_, vision, fit, canvas = tiler("anyres", tile_size=336), one_vision(), tiler("fit", patch_size=14), tiler("canvas", tile_size=448)
    budget = tiler("budget", patch_size=16)
    for height, width in random_sizes(200, 0):
        assert next_.plan(height, width).canvas == select_best_resolution((height, width), next_.canvases)
        assert vision.plan(height, width).canvas == select_best_resolution((height, width), vision.canvases)
        assert fit.plan(height, width).canvas == smart_resize(height, width, 28, 3136, 1_003_520)
        assert canvas.plan(height, width).grid[::-1] == tuple(get_optimal_tiled_canvas((height, width), (448, 448), 1, 12))
        assert budget.plan(height, width).canvas == get_image_size_for_max_num_patches(height, width, 16, 256)


@pytest.mark.parametrize("kind", ["anyres", "one_vision", "split", "canvas", "square"])
def test_features_are_as_many_as_the_plan_counts(kind):
    made = {"anyres": lambda: tiler("anyres", tile_size=8), "one_vision": lambda: tiler("anyres", tile_size=8, most_tiles=2)}
    part = made.get(kind, lambda: tiler(kind, tile_size=8))()
    for number, size in enumerate(random_sizes(1000, 1)):
        plan, per_tile = part.plan(*size), (number % 3 + 1) ** 2
        features = torch.zeros(plan.num_tiles, per_tile, 1)
        assert len(part.arrange(features, plan, torch.zeros(1))) == part.count(plan, per_tile)
        assert sum(each for each in part.written(plan, per_tile) if isinstance(each, int)) == part.count(plan, per_tile)


def test_tiles_are_cut_row_by_row_and_borders_are_black():
    picture = torch.full((3, 50, 80), 200, dtype=torch.uint8)
    plan = tiler("anyres", tile_size=56).plan(50, 80)
    tiles = cut_tiles(picture, plan, "bicubic")
    assert tiles.shape == (plan.num_tiles, 3, 56, 56) and plan.grid == (1, 2)
    (top, left), (height, width) = plan.corner, plan.resized[-1]
    assert (tiles[0] == 200).all()  # the overview has no border
    laid = torch.cat([tiles[1], tiles[2]], dim=2)
    assert (laid[:, top : top + height, left : left + width] == 200).all() and int((laid == 200).sum()) == 3 * height * width


@pytest.mark.parametrize("kind", ["anyres", "split", "canvas", "square", "fit", "budget"])
def test_wrong_values_are_named(kind):
    key = "patch_size" if kind in ("fit", "budget") else "tile_size"
    with pytest.raises(ConfigError, match=key):
        tiler(kind, **{key: 0})


def test_a_picture_that_cannot_be_cut_is_refused():
    with pytest.raises(DataError, match="at most 200"):
        tiler("fit", patch_size=14).plan(10, 3000)
    with pytest.raises(DataError, match="no square grid"):
        tiler("anyres", tile_size=8).count(tiler("anyres", tile_size=8).plan(20, 30), 5)


@pytest.mark.parametrize(
    ("kind", "options", "keywords", "golden"),
    [
        ("anyres", {}, {"image_size": 336}, (-0.11663, 1.17663, 0.09093)),
        ("split", {}, {"image_size": 364, "interpolation": "lanczos", **HALF}, (0.00267, 0.55440, 0.00392)),
        ("canvas", {}, {"image_size": 448, **IMAGENET}, (0.23238, 1.23452, 0.07406)),
    ],
)
def test_pixels_are_those_of_the_published_processors(kind, options, keywords, golden):
    """Mean, standard deviation and first value of the processed tensor; two back ends of one reference differ by up to .03 in a value."""
    rows, columns = np.mgrid[:333, :500]
    colours = [np.round(127.5 + 100 * np.sin(0.02 * rows + 0.03 * columns + channel)) for channel in range(3)]
    picture = np.stack(colours, axis=2).astype(np.uint8)
    pixels = ImageProcessor(tiler={"kind": kind, **options}, **keywords)([picture]).inputs["image"]
    found = pixels.mean(), pixels.std(unbiased=False), pixels.flatten()[0]
    assert [float(each) for each in found[:2]] == pytest.approx(golden[:2], abs=2e-4)
    assert float(found[2]) == pytest.approx(golden[2], abs=0.02)  # one grey level is .0078 to .0175
