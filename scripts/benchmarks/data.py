"""Data benchmarks: images from JPEG bytes to a normalised batch, and samples from tar shards, each in one process.

The photos are those of scikit-image, at 640 x 480 and 1024 x 768 pixels. The difference of images is in grey levels from 0 to 255.
"""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.job import Entry, Job, need
from PIL import Image
from torch import Tensor

from zoo.data.augmentation import Augmentation
from zoo.processors.image import ImageProcessor
from zoo.processors.media.image_file import read_pixels
from zoo.sources.shards import Shards
from zoo.types import Sample

IMAGE_SIZE = 224
SIZES = ((640, 480), (1024, 768))
QUALITY = 90
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def photos(count: int) -> list[bytes]:
    """Return JPEG files of photos, in alternating sizes."""
    samples = need("skimage.data", "scikit-image")
    files = []
    for number in range(count):
        image = Image.fromarray(getattr(samples, PHOTOS[number % len(PHOTOS)])()).convert("RGB")
        file = io.BytesIO()
        image.resize(SIZES[number // len(PHOTOS) % len(SIZES)], Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files


def image_path(size: int) -> Job:
    """Decode, resize, crop and normalise ``size`` photos for evaluation; the reference uses PIL and torchvision v1 transforms."""
    processor = ImageProcessor(image_size=IMAGE_SIZE)
    transform = need("open_clip", "open_clip_torch").image_transform(IMAGE_SIZE, is_train=False, mean=processor.mean, std=processor.std)
    files = photos(size)

    def peer() -> Tensor:
        return torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])

    def ours() -> Tensor:
        return processor.collate([processor.item(read_pixels(file)) for file in files])[0]

    def difference() -> float:
        return ((peer() - ours()).abs() * torch.tensor(processor.std).view(3, 1, 1) * 255).max().item()

    return Job(peer, ours, difference)


def training_image_path(size: int) -> Job:
    """Decode, randomly crop and normalise ``size`` photos; the difference is that of uncropped images, because random crops differ."""
    processor = ImageProcessor(image_size=IMAGE_SIZE)
    transforms = need("torchvision.transforms", "torchvision")

    def steps(crop: object) -> Callable[[Image.Image], Tensor]:
        normalise = transforms.Normalize(processor.mean, processor.std)
        return transforms.Compose([crop, transforms.Lambda(lambda image: image.convert("RGB")), transforms.ToTensor(), normalise])

    bicubic = transforms.InterpolationMode.BICUBIC
    transform, files = steps(transforms.RandomResizedCrop(IMAGE_SIZE, scale=(0.5, 1.0), interpolation=bicubic)), photos(size)
    augmentation = Augmentation(crop_scale=(0.5, 1.0), crop_ratio=(3 / 4, 4 / 3))

    def peer() -> Tensor:
        return torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])

    def item(number: int, file: bytes, augment: Augmentation) -> Tensor:
        varied = augment(Sample(str(number), {"image": read_pixels(file)}), np.random.default_rng(number), processor)
        return processor.item(varied.inputs["image"])

    def ours(augment: Augmentation = augmentation) -> Tensor:
        return processor.collate([item(number, file, augment) for number, file in enumerate(files)])[0]

    def difference() -> float:
        squashed = steps(transforms.Resize((IMAGE_SIZE, IMAGE_SIZE), interpolation=bicubic))
        whole = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(4 / 3, 4 / 3))
        theirs = torch.stack([squashed(Image.open(io.BytesIO(file))) for file in files])
        return ((theirs - ours(whole)).abs() * torch.tensor(processor.std).view(3, 1, 1) * 255).max().item()

    return Job(peer, ours, difference)


def shard_records(size: int) -> Job:
    """Read ``size`` samples of a tar file without decoding; webdataset reads sequentially, zoo in the shuffled order of an epoch."""
    webdataset = need("webdataset", "webdataset")
    folder = tempfile.TemporaryDirectory()
    path, files = Path(folder.name) / "000.tar", photos(2 * len(PHOTOS))
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(size):
            texts = {"txt": f"photo {i}", "json": {"caption": f"photo {i}", "status": "success"}}
            writer.write({"__key__": f"{i:09d}", "jpg": files[i % len(files)], **texts})
    split = Shards(path=str(path), index_directory=folder.name).split("train")

    def peer() -> dict[str, bytes]:
        return {sample["__key__"]: sample["jpg"] for sample in webdataset.WebDataset(str(path), shardshuffle=False)}

    def ours() -> dict[str, bytes]:
        found = (split.contents(int(index)) for index in split.order(0, 0)[: len(split)])
        return {name.rpartition(":")[2]: contents["jpg"] for name, contents in found}

    def difference() -> float:
        assert folder.name  # this reference keeps the temporary folder until the job is deleted
        return float(peer() != ours())

    return Job(peer, ours, difference)


ENTRIES = {
    "image_path": Entry(image_path, 16, "PIL + torchvision v1 (open_clip)", 1.01),
    "training_image_path": Entry(training_image_path, 16, "PIL + torchvision v1", 1.01),
    "shard_records": Entry(shard_records, 400, "webdataset", 0.0),
}
