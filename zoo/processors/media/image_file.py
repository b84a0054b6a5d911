"""Image files: decode any supported format to an upright 8-bit RGB image, and find images in folders."""

import io
import logging
import os
import struct
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from zoo.errors import DataError
from zoo.processors.media import jpeg

log = logging.getLogger("zoo")

MAX_PIXELS = 300_000_000  # 900 MB as RGB; the largest cameras in phones give 200 million
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Pillow imports the readers of all its forty formats when it comes to one outside of these, which takes a tenth of a second.
COMMON_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM")
TRIED_FORMATS = (*COMMON_FORMATS, *(name for name in FORMATS if name not in COMMON_FORMATS))
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
OTHER_SUFFIXES = (".heic", ".heif", ".hif", ".ico", ".jxl", ".psd", ".svg", ".tga")  # of pictures that are not read: named, not passed over
MAX_TEXT_BYTES = 2**28  # of a PNG's texts and colour profile, unpacked; Pillow stops at 1 and 64 MB, and some programs write more

# Common files that are not supported images: offset and bytes of their signature, and a description for the message.
STRANGERS = (
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML document, perhaps an SVG drawing"),
    (0, b"<!DOCTYPE", "a web page, perhaps a failed download"),
    (0, b"<html", "a web page, perhaps a failed download"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself (git lfs pull)"),
)
# Exceptions that Pillow raises on damaged files; found by truncating intact files and flipping their bytes.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,  # AVIF
    TypeError,  # TIFF tags of a wrong type
    EOFError,
    LookupError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
UPRIGHT = {  # EXIF orientation to the operation that undoes it; ImageOps.exif_transpose also rewrites the EXIF block and may fail on it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: str | Path | bytes | Image.Image, *, name: str = "image in memory", max_pixels: int | None = None) -> Image.Image:
    """Read an image of any supported format as an upright image in mode RGB.

    An animation gives its first frame. Transparent parts become white. 16-bit grey is divided by 257; float grey in [0, 1] is
    multiplied by 255. The EXIF orientation is applied.

    Args:
        source: path, the bytes of a file, or an image opened by Pillow.
        name: name for error messages if the source is not a file.
        max_pixels: largest image, width times height; a larger one is refused before it is decoded. None allows ``MAX_PIXELS``.

    Raises:
        DataError: the file is missing, empty, cut short, too large, or not a readable image.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    if isinstance(source, Image.Image):
        return _decoded(source, getattr(source, "filename", "") or name, max_pixels)
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), name, max_pixels)
    if not isinstance(source, str | Path):
        raise DataError(f"an image cannot be opened from {type(source).__name__}; give a path or a PIL image")
    path = Path(source)
    _check_file(path)
    # We open the file, because Pillow would map some formats into memory: a file truncated meanwhile would then crash the process.
    try:
        with path.open("rb") as file:
            return _open(file, str(path), max_pixels)
    except PermissionError as error:
        raise DataError(f"{path}: no permission to read it; change the file's mode or owner") from error
    except OSError as error:
        raise DataError(_damaged(str(path), error)) from error


def read_pixels(source: str | Path | bytes | Image.Image, *, name: str = "image in memory") -> UInt8[np.ndarray, "height width 3"]:
    """Read the pixels of ``open_image`` as a new array; for a plain JPEG this takes a third less time.

    Raises:
        DataError: as ``open_image``.
    """
    data = source if isinstance(source, bytes) else None if isinstance(source, Image.Image) else _jpeg_bytes(source)
    pixels = None if data is None else _plain_jpeg(data)
    return np.array(open_image(source, name=name)) if pixels is None else pixels


def _jpeg_bytes(path: str | Path) -> bytes | None:
    """Return the bytes of a JPEG file; None for any other file."""
    try:
        if not os.path.isfile(path):  # a pipe would block once it is opened
            return None
        with open(path, "rb") as file:
            start = file.read(len(jpeg.START))
            return start + file.read() if start == jpeg.START else None
    except (OSError, ValueError, TypeError):  # open_image raises the error with a message
        return None


def _plain_jpeg(data: bytes) -> UInt8[np.ndarray, "height width 3"] | None:
    """Return the pixels of an upright grey or RGB JPEG; None for any other data."""
    if not data.startswith(jpeg.START):
        return None
    try:
        with _our_settings, Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
            plain = image.format == "JPEG" and image.mode in ("L", "RGB") and width * height <= MAX_PIXELS
            if not plain or image.getexif().get(ExifTags.Base.Orientation, 1) in UPRIGHT:
                return None
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        return None
    return jpeg.decode_plain(data, height, width)


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the given files, and for each folder the images in it and in its subfolders, sorted, without hidden files.

    Raises:
        DataError: no path is given, a path does not exist, or a folder has no images.
    """
    if not paths:
        raise DataError("no paths given; name at least one image file or folder")
    found: list[Path] = []
    for path in map(Path, paths):
        if not _exists(path):
            raise DataError(f"{path}: no such file or folder; check the path (the current folder is {Path.cwd()})")
        inside = [path]
        if path.is_dir():
            inside = list(walk_images(path))
            warn_of_others(path)
        if not inside:
            raise DataError(f"{path}: no images in this folder or below; file names must end in one of {' '.join(IMAGE_SUFFIXES)}")
        found += inside
    return found


def walk_images(folder: Path, *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """Yield the images in a folder and its subfolders, sorted; symbolic links are followed, and no folder is entered twice.

    Args:
        suffixes: endings of file names to take, in lower case; give others to find files that are not images.

    Raises:
        DataError: a folder cannot be listed.
    """
    return (path for path in walk_files(folder) if path.name.lower().endswith(suffixes))


def walk_files(folder: Path, _seen: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, sorted; symbolic links are followed, and no folder is entered twice.

    Names that begin with a dot are left out.

    Raises:
        DataError: a folder cannot be listed.
    """
    seen = set() if _seen is None else _seen
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be listed ({error.strerror}); check its mode and owner") from error
    if (status.st_dev, status.st_ino) in seen:  # a link to a parent folder would recurse forever
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if Path(entry.path).is_dir():
            yield from walk_files(Path(entry.path), seen)
        else:
            yield Path(entry.path)


def warn_of_others(folder: Path) -> None:
    """Log the number of pictures in a folder and its subfolders that are left out because their formats are not read."""
    left = Counter(path.suffix.lower() for path in walk_images(folder, suffixes=OTHER_SUFFIXES))
    if left:
        counts = ", ".join(f"{number} {suffix}" for suffix, number in sorted(left.items()))
        log.warning("%s: %d pictures left out (%s); allowed are %s: convert them first", folder, left.total(), counts, ", ".join(FORMATS))


def _limits() -> tuple[int | None, int, int]:
    return Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY


def _set_limits(pixels: int | None, chunk: int, texts: int) -> None:
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = pixels, chunk, texts


class _PillowSettings:
    """Context that sets our limits of pixels and PNG texts and silences Pillow's warnings; threads may enter and leave in any order.

    All settings are global. If every thread saved and restored them, two threads that overlap could leave them changed. Therefore
    the first thread to enter changes them, and the last one to leave restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._caught, self._limits = warnings.catch_warnings(), _limits()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught, self._limits = warnings.catch_warnings(), _limits()
                self._caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                _set_limits(MAX_PIXELS, MAX_TEXT_BYTES, MAX_TEXT_BYTES)
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _set_limits(*self._limits)
                self._caught.__exit__(None, None, None)


_our_settings = _PillowSettings()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than the file system allows
        return False


def _check_file(path: Path) -> None:
    """Raise DataError unless the path is a regular file that is not empty."""
    if not _exists(path):
        raise DataError(f"{path}: no such file; check the path (the current folder is {Path.cwd()})")
    if path.is_dir():
        raise DataError(f"{path}: this is a folder, but one image file is expected; name a file in it")
    if not path.is_file():
        raise DataError(f"{path}: not a regular file (a device or a pipe?); give an image file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); copy or download it again")


def _open(file: io.BufferedReader | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    """Decode an open file; turn Pillow's exceptions into DataError."""
    try:
        with _our_settings, Image.open(file, formats=TRIED_FORMATS) as image:
            return _decoded(image, name, max_pixels)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: the image is too large ({error}); at most {MAX_PIXELS:,} pixels are allowed; scale it down") from error
    except UnidentifiedImageError as error:
        file.seek(0)
        raise DataError(_describe_stranger(file.read(64), name)) from error
    except DECODE_ERRORS as error:
        raise DataError(_damaged(name, error)) from error


def _describe_stranger(start: bytes, name: str) -> str:
    """Return the message for a file that no decoder recognises, with its kind if the first bytes reveal it."""
    kind = next((kind for skip, magic, kind in STRANGERS if start[skip:].startswith(magic)), None)
    allowed = ", ".join(FORMATS)
    if kind is not None:
        return f"{name}: this is {kind}; allowed are {allowed}; convert it first"
    return f"{name}: not an image, damaged in its first bytes, or of an unsupported format; allowed are {allowed}"


def _damaged(name: str, error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{name}: the image is damaged or cut short ({reason[:200]}); only complete files are allowed; copy or download it again"


def _decoded(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Decode, turn upright and convert to RGB; check the size before memory is allocated."""
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"{name}: the image is {width} x {height} pixels; allowed are sides of 1 pixel or more")
    if width * height > max_pixels:
        raise DataError(
            f"{name}: the image is {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are allowed; scale it down"
        )
    try:
        with _our_settings:
            image.load()
            turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            rgb = _shown(image if turn is None else image.transpose(turn), name).convert("RGB")  # always a copy
            rgb.info = {}  # an EXIF orientation left there would rotate the image a second time
            return rgb
    except DataError:
        raise
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(_damaged(name, error)) from error


def _shown(image: Image.Image, name: str) -> Image.Image:
    """Scale values or composite on white in the modes in which Pillow's conversion to RGB would clip values or drop transparency."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image, name)
    if image.mode == "F":
        return _from_float(image, name)
    if image.mode in ("La", "RGBa"):  # premultiplied alpha, which Pillow cannot convert to RGB directly
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    """Convert grey of 0 to 65535 to 8-bit grey; Pillow would clip at 255.

    Raises:
        DataError: a value is outside this range.
    """
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise DataError(f"{name}: 32-bit grey values from {grey.min()} to {grey.max()}; allowed are 0 to 65535; scale them and save again")
    scaled = ((grey + 128) // 257).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):  # this one grey value is transparent
        scaled[grey == clear] = 255
    return Image.fromarray(scaled)


def _from_float(image: Image.Image, name: str) -> Image.Image:
    """Convert grey of 0.0 to 1.0 to 8-bit grey.

    Raises:
        DataError: a value is not finite or outside this range.
    """
    grey = np.asarray(image)
    if not np.isfinite(grey).all() or grey.min() < 0 or grey.max() > 1:
        finite = grey[np.isfinite(grey)]
        span = f"from {finite.min():g} to {finite.max():g}" if finite.size else "without a finite one"
        bad = grey.size - finite.size
        raise DataError(
            f"{name}: float grey values {span}, {bad} of them not finite; allowed are 0 to 1; scale them and save again, 8-bit if you can"
        )
    return Image.fromarray(np.rint(grey * 255).astype(np.uint8))
