"""The ``fashion_mnist`` source, on small files in the format of the real ones."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from zoo.errors import ConfigError, DataError
from zoo.registry import find_part
from zoo.sources.fashion_mnist import FashionMnist, read_idx

TRAIN, TEST = 5003, 12


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents() -> dict[str, bytes]:
    """The four files; the first pixel of each image holds its row modulo 251, the label is the row modulo 10."""
    files = {}
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(count) % 251
        files[f"{prefix}-images-idx3-ubyte"] = idx(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in contents().items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_it_is_registered() -> None:
    assert find_part("source", "fashion_mnist") is FashionMnist


def test_validation_is_the_last_5000_of_training(folder: Path) -> None:
    source = FashionMnist(path=folder)
    assert [len(source.split(name)) for name in source.splits] == [3, 5000, TEST]
    first = source.split("validation").sample(0)
    assert (first.id, first.label, first.inputs["image"][0, 0]) == ("train:3", 3, 3)
    assert source.split("test").sample(11).id == "t10k:11"


def test_a_sample_is_a_byte_image_with_its_class_in_words(folder: Path) -> None:
    sample = FashionMnist(path=folder, templates=["a {}", "the {}"]).split("train").sample(1)
    assert sample.inputs["image"].dtype == np.uint8 and sample.inputs["image"].shape == (28, 28)
    assert (sample.inputs["text"], sample.label, sample.group) == ("a trouser", 1, 1)


def test_captions_are_all_names_in_all_templates(folder: Path) -> None:
    captions = FashionMnist(path=folder, templates=["a {}", "the {}"]).captions()
    assert len(captions) == 20 and {"a ankle boot", "the t-shirt or top"} <= set(captions)


@pytest.mark.parametrize("place", [".", "FashionMNIST/raw"])
def test_packed_files_and_the_layout_of_torchvision_are_found(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name, data in contents().items():
        (tmp_path / place / f"{name}.gz").write_bytes(gzip.compress(data, 1))
    assert FashionMnist(path=tmp_path).split("test").sample(5).inputs["image"][0, 0] == 5


def test_missing_files_are_named_with_the_way_to_get_them(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"lacks t10k-labels-idx1-ubyte \((.|\n)*zoo fetch fashion_mnist(.|\n)*download=true"):
        FashionMnist(path=folder)


def test_a_download_that_fails_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def fail(*args: object, **keywords: object) -> None:
        raise RuntimeError("Error downloading train-images")

    monkeypatch.setattr(datasets, "FashionMNIST", fail)
    with pytest.raises(DataError, match="could not be fetched"):
        FashionMnist(path=tmp_path, download=True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (idx(np.zeros((2, 28, 28), np.uint8))[:-1], "1567 bytes for shape"),
        (idx(np.zeros((2, 28, 28), np.uint8)) + b"x", "1569 bytes for shape"),
        (idx(np.zeros(9, np.uint8)), "starts with 00000801"),
        (b"", "starts with nothing"),
        (b"\0\0\x08\x03\0\0", "starts with 00000803"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(data: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=expected):
        read_idx(tmp_path / "x", num_dims=3)


def test_a_damaged_packed_file_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(np.random.default_rng(0).bytes(999))
    for data in (packed[:500], b"not packed", packed[:400] + b"\xff" * 99 + packed[499:]):
        (tmp_path / "x.gz").write_bytes(data)
        with pytest.raises(DataError, match="damaged or cut short"):
            read_idx(tmp_path / "x.gz", num_dims=3)


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("t10k-labels-idx1-ubyte", np.zeros(11, np.uint8), "12 images but 11 labels"),
        ("t10k-labels-idx1-ubyte", np.full(12, 10, np.uint8), "label 10"),
        ("t10k-images-idx3-ubyte", np.zeros((12, 32, 32), np.uint8), "32 x 32"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(name: str, array: np.ndarray, expected: str, folder: Path) -> None:
    (folder / name).write_bytes(idx(array))
    with pytest.raises(DataError, match=expected):
        FashionMnist(path=folder).split("test")


def test_a_wrong_split_lists_the_right_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'validation'"):
        FashionMnist(path=folder).split("validaton")
