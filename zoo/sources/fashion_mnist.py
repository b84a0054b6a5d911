"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): 70,000 grey images of clothes, 28 x 28 pixels, ten classes."""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from zoo.errors import ConfigError, DataError, name_choices
from zoo.registry import register
from zoo.sources.wording.captions import caption, checked_templates, class_captions
from zoo.types import Sample, Source, Split

CLASS_NAMES = (  # table 2 of the paper, in lower case so that they fit into a sentence
    "t-shirt or top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
TEMPLATES = ("a photo of a {}, a piece of clothing.", "a grey photo of a {}.", "a {}.")
VALIDATION_ITEMS = 5000  # the last items of the training file
SIDE = 28  # pixels
FILES = {"train": "train", "validation": "train", "test": "t10k"}
SUBFOLDERS = (".", "FashionMNIST/raw")  # torchvision downloads into the second


@register("source")
class FashionMnist(Source):
    """Images of clothes with captions made from their class names.

    Args:
        path: folder with the four idx files, compressed (``.gz``) or not; they may be in ``FashionMNIST/raw`` below it.
        download: download missing files into ``path`` with torchvision.
        templates: captions with ``{}`` in place of the class name.

    Raises:
        ConfigError: a template has no ``{}``.
        DataError: files are missing, or the download failed.
    """

    modalities = ("image", "text")
    splits = ("train", "validation", "test")

    def __init__(self, *, path: str | Path, download: bool = False, templates: Sequence[str] = TEMPLATES) -> None:
        self.path = Path(path)
        self.class_names, self.templates = list(CLASS_NAMES), checked_templates(templates)
        if download and _missing_files(self.path):
            _download(self.path)
        if missing := _missing_files(self.path):
            raise DataError(
                f"data.path: {self.path} lacks {', '.join(missing)} (as .gz or uncompressed, there or in {SUBFOLDERS[1]})\n"
                "give the folder that `zoo fetch fashion_mnist` prints (it uses the Debian package), or set data.source.download=true"
            )

    def split(self, name: str) -> "FashionMnistSplit":
        """Read one split into memory.

        Raises:
            ConfigError: no such split.
            DataError: a file is damaged, or its content is not that of Fashion-MNIST.
        """
        if name not in self.splits:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, self.splits)}")
        images, labels = self._read(FILES[name])
        if name == "test":
            return FashionMnistSplit(name, images, labels, 0, self.templates)
        if len(images) <= VALIDATION_ITEMS:
            raise DataError(f"{self.path}: {len(images)} training items; more than {VALIDATION_ITEMS} are needed; fetch the files again")
        cut = len(images) - VALIDATION_ITEMS
        kept = slice(0, cut) if name == "train" else slice(cut, None)
        return FashionMnistSplit(name, images[kept], labels[kept], kept.start, self.templates)

    def captions(self) -> list[str]:
        """Return every class name in every template, as text to train a tokenizer on."""
        return class_captions(self.templates, self.class_names)

    def _read(self, prefix: str) -> tuple[UInt8[np.ndarray, "items 28 28"], UInt8[np.ndarray, " items"]]:
        image_path, label_path = _find(self.path, f"{prefix}-images-idx3-ubyte"), _find(self.path, f"{prefix}-labels-idx1-ubyte")
        if image_path is None or label_path is None:
            raise DataError(f"{self.path}: the files of {prefix!r} were removed after the source was created; restore them")
        images, labels = read_idx(image_path, num_dims=3), read_idx(label_path, num_dims=1)
        if images.shape[1:] != (SIDE, SIDE):
            raise DataError(f"{image_path}: images of {images.shape[1]} x {images.shape[2]}; Fashion-MNIST has {SIDE} x {SIDE}")
        if len(images) != len(labels):
            raise DataError(f"{image_path}: {len(images)} images but {len(labels)} labels in {label_path.name}; fetch both again")
        if len(labels) and labels.max() >= len(CLASS_NAMES):
            raise DataError(f"{label_path}: label {labels.max()}; allowed are 0 to {len(CLASS_NAMES) - 1}; fetch the file again")
        return images, labels


class FashionMnistSplit(Split):
    """One split in memory; 55,000 items are 43 MB."""

    def __init__(
        self,
        name: str,
        images: UInt8[np.ndarray, "items 28 28"],
        labels: UInt8[np.ndarray, " items"],
        first: int,
        templates: Sequence[str],
    ) -> None:
        self.name, self.images, self.labels, self.first, self.templates = name, images, labels, first, templates

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index`` with a caption; its id is ``FILE:ROW``, for example ``train:12``."""
        label = int(self.labels[index])
        text = caption(self.templates, CLASS_NAMES[label], generator)
        row = self.first + index % len(self)
        return Sample(f"{FILES[self.name]}:{row}", {"image": self.images[index], "text": text}, group=label, label=label)


def read_idx(path: Path, *, num_dims: int) -> UInt8[np.ndarray, "..."]:
    """Read an idx file of unsigned bytes, compressed (``.gz``) or not.

    Source: yann.lecun.com/exdb/mnist, "the IDX file format".

    Raises:
        DataError: the file cannot be decompressed, has another format, or its length does not match its header.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or cut short ({error}); fetch the file again") from error
    header = 4 + 4 * num_dims
    magic = struct.pack(">HBB", 0, 0x08, num_dims)  # two zeros, 0x08 for unsigned bytes, the number of dimensions
    if len(data) < header or data[:4] != magic:
        raise DataError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}; an idx file of {num_dims} dimensions starts with {magic.hex()}"
        )
    shape = struct.unpack_from(f">{num_dims}I", data, 4)
    if len(data) - header != math.prod(shape):
        raise DataError(f"{path}: {len(data) - header} bytes for shape {list(shape)}, which needs {math.prod(shape)}; fetch the file again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / sub / (name + suffix) for sub in SUBFOLDERS for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _missing_files(folder: Path) -> list[str]:
    names = [f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return [name for name in names if _find(folder, name) is None]


def _download(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST  # slow to import, and needed only here

    try:
        FashionMNIST(str(folder), download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; all mirrors failing is a RuntimeError
        raise DataError(
            f"data.path: Fashion-MNIST could not be fetched into {folder} ({error})\n"
            "fetch it on a machine with a network, or install the Debian package dataset-fashion-mnist and name its folder"
        ) from error
