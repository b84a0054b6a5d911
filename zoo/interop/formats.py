"""Models of transformers, open_clip and OpenAI as configs of ours: what ``zoo.load`` builds before it converts the weights."""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.interop import tacotron2 as torchaudio_tacotron2
from zoo.interop.base.format import Description
from zoo.interop.base.library_files import OPEN_CLIP_CONFIG, image_keywords_of, read_library_config
from zoo.interop.causal_lm.describe import LANGUAGE, describe_gguf, describe_language
from zoo.interop.clip import open_clip
from zoo.interop.clip.describe import WHOLE, describe_open_clip, describe_transformers_clip, is_open_clip
from zoo.interop.kosmos2.describe import KOSMOS, describe_kosmos
from zoo.interop.llava.describe import LLAVA, describe_llava
from zoo.interop.text_encoders.describe import TEXT, describe_text
from zoo.interop.vit.describe import VISION, describe_vision
from zoo.interop.whisper import encoder as whisper
from zoo.interop.whisper.describe import describe_whisper
from zoo.storage.gguf import is_gguf
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG

TALKING = {LLAVA: describe_llava, KOSMOS: describe_kosmos}  # language models that see

log = logging.getLogger("zoo")


def describe(directory: Path, tensors: Mapping[str, Tensor]) -> Description:
    """A directory that transformers or open_clip saved.

    Raises:
        WeightsError: its config or its tokenizer cannot be read.
        ConfigError: an architecture or preprocessing that we do not have.
    """
    if is_open_clip(directory):
        return describe_open_clip(directory / OPEN_CLIP_CONFIG, tensors)
    path = directory / FOREIGN_CONFIG
    if whisper.recognises(tensors):
        return Description(*describe_whisper(tensors, directory))
    config = read_library_config(path)
    if "architecture" in config:
        raise ConfigError(f"{path}: a model of timm; use zoo.create_model('timm/{config['architecture']}', weights={str(directory)!r})")
    kind, keys = config.get("model_type"), list(tensors)
    if kind in VISION:
        return Description(describe_vision(directory, config, keys))
    if kind in TEXT:
        content, tokenizer, left_out = describe_text(directory, config, keys)
        return Description(content, tokenizer, left_out=left_out)
    if kind in WHOLE:
        return describe_transformers_clip(directory, config, keys)
    if kind in LANGUAGE:
        system, given = describe_language(directory, config, keys)
        return Description({"system": system}, conversation=given)
    if kind in TALKING:
        system, given = TALKING[kind](directory, config, keys, image_keywords_of(directory))
        return Description({"system": system}, conversation=given)
    known = [*VISION, *TEXT, *WHOLE, *LANGUAGE, *TALKING]
    raise ConfigError(
        f"{path}: model_type {kind!r} cannot be converted to parts of ours; {name_choices(str(kind), known)}. As they are, any vision "
        f"model can be used as the encoder, and any causal language model as the language model transformers/{directory}"
    )


def describe_file(path: Path, tensors: Mapping[str, Tensor]) -> Description:
    """A file alone: GGUF, a Whisper, or a CLIP of OpenAI or open_clip, with the open_clip_config.json beside it.

    Raises:
        WeightsError: weights that do not tell which model they are of.
        ConfigError: something that our parts do not have.
    """
    if is_gguf(path):
        system, given = describe_gguf(path, tensors)
        return Description({"system": system}, conversation=given)
    if whisper.recognises(tensors):
        return Description(*describe_whisper(tensors, path))
    if torchaudio_tacotron2.recognises(tensors):
        return Description({"system": torchaudio_tacotron2.system_config(tensors)})
    if not open_clip.recognises(tensors):
        beside = path.parent / FOREIGN_CONFIG
        hint = f"give the directory {path.parent}" if beside.is_file() else f"name the model: zoo.create_model(NAME, weights={str(path)!r})"
        raise WeightsError(f"{path}: weights that do not say which model they are of (only whole CLIPs of OpenAI and open_clip do); {hint}")
    return describe_open_clip(path.parent / OPEN_CLIP_CONFIG, tensors, name=path.stem)
