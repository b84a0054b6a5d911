"""transformers' LLaVA directories as configs of ours: an image encoder, a language model, and the connector between them."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.interop.llava import names as transformers_llava
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer, read_language_tokenizer

LLAVA = transformers_llava.MODEL_TYPE
TEMPLATE = "vicuna_v1"  # of LLaVA-1.5, where the directory brings none


def describe_llava(
    directory: Path, config: Mapping[str, Any], keys: Collection[str], preprocessing: Mapping[str, Any]
) -> tuple[dict[str, Any], GivenTokenizer | None]:
    """A system's config for a directory of transformers, and the tokenizer that lies in it.

    Args:
        preprocessing: what the directory says of images.

    Raises:
        ConfigError: parts that ours are not.
        WeightsError: a tokenizer that cannot be read.
    """
    parts = transformers_llava.system(config, keys)
    parts["encoders"]["image"]["preprocessing"] = dict(preprocessing)
    given = read_language_tokenizer(directory)
    template = "tokenizer" if given is not None and given.chat_template is not None else TEMPLATE
    processor = {"image": {}, "conversation": {"tokenizer": "given", "template": template}}
    return {"name": directory.resolve().name, **parts, "processor": processor}, given


def llava_readings(target: nn.Module, tensors: Mapping[str, Tensor], part: str) -> Iterator[dict[str, Tensor]]:
    """The tensors of a whole model for our system, or for one part of it."""
    if not transformers_llava.recognises(tensors):
        return
    head: Any = getattr(target, "head", target)
    language = getattr(head, "language", head)
    converted = transformers_llava.to_zoo(tensors, tied=getattr(language, "lm_head", language) is None)
    prefix = f"{part}." if part else ""
    yield {name.removeprefix(prefix): tensor for name, tensor in converted.items() if name.startswith(prefix)}
