"""Augmentation: equal to torchvision's, with random numbers from our generators."""

import math
import pickle
import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as F

import zoo
from zoo.data.augmentation import Augmentation, crop_box, erase_rectangle
from zoo.processors.image import ImageProcessor
from zoo.types import Sample

PROCESSOR = ImageProcessor(image_size=24, crop_fraction=0.9)
EVERYTHING = dict(
    crop_scale=(0.3, 1.0),
    crop_ratio=(0.75, 1.33),
    flip=0.5,
    color_jitter={"brightness": 0.4, "hue": 0.1},
    rand_augment={"num_ops": 2, "magnitude": 9},
    erase=0.5,
)


def picture(width=60, height=40):
    return np.random.default_rng(5).integers(256, size=(height, width, 3), dtype=np.uint8)


def augmented(augmentation, seed=0, image=None, processor=PROCESSOR):
    sample = Sample("x", {"image": picture() if image is None else image, "text": "t"})
    return augmentation(sample, np.random.default_rng(seed), processor).inputs["image"]


def test_what_is_off_leaves_the_processors_picture():
    assert torch.equal(augmented(Augmentation(crop_scale=(1, 1))), PROCESSOR.item(picture()))


def test_a_crop_in_the_pictures_shape_is_drawn_and_resized_as_before():
    generator = np.random.default_rng(3)
    share = generator.uniform(0.5, 0.9) ** 0.5
    width, height = round(60 * share), round(40 * share)
    left, top = int(generator.integers(61 - width)), int(generator.integers(41 - height))
    cut = picture()[top : top + height, left : left + width]
    assert generator.random() >= 0.1  # not mirrored
    assert torch.equal(augmented(Augmentation(crop_scale=(0.5, 0.9), flip=0.1), seed=3), PROCESSOR.item(cut))


def test_a_flip_mirrors():
    plain, mirrored = (augmented(Augmentation(crop_scale=(1, 1), crop_ratio=(1.5, 1.5), flip=p)) for p in (0.0, 1.0))
    assert (mirrored.flip(-1).int() - plain.int()).abs().max() <= 1 and not torch.equal(plain, mirrored)  # PIL rounds


@pytest.mark.parametrize("seed", range(5))
def test_a_crop_with_a_ratio_equals_torchvisions_resized_crop(seed):
    left, top, right, bottom = crop_box(60, 40, (0.08, 1.0), (0.75, 4 / 3), np.random.default_rng(seed))
    expected = F.resized_crop(
        Image.fromarray(picture()), top, left, bottom - top, right - left, [24, 24], interpolation=v2.InterpolationMode.BICUBIC
    )
    found = augmented(Augmentation(crop_scale=(0.08, 1.0), crop_ratio=(0.75, 4 / 3)), seed=seed)
    assert (found.int() - F.pil_to_tensor(expected).int()).abs().max() <= 1  # torch's filter instead of PIL's


def test_crops_are_distributed_as_torchvisions():
    image, scale, ratio, count = Image.new("RGB", (500, 375)), (0.08, 1.0), (0.75, 4 / 3), 3000
    generator = np.random.default_rng(0)
    ours = np.array([crop_box(500, 375, scale, ratio, generator) for _ in range(count)])
    boxes = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)])  # top, left, h, w
    theirs = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 1] + boxes[:, 3], boxes[:, 0] + boxes[:, 2]], axis=1)
    spread = np.sqrt(ours.var(0) / count + theirs.var(0) / count)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * spread).all()  # 4 standard errors
    assert np.allclose(ours.std(0), theirs.std(0), rtol=0.1)


@pytest.mark.parametrize("size", [(200, 10), (10, 200), (60, 40)])
def test_where_no_crop_fits_it_is_torchvisions_middle(size):
    scale, ratio = (1.0, 1.0), (0.9, 1.1)
    top, left, height, width = RandomResizedCrop.get_params(Image.new("RGB", size), list(scale), list(ratio))
    assert crop_box(*size, scale, ratio, np.random.default_rng(0)) == (left, top, left + width, top + height)


def test_the_narrowest_picture_can_be_cropped():
    left, top, right, bottom = crop_box(100, 1, (1.0, 1.0), (0.3, 0.4), np.random.default_rng(0))
    assert 0 <= left < right <= 100 and (top, bottom) == (0, 1)


@pytest.mark.parametrize("step", ["rand_augment", "color_jitter"])
def test_a_library_step_is_torchvisions_under_a_seed_of_the_item(step):
    settings = {"rand_augment": {"num_ops": 3, "magnitude": 15}, "color_jitter": {"brightness": 0.4, "saturation": 0.3, "hue": 0.2}}[step]
    reference = {"rand_augment": v2.RandAugment, "color_jitter": v2.ColorJitter}[step](**settings)
    generator = np.random.default_rng(7)
    generator.random()  # the flip
    torch.manual_seed(int(generator.integers(2**63)))
    expected = reference(F.to_pil_image(PROCESSOR.item(picture())))
    assert torch.equal(augmented(Augmentation(crop_scale=(1, 1), **{step: settings}), seed=7), F.pil_to_tensor(expected))


def test_the_same_seed_gives_the_same_picture_in_any_order():
    augmentation = Augmentation(**EVERYTHING)
    forwards = [augmented(augmentation, seed) for seed in range(12)]
    torch.rand(3)
    backwards = [augmented(augmentation, seed) for seed in reversed(range(12))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(forwards, backwards, strict=True))
    assert len({one.numpy().tobytes() for one in forwards}) == 12


def test_the_global_random_states_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # Python's own state: beartype draws from it in tests
    for seed in range(8):
        augmented(Augmentation(**EVERYTHING), seed)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_what_the_library_draws_does_not_depend_on_pythons_random_state():
    augmentation, pictures = Augmentation(**EVERYTHING), []
    for seed in (1, 2):
        random.seed(seed)
        pictures.append(augmented(augmentation, 3))
    assert torch.equal(*pictures)


def test_erasing_fills_one_rectangle_with_noise_and_leaves_the_rest():
    shares, ratios = [], []
    for seed in range(300):
        values = np.zeros((64, 96, 3), dtype=np.uint8)
        erase_rectangle(values, np.random.default_rng(seed))
        rows, columns = np.flatnonzero(values.any((1, 2))), np.flatnonzero(values.any((0, 2)))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height and len(columns) == width
        shares.append(height * width / (64 * 96))
        ratios.append(math.log(width / height))
    assert 0.015 < min(shares) and max(shares) < 0.36  # 0.02 to 1/3 before sides are rounded to pixels
    assert abs(np.mean(shares) - 0.165) < 0.03 and abs(np.mean(ratios)) < 0.3


def test_erasing_comes_with_its_probability_and_covers_all_values():
    pictures = torch.stack(
        [augmented(Augmentation(crop_scale=(1, 1), erase=0.25), seed, image=np.zeros((24, 24), np.uint8)) for seed in range(400)]
    )
    assert 0.18 < pictures.flatten(1).any(1).float().mean() < 0.32
    noise = pictures[pictures > 0].float()
    assert noise.max() == 255 and abs(noise.mean() - 128) < 1


def test_erasing_leaves_the_sources_own_picture_alone():
    image = np.zeros((24, 24, 3), np.uint8)
    processor = ImageProcessor(image_size=24)  # nothing is cut and nothing resized: the array itself would be handed on
    assert augmented(Augmentation(crop_scale=(1, 1), erase=1.0), image=image, processor=processor).any() and not image.any()


def test_a_narrow_picture_that_cannot_be_erased_stays():
    values = np.zeros((1, 40, 3), dtype=np.uint8)
    erase_rectangle(values, np.random.default_rng(0))
    assert values.shape == (1, 40, 3)


def test_other_modalities_and_samples_without_an_image_stay():
    sample = Sample("x", {"text": "t"})
    assert Augmentation(**EVERYTHING)(sample, np.random.default_rng(0), PROCESSOR) is sample
    both = Augmentation()(Sample("x", {"image": picture(), "text": "t"}, label=3), np.random.default_rng(0), PROCESSOR)
    assert both.inputs["text"] == "t" and both.label == 3


def test_workers_can_hold_it():
    copy = pickle.loads(pickle.dumps(Augmentation(**EVERYTHING)))
    assert torch.equal(augmented(copy, 4), augmented(Augmentation(**EVERYTHING), 4))


REFUSED = {
    "crop_scale": [(0.5,), (0, 1), (0.9, 0.5), (0.5, 1.1), (math.nan, 1)],
    "crop_ratio": [(1,), (0, 1), (2, 1), (1, math.inf)],
    "flip": [-0.1, 1.1, math.nan],
    "erase": [2.0],
    "rand_augment": [{"num_opps": 2}, {"num_ops": 0}, {"magnitude": 31}, {"magnitude": -1}],
    "color_jitter": [{"brightnes": 0.4}, {"hue": 0.6}, {"contrast": -1}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_what_is_out_of_range_is_refused(key, value):
    with pytest.raises(zoo.ConfigError, match=rf"^{key}.*(allowed|did you mean)"):
        Augmentation(**{key: value})


@pytest.mark.parametrize("key", ["rand_augment", "color_jitter"])
def test_without_torchvision_the_message_says_how_to_get_it(key, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with pytest.raises(zoo.ConfigError, match=rf"{key}: needs torchvision.*zoo install vision"):
        Augmentation(**{key: {}})
    Augmentation(crop_ratio=(0.75, 1.33), erase=0.5)


def test_a_ready_picture_of_another_size_is_refused():
    with pytest.raises(zoo.DataError, match=r"torch.float32 of shape \[3, 24, 24\]; a ready one is torch.uint8"):
        PROCESSOR.item(torch.zeros(3, 24, 24))
