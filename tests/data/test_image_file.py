"""``open_image``: every kind of image is decoded correctly, or is a ``DataError`` with a remedy."""

import io
import random
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from zoo.errors import DataError
from zoo.processors.media import image_file, jpeg
from zoo.processors.media.image_file import find_images, open_image, read_pixels

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY16 = np.array([[0, 256, 257, 32768, 65535]], dtype=np.uint16)
ENCODINGS = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"quality": 95}),
    "progressive": ("JPEG", {"progressive": True}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
}


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    """A picture of noise as the bytes of a file."""
    packed, (name, options) = io.BytesIO(), ENCODINGS[kind]
    (Image.fromarray(NOISE) if image is None else image).save(packed, name, **options)
    return packed.getvalue()


def refusal(path: Path | str | Image.Image) -> str:
    """The message with which a picture is refused."""
    with pytest.raises(DataError) as caught:
        open_image(path)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "lzw", "bmp", "ppm"])
def test_lossless_files_keep_every_value(kind: str, tmp_path: Path) -> None:
    assert (pixels(open_image(written(tmp_path / "x", encoded(kind)))) == NOISE).all()


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_a_cut_file_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    whole = encoded(kind)
    path = written(tmp_path / "cut.img", whole[: int(len(whole) * share)])
    assert "cut.img" in refusal(path)


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_damaged_file_is_an_image_or_a_data_error(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "MAX_PIXELS", 1_000_000)  # flipped sizes would take time and memory
    rng, whole = random.Random(kind), encoded(kind)
    for _ in range(60):
        broken = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
        for _ in range(rng.choice((1, 3, 9))):
            broken[rng.randrange(min(len(broken), rng.choice((64, 10**6))))] = rng.randrange(256)
        try:
            assert open_image(written(tmp_path / "x", bytes(broken))).mode == "RGB"
        except DataError as error:
            assert str(tmp_path / "x") in str(error)


def test_what_is_no_image_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.png")
    assert "a folder" in refusal(tmp_path)
    assert "0 bytes" in refusal(written(tmp_path / "empty.png", b""))
    assert "not an image" in refusal(written(tmp_path / "noise.png", NOISE.tobytes()))
    assert "SVG" in refusal(written(tmp_path / "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"))
    assert "HEIC" in refusal(written(tmp_path / "phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0"))
    assert "web page" in refusal(written(tmp_path / "page.jpg", b"<html><body>404</body></html>"))
    assert "no such file" in refusal("x" * 5000)
    assert "no such file" in refusal("nul\0byte.png")


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_an_animation_gives_its_first_frame(kind: str, tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(tmp_path / f"x.{kind}", save_all=True, append_images=[blue], lossless=True)
    assert (pixels(open_image(tmp_path / f"x.{kind}")) == (255, 0, 0)).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY16).save(tmp_path / f"x.{suffix}")
    expected = np.rint(GREY16 / 257)
    assert (pixels(open_image(tmp_path / f"x.{suffix}"))[..., 0] == expected).all()
    assert (pixels(open_image(Image.fromarray(GREY16.astype(np.int32))))[..., 2] == expected).all()


def test_grey_beyond_16_bit_is_refused() -> None:
    assert "65536" in refusal(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)))
    assert "-1" in refusal(Image.fromarray(np.array([[0, -1]], dtype=np.int32)))


def test_float_grey_is_scaled_or_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.25, 1]], dtype=np.float32)).save(tmp_path / "x.tiff")
    assert pixels(open_image(tmp_path / "x.tiff"))[0, :, 0].tolist() == [0, 64, 255]
    assert "from 0 to 1.5" in refusal(Image.fromarray(np.array([[0, 1.5]], dtype=np.float32)))
    assert "1 of them not finite" in refusal(Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)))


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 0))
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 51))  # a fifth of black on white: 255 * 0.8
    assert pixels(open_image(rgba))[0].tolist() == [[200, 0, 0], [255, 255, 255]]
    assert pixels(open_image(half))[0, 0].tolist() == [204, 204, 204]
    assert pixels(open_image(rgba.convert("LA")))[0, 1].tolist() == [255, 255, 255]
    assert pixels(open_image(rgba.convert("RGBa")))[0].tolist() == [[200, 0, 0], [255, 255, 255]]
    rgba.save(tmp_path / "x.gif")
    assert pixels(open_image(tmp_path / "x.gif"))[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 255, 0])])
def test_a_transparent_palette_entry_becomes_white(transparency: int | bytes, tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 3]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30] * 4)
    image.save(tmp_path / "x.png", transparency=transparency)
    assert pixels(open_image(tmp_path / "x.png"))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_a_transparent_grey_or_colour_becomes_white(tmp_path: Path) -> None:
    Image.fromarray(GREY16).save(tmp_path / "grey16.png", transparency=257)
    Image.new("L", (1, 1), 7).save(tmp_path / "grey.png", transparency=7)
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "colour.png", transparency=(1, 2, 3))
    assert pixels(open_image(tmp_path / "grey16.png"))[0, :, 0].tolist() == [0, 1, 255, 128, 255]
    assert pixels(open_image(tmp_path / "grey.png"))[0, 0].tolist() == [255] * 3
    assert pixels(open_image(tmp_path / "colour.png"))[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_other_modes_keep_their_colour(mode: str) -> None:
    white = Image.new("RGB", (4, 4), "white")
    if mode == "LAB":
        white = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert pixels(open_image(white if mode == "LAB" else white.convert(mode))).min() >= 253


def test_a_cmyk_jpeg_of_adobe_is_not_inverted(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)  # no cyan, all magenta and yellow: red
    assert b"Adobe" in (tmp_path / "x.jpg").read_bytes()
    assert np.abs(pixels(open_image(tmp_path / "x.jpg"))[8, 8].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone_once(orientation: int, tmp_path: Path) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3)
    # How a camera stores the upright picture under each orientation; EXIF 2.3, table of tag 0x0112.
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T}
    stored |= {6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(tmp_path / "x.png", exif=exif)
    once = open_image(tmp_path / "x.png")
    assert (pixels(once)[..., 0] == upright).all()
    assert (pixels(open_image(once))[..., 0] == upright).all()


def test_a_very_wide_image_opens(tmp_path: Path) -> None:
    Image.new("L", (20_000, 3), 9).save(tmp_path / "wide.png")
    assert open_image(tmp_path / "wide.png").size == (20_000, 3)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG header that claims a size, without image data."""
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    data = b"IDAT" + zlib.compress(b"\0" * 10)
    parts = [len(c[4:]).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (chunk, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [17_500, 60_000])  # beyond our limit, and beyond twice that, where Pillow raises an error
def test_a_bomb_is_refused_without_a_warning(side: int, tmp_path: Path) -> None:
    path = written(tmp_path / "bomb.png", png_header(side, side))
    assert "300,000,000" in refusal(path)


def test_our_limit_holds_in_place_of_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.png", encoded("png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # the noise has 768 pixels
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert open_image(path).size == (32, 24)
    assert Image.MAX_IMAGE_PIXELS == 300
    monkeypatch.setattr(image_file, "MAX_PIXELS", 767)
    assert "32 x 24 = 768 pixels; at most 767" in refusal(path)


def test_warnings_of_pillow_do_not_leak(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker's name"
    Image.fromarray(NOISE).save(tmp_path / "x.jpg", exif=exif.tobytes()[:-9])
    with pytest.warns(UserWarning, match="Truncated"), Image.open(tmp_path / "x.jpg") as image:
        image.getexif().get(0x010F)
    assert open_image(tmp_path / "x.jpg").size == (32, 24)


def test_sides_of_zero_are_refused(tmp_path: Path) -> None:
    assert "0 x 5" in refusal(Image.new("RGB", (0, 5)))
    refusal(written(tmp_path / "x.png", png_header(0, 5)))


def test_an_open_lazy_image_that_is_cut_is_refused() -> None:
    assert "cut short" in refusal(Image.open(io.BytesIO(encoded("jpeg")[:900])))


def test_the_image_given_is_not_changed() -> None:
    given = Image.fromarray(NOISE)
    open_image(given).putpixel((0, 0), (1, 1, 1))
    assert (np.asarray(given) == NOISE).all()


def test_threads_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    path = written(tmp_path / "x.png", encoded("png"))
    before = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=lambda: [open_image(path) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (list(warnings.filters), Image.MAX_IMAGE_PIXELS) == before


def test_folders_are_walked_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.JPG", "a.jpeg", ".hidden.png", ".git/x.png", "notes.txt", "c/d/e.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "notes.txt", tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["notes.txt", "a.jpeg", "b/10.JPG", "b/2.png", "c/d/e.webp"]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert find_images([tmp_path]) == [tmp_path / "a.png"]


def test_paths_without_images_are_refused(tmp_path: Path) -> None:
    for paths, expected in (([], "no paths"), ([tmp_path / "absent"], "absent"), ([tmp_path], "no images")):
        with pytest.raises(DataError, match=expected):
            find_images(paths)


@pytest.mark.parametrize(
    "options", [{"quality": 75}, {"quality": 95, "subsampling": 0}, {"subsampling": 1}, {"progressive": True}], ids=str
)
@pytest.mark.parametrize("size", [(640, 480), (333, 257), (16, 8), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_plain_jpeg_has_pillows_values_without_pillow(options, size, mode, tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.fromarray(photos.coffee()).resize(size).convert(mode).save(file, "JPEG", **options)
    path = written(tmp_path / "x.jpg", file.getvalue())
    expected = np.asarray(open_image(path))
    monkeypatch.setattr(image_file, "open_image", None)
    for source in (path, str(path), path.read_bytes()):
        found = read_pixels(source)
        assert found.dtype == np.uint8 and (found == expected).all()


@pytest.mark.parametrize("kind", ENCODINGS)
def test_pixels_are_those_of_the_opened_image(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x", encoded(kind))
    assert (read_pixels(path) == pixels(open_image(path))).all()
    assert (read_pixels(path.read_bytes()) == read_pixels(open_image(path))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_turned_back(orientation: int) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(NOISE).save(file, "JPEG", exif=exif)
    assert (read_pixels(file.getvalue()) == pixels(open_image(file.getvalue()))).all()


def test_a_jpeg_of_four_inks_and_one_without_torchvision_go_pillows_way(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(file, "JPEG")
    assert (read_pixels(file.getvalue()) == pixels(open_image(file.getvalue()))).all()
    monkeypatch.setattr(jpeg, "_decoder", lambda: None)
    assert (read_pixels(encoded("jpeg")) == pixels(open_image(encoded("jpeg")))).all()


@pytest.mark.parametrize("kind", ["jpeg", "progressive"])
def test_pixels_of_a_damaged_jpeg_are_refused_where_the_image_is(kind: str, capfd: pytest.CaptureFixture) -> None:
    rng, whole, outcomes = random.Random(kind), encoded(kind), set()
    for _ in range(150):
        broken = bytearray(whole[: rng.choice((len(whole), rng.randrange(1, len(whole))))])
        broken[rng.randrange(min(len(broken), rng.choice((64, 10**6))))] = rng.randrange(256)
        found = []
        for read in (lambda data: open_image(data, name="n").size[::-1], lambda data: read_pixels(data, name="n").shape[:2]):
            try:
                found.append(read(bytes(broken)))
            except DataError as error:
                found.append(str(error))
        assert found[0] == found[1]
        outcomes.add(type(found[0]))
    assert outcomes == {tuple, str}


def test_a_picture_in_memory_is_named_as_its_owner_says() -> None:
    for read in (open_image, read_pixels):
        with pytest.raises(DataError, match=r"^a.tar:7.jpg: this is a web page"):
            read(b"<html>404</html>", name="a.tar:7.jpg")
