"""Images and recordings inside requests: data URLs and base64. No address is ever fetched."""

import base64
import binascii
from typing import Any

from zoo.commands.serve.faults import RequestError
from zoo.commands.serve.limits import Limits
from zoo.processors.media.audio_file import read_audio
from zoo.processors.media.image_file import open_image

MEDIA = ("image", "audio")


def modality_of(text: str) -> str:
    """Return "image" or "audio" for a data URL of one, else "text"."""
    kind = text[:16].lower()
    return next((each for each in MEDIA if kind.startswith(f"data:{each}/")), "text")


def from_data_url(url: str, param: str) -> bytes:
    """Return the bytes of a data URL in base64.

    Raises:
        RequestError: the text is another address, which is not fetched, or not base64.
    """
    head, comma, data = url.partition(",")
    if not head.lower().startswith("data:") or not comma:
        raise RequestError(
            f"{param}: {url[:40]!r} is no data URL, and addresses are not fetched; send data:image/png;base64,...", param=param
        )
    if not head.lower().endswith(";base64"):
        raise RequestError(f"{param}: the data URL is not in base64; send data:image/png;base64,...", param=param)
    return from_base64(data, param)


def from_base64(text: str, param: str) -> bytes:
    """Return the bytes of a text in base64.

    Raises:
        RequestError: it is not base64, or empty.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{param}: not valid base64 ({error}); encode the whole file", param=param) from error
    if not data:
        raise RequestError(f"{param}: the file is empty; encode the whole file", param=param)
    return data


def read_item(part: Any, modality: str, data: bytes, limits: Limits) -> Any:
    """Decode an image or a recording to the tensor that its processor makes.

    Raises:
        DataError: the file cannot be read, or is larger than the limits allow.
    """
    if modality == "image":
        return part.kept(open_image(data, max_pixels=limits.max_pixels))
    return part.kept(read_audio(data, max_seconds=limits.max_audio_seconds))
