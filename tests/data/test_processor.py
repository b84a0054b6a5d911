"""Raw inputs to tensors, against the references' own preprocessing."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

import zoo
from zoo.data.system_processor import Processor
from zoo.processors.image import CLIP_MEAN, CLIP_STD, RESIZES, ImageProcessor
from zoo.processors.text import TextProcessor


def grey_levels(ours, theirs):
    """Largest difference in grey levels of 0 to 255, undoing the normalisation."""
    return ((ours - theirs).abs() * torch.tensor(CLIP_STD).view(3, 1, 1) * 255).max().item()


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_crop_equals_open_clips_transform_within_one_grey_level(name):
    from open_clip.transform import image_transform

    photo = Image.fromarray(getattr(photos, name)())
    theirs = image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)(photo)
    ours = ImageProcessor(image_size=224)([photo])[0][0]
    assert grey_levels(ours, theirs) <= 1.01


@pytest.mark.parametrize("size", [64, 290])  # shrunk by torch, and hardly shrunk: by PIL itself
def test_squash_is_pils_resize_within_one_grey_level(size):
    photo = Image.fromarray(photos.chelsea())  # 451 x 300
    ours = ImageProcessor(image_size=size, resize="squash").item(photo).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC))
    difference = np.abs(ours - theirs)
    assert difference.max() <= (1 if size == 64 else 0) and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(1024, 768), (768, 1024), (640, 427), (500, 375), (300, 250), (900, 200)])
def test_every_resize_is_pils_within_one_grey_level(resize, interpolation, shape):
    photo = Image.fromarray(photos.coffee()).resize(shape)
    processor = ImageProcessor(
        image_size=224, resize=resize, interpolation=interpolation, crop_fraction=1.0 if resize in ("pad", "border") else 0.9
    )
    ours, theirs = processor.item(np.array(photo)), torch.from_numpy(np.array(processor.resized(photo))).permute(2, 0, 1)
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.02  # PIL's own box resampling differs in as many


def test_a_picture_of_the_final_size_and_a_read_only_array_pass_unchanged():
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    found = ImageProcessor(image_size=32).item(pixels[:, ::-1])
    assert (found.permute(1, 2, 0).numpy() == pixels[:, ::-1]).all()


@pytest.mark.parametrize("resize", ["pad", "border"])
def test_padding_keeps_the_aspect_and_fills_with_the_mean(resize):
    ours = ImageProcessor(image_size=64, resize=resize).item(Image.new("RGB", (100, 50), "white"))
    assert (ours[:, 32] == 255).all() and ours[:, 0, 0].tolist() == [int(255 * value) for value in CLIP_MEAN]


@pytest.mark.parametrize("shape", [(640, 427), (427, 640), (100, 50), (300, 299), (900, 200), (40, 12)])
def test_pad_is_what_llava_does(shape):
    """haotian-liu/LLaVA ``expand2square``, then CLIP's resize of the square; transformers' ``LlavaImageProcessor`` with ``do_pad``."""
    photo, longest = Image.fromarray(photos.coffee()).resize(shape), max(shape)
    square = Image.new("RGB", (longest, longest), (122, 116, 104))
    square.paste(photo, ((longest - shape[0]) // 2, (longest - shape[1]) // 2))
    expected = np.array(square.resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
    ours = ImageProcessor(image_size=224, resize="pad").item(photo).permute(1, 2, 0).numpy()
    difference = np.abs(ours - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02


@pytest.mark.parametrize("size", [(20000, 10), (1, 1), (3, 700)])
def test_extreme_shapes_work(size):
    for resize in RESIZES:
        assert ImageProcessor(image_size=32, resize=resize).item(Image.new("RGB", size)).shape == (3, 32, 32)


@pytest.mark.parametrize("raw", [3, np.zeros((2, 2)), np.zeros((2, 2, 4), dtype=np.uint8), None])
def test_what_is_no_image_is_refused(raw):
    with pytest.raises(zoo.DataError, match="an image cannot be made from"):
        ImageProcessor(image_size=32).item(raw)


@pytest.fixture
def text():
    processor = TextProcessor(vocab_size=300, context_length=12)
    processor.fit(["a photo of a cat", "a photo of the digit seven"])
    return processor


def test_texts_are_bounded_by_their_symbols_and_padded_right(text):
    ids, mask = text(["a cat", "a photo of the digit seven"])
    assert (ids[:, 0] == 1).all() and ids[0][mask[0]][-1] == 2 and (ids[~mask] == 0).all()


def test_long_texts_are_cut_and_keep_their_end(text):
    ids, _ = text(["cat " * 50])
    assert ids.shape == (1, 12) and ids[0, -1] == 2


def test_any_unicode_survives(text):
    ids, mask = text(["naïve 猫 🙂 tab\tnewline\n"])
    assert text.tokenizer.decode(ids[0][mask[0]].tolist()).strip().startswith("na")


def test_the_tokenizer_depends_on_the_captions_only(text):
    other = TextProcessor(vocab_size=300, context_length=12)
    other.fit(["a photo of the digit seven", "a photo of a cat", "a photo of a cat"])
    assert other.tokenizer.to_str() == text.tokenizer.to_str()


def test_ready_ids_and_raw_texts_give_the_same(text):
    ids, mask = text(["a cat", "a photo"])
    again, found = text(ids)
    assert torch.equal(ids, again) and torch.equal(mask, found)


def test_inputs_that_differ_in_number_are_refused(text):
    processor = Processor({"image": ImageProcessor(image_size=8), "text": text})
    with pytest.raises(zoo.DataError, match="inputs differ in number"):
        processor(image=[Image.new("RGB", (8, 8))], text=["a", "b"])


@pytest.mark.parametrize("keywords", [{"vocab_size": 100, "context_length": 9}, {"vocab_size": 300, "context_length": 2}])
def test_impossible_sizes_are_refused(keywords):
    with pytest.raises(zoo.ConfigError, match="is too small"):
        TextProcessor(**keywords)
