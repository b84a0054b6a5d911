"""Sources of weights: tensors as their origin names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, WeightsError
from zoo.interop import tacotron2 as torchaudio_tacotron2
from zoo.interop.base.format import Description
from zoo.interop.base.library_files import OPEN_CLIP_CONFIG
from zoo.interop.causal_lm import gguf_names
from zoo.interop.clip import open_clip
from zoo.interop.clip.describe import is_open_clip, open_clip_weights
from zoo.interop.formats import describe, describe_file
from zoo.interop.whisper import encoder as whisper
from zoo.interop.zoo_checkpoint import find_checkpoint, find_weights, load_processor, read_config
from zoo.registry import find_part
from zoo.storage import gguf
from zoo.storage.ctranslate2 import NAME as CTRANSLATE2
from zoo.storage.ctranslate2 import is_ctranslate2, read_ctranslate2
from zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.storage.hub import fetch_hub, fetched_or_refused
from zoo.storage.tensors import read_shards, read_tensors
from zoo.storage.torchscript import is_torchscript, read_torchscript

SELF_DESCRIBING = (open_clip, whisper, gguf_names, torchaudio_tacotron2)  # files that tell the model
TIMM = "timm://"


@dataclass(frozen=True)
class Source:
    """Tensors as their origin names them."""

    tensors: Mapping[str, Tensor]
    origin: str
    directory: Path | None = None
    config: Mapping[str, Any] | None = None  # of a checkpoint that zoo wrote
    file: Path | None = None

    @cached_property
    def description(self) -> Description:
        """What a source that zoo did not write says of itself.

        Raises:
            WeightsError, ConfigError: see ``zoo.interop.formats``.
        """
        if self.directory is not None:
            return describe(self.directory, self.tensors)
        if self.file is None:
            raise WeightsError(f"{self.origin}: holds weights alone; name the model: zoo.create_model(NAME, weights={self.origin!r})")
        return describe_file(self.file, self.tensors)

    @property
    def describes_itself(self) -> bool:
        """Whether it is another library's and there is a config beside its weights, or its tensors tell enough."""
        if self.config is not None:
            return False
        return self.directory is not None or (self.file is not None and any(o.recognises(self.tensors) for o in SELF_DESCRIBING))

    @property
    def is_describable(self) -> bool:
        """Whether it describes itself as a model that our parts make."""
        try:
            return self.describes_itself and self.description is not None
        except (ConfigError, WeightsError):
            return False

    def processor(self) -> Processor | None:
        """The processor that goes with the weights; None where nothing is said of it."""
        if self.config is not None and self.directory is not None:
            return load_processor(self.directory, self.config)
        says_more = any(origin.recognises(self.tensors) for origin in (whisper, gguf_names))
        alone = self.file is not None and not (self.file.parent / OPEN_CLIP_CONFIG).is_file() and not says_more
        if not self.describes_itself or alone:
            return None
        parts = {m: find_part("processor", m)(**settings) for m, settings in self.description.processors().items()}
        if self.description.tokenizer is not None:
            parts["transcript" if "transcript" in parts else "text"].use(self.description.tokenizer)
        if self.description.conversation is not None:
            parts["conversation"].use(self.description.conversation)
        return Processor(parts)


def read_source(source: str | Path) -> Source:
    """Find and read a source of weights.

    Raises:
        WeightsError: not there, unreadable, or a library or network that it needs is not there.
    """
    text = str(source)
    for scheme, read in ((TIMM, _read_timm), ("hf://", _read_hub)):
        if text.startswith(scheme):
            return read(text.removeprefix(scheme))
    path = gguf.find_gguf(find_weights(source))
    if path.is_file():
        return Source(_read_file(path), text, file=path)
    if is_foreign(path):
        return _read_foreign(path, text)
    directory = find_checkpoint(path)
    return Source(read_tensors(directory / WEIGHTS_FILE), text, directory, read_config(directory))


def _read_file(path: Path) -> dict[str, Tensor]:
    if is_ctranslate2(path):
        return read_ctranslate2(path)
    if gguf.is_gguf(path):
        return gguf.read_tensors(path)
    return read_torchscript(path) if is_torchscript(path) else read_tensors(path)


def _read_foreign(directory: Path, origin: str) -> Source:
    if (directory / CTRANSLATE2).is_file():
        return Source(read_ctranslate2(directory / CTRANSLATE2), origin, directory)
    tensors = _read_file(open_clip_weights(directory)) if is_open_clip(directory) else read_shards(directory)
    return Source(tensors, origin, directory)


def is_foreign(directory: Path) -> bool:
    """Whether a directory was saved by transformers or open_clip and not by us."""
    theirs = any((directory / name).is_file() for name in (FOREIGN_CONFIG, OPEN_CLIP_CONFIG, CTRANSLATE2))
    return theirs and not (directory / CONFIG_FILE).is_file()


def _read_timm(name: str) -> Source:
    try:
        import timm
    except ImportError as error:
        raise WeightsError("weights: timm:// needs timm; install it with: pip install 'multimodal-zoo[vision]'") from error
    return Source(fetched_or_refused(lambda: timm.create_model(name, pretrained=True).state_dict(), f"timm://{name}"), f"timm://{name}")


def _read_hub(name: str) -> Source:
    return _read_foreign(fetch_hub(name), f"hf://{name}")
