"""Pictures, shards and labels as people save them: endings, large texts in PNGs, several suffixes, names that repeat or differ in case."""

import io
import logging
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import zoo
from zoo.commands.cli import main
from zoo.errors import DataError
from zoo.evaluation.zero_shot import ZeroShot
from zoo.heads.clip import refuse_equal
from zoo.processors.media.image_file import IMAGE_SUFFIXES, find_images, open_image
from zoo.sources.shards import Shards

RED = Image.new("RGB", (8, 8), (250, 10, 10))
JPEG_ENDINGS = (".jfif", ".jpe", ".jif", ".JFIF", ".jpg")


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("ending", JPEG_ENDINGS)
def test_every_ending_of_a_jpeg_is_found_in_a_folder_and_read(ending, tmp_path):
    (tmp_path / f"a{ending}").write_bytes(saved(RED, "JPEG"))
    (path,) = find_images([tmp_path])
    assert np.abs(np.array(open_image(path)).astype(int) - [250, 10, 10]).max() < 8


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "DIB"])
def test_endings_of_pillow_for_the_formats_we_read_are_ours(kind):
    Image.init()
    left = {".bw", ".rgb", ".rgba", ".sgi", ".avifs", ".pfm"}  # of other programs or of moving pictures
    assert {end for end, name in Image.registered_extensions().items() if name == kind} - left <= set(IMAGE_SUFFIXES)


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path, caplog):
    for name in ("a.jpg", "b.heic", "deep/c.HEIC", "d.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(saved(RED, "JPEG"))
    with caplog.at_level(logging.WARNING, "zoo"):
        assert len(find_images([tmp_path])) == 1
    assert "3 pictures left out (2 .heic, 1 .svg); allowed are AVIF" in caplog.text


@pytest.mark.parametrize("large", ["text", "profile"])
def test_a_png_with_a_large_text_or_colour_profile_keeps_its_pixels(large, tmp_path):
    info = PngImagePlugin.PngInfo()
    if large == "text":
        for number in range(3):
            info.add_text(f"Comment{number}", "word " * 600_000, zip=True)
    else:
        info.add(b"iCCP", b"profile\0\0" + zlib.compress(bytes(5_000_000)))
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    found = open_image(saved(RED, "PNG", pnginfo=info))
    assert np.array_equal(np.array(found), np.array(RED)) and (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY) == limits


def shard(folder, members):
    with tarfile.open(folder / "a.tar", "w") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return str(folder / "a.tar")


def test_members_with_several_suffixes_are_read(tmp_path):
    path = shard(tmp_path, {"x.input.jpg": saved(RED, "JPEG"), "x.output.txt": b"red", "x.output.json": b"{}"})
    sample = Shards(path=path, caption_key="output.txt").split("train").sample(0)
    assert sample.inputs["text"] == "red" and sample.inputs["image"].shape == (8, 8, 3)


def test_names_with_dots_that_fall_into_one_sample_are_explained(tmp_path):
    path = shard(tmp_path, {"x.1.txt": b"a", "x.2.txt": b"b", "x.1.jpg": saved(RED, "JPEG"), "x.2.jpg": saved(RED, "JPEG")})
    with pytest.raises(DataError, match="has no txt, only 1.txt, 2.txt, 1.jpg, 2.jpg; names are split at their first dot"):
        Shards(path=path).split("train").sample(0)


def repeated(folder):
    """Shards of four pictures of classes 0, 1, 2 and 2; classes 0 and 2 have the same name."""
    members = {}
    for i, number in enumerate([0, 1, 2, 2]):
        members |= {f"{i}.png": saved(RED, "PNG"), f"{i}.cls": str(number).encode()}
    path = shard(folder, members)
    return Shards(path=path, test=path, class_names=["missile", "dog", "missile"], caption_key=None)


def test_a_class_name_that_stands_twice_is_two_classes(tmp_path):
    source = repeated(tmp_path)
    result = ZeroShot(cache=False)(zoo.load("clip_vit_nano"), source, "test")
    assert result.num_items == 4 and [source.split("test").sample(i).label for i in range(4)] == [0, 1, 2, 2]
    config = {"encoders": {"image": "vit_nano"}, "head": {"name": "classifier", "class_names": source.class_names}}
    assert zoo.create_system(config).head.num_classes == 3


@pytest.mark.parametrize("labels", ["Dog,dog,DOG", "dog,Dog,cat"])
def test_labels_that_are_one_text_for_the_model_are_told(labels, capsys):
    assert main(["classify", "assets/pictures/dog.png", "--labels", labels, "--model", "clip_vit_nano", "--no-cache"]) == 2
    assert "one text for this model, which does not tell their letters apart; give one of them" in capsys.readouterr().err.replace(
        "\n", " "
    )


def test_labels_that_differ_in_case_are_kept_by_a_model_that_reads_case():
    refuse_equal(["Dog", "dog"], torch.eye(2))
    with pytest.raises(DataError, match="labels: 'Dog', 'dog ' are one text"):
        refuse_equal(["Dog", "cat", "dog "], torch.ones(3, 2))
