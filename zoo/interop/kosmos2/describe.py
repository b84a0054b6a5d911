"""transformers' Kosmos-2 directories as configs of ours: an image encoder, a ``magneto``, and the latents between them."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.interop.kosmos2 import names as transformers_kosmos2
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer, read_language_tokenizer

KOSMOS = transformers_kosmos2.MODEL_TYPE
IMAGES = {"resize": "squash"}  # where the directory says nothing of them


def describe_kosmos(
    directory: Path, config: Mapping[str, Any], keys: Collection[str], preprocessing: Mapping[str, Any]
) -> tuple[dict[str, Any], GivenTokenizer | None]:
    """A system's config for a directory of transformers, and the tokenizer that lies in it.

    Args:
        preprocessing: what the directory says of images.

    Raises:
        ConfigError: parts that ours are not.
        WeightsError: a tokenizer that cannot be read.
    """
    parts = transformers_kosmos2.system(config, keys)
    parts["encoders"]["image"]["preprocessing"] = dict(preprocessing) or dict(IMAGES)
    given = read_language_tokenizer(directory)
    processor = {"image": {}, "conversation": {"tokenizer": "given", "template": "kosmos"}}
    return {"name": directory.resolve().name, **parts, "processor": processor}, given


def kosmos_readings(target: nn.Module, tensors: Mapping[str, Tensor], part: str) -> Iterator[dict[str, Tensor]]:
    """The tensors of a whole model for our system, or for one part of it."""
    if not transformers_kosmos2.recognises(tensors):
        return
    head: Any = getattr(target, "head", target)
    language = getattr(head, "language", head)
    converted = transformers_kosmos2.to_zoo(tensors, tied=getattr(language, "lm_head", None) is None)
    prefix = f"{part}." if part else ""
    yield {name.removeprefix(prefix): tensor for name, tensor in converted.items() if name.startswith(prefix)}
