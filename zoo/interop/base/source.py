"""Sources of weights: a file or a directory whose names and shapes are read first, and whose tensors are read when they are needed."""

import re
import shutil
import weakref
from collections.abc import Callable, Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError, DataError, WeightsError
from zoo.interop.base.adapters import files_of_both, find_base, merged_tensors
from zoo.interop.base.checkpoint_directory import find_checkpoint, find_weights, read_config
from zoo.interop.base.hub_model import fetch_model
from zoo.interop.base.library_files import ADAPTER_CONFIG, OPEN_CLIP_CONFIG, find_open_clip_weights, is_open_clip
from zoo.registry.pretrained import SCHEMES, find_pretrained, is_tagged
from zoo.storage import gguf
from zoo.storage.containers import PICKLE_FILE, Shape, read_file, read_files, shapes_of_files, shard_files
from zoo.storage.copies import local_file, local_folder
from zoo.storage.ctranslate2 import NAME as CTRANSLATE2
from zoo.storage.envelope import shared_wrapper
from zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.storage.hub import fetched_or_refused, is_hub_id, read_json_object
from zoo.storage.remote import is_remote_data
from zoo.storage.verified import verify_if_fetched

TIMM, HUB = "timm://", "hf://"
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin", ".tar")  # of a remote file; other names are directories
OPEN_CLIP_SCHEMES = dict(zip(SCHEMES, ("", HUB), strict=True))  # open_clip's: ours
ZOO, TRANSFORMERS, OPEN_CLIP, CT2, PEFT = "zoo", "transformers", "open_clip", "CTranslate2", "PEFT"  # libraries that save directories


class Source:
    """Weights and the files beside them.

    Attributes:
        origin: the source as the user named it, for messages.
        directory: of the files; None for a file alone or weights of timm.
        file: a file of weights that was given alone.
        key: the table in the file, or the first word of its names, to which the tensors are limited; empty for all.
        timm: name of weights that timm downloads; empty for all others.
        own_config: the ``config.yaml`` of a checkpoint that zoo wrote; None for all others.
        adapter: directory of an adapter of PEFT that is merged into the tensors; None for all others.
        base: source of the weights that the adapter changes, if they lie in another directory.
        format: the ``Format`` that ``zoo.interop.base.recognise.find_format`` found; None before. A source knows no format's class.
        description: the ``Description`` that ``zoo.interop.base.recognise.describe`` made; None before.
    """

    format: Any = None
    description: Any = None

    def __init__(
        self,
        origin: str,
        *,
        directory: Path | None = None,
        file: Path | None = None,
        key: str = "",
        timm: str = "",
        own_config: Mapping[str, Any] | None = None,
        adapter: Path | None = None,
        base: "Source | None" = None,
    ) -> None:
        self.origin, self.directory, self.file, self.timm, self.own_config = origin, directory, file, timm, own_config
        self.key, self.adapter, self.base = key, adapter, base

    @cached_property
    def library(self) -> str:
        """Library that saved the directory; empty for weights alone."""
        if self.own_config is not None or self.directory is None:
            return "" if self.own_config is None else ZOO
        if (self.directory / CTRANSLATE2).is_file():
            return CT2
        if is_open_clip(self.directory):
            return OPEN_CLIP
        weights = (WEIGHTS_FILE, PICKLE_FILE)
        alone = not any((self.directory / f"{name}{end}").is_file() for name in weights for end in ("", ".index.json"))
        return PEFT if alone and (self.directory / ADAPTER_CONFIG).is_file() else TRANSFORMERS

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Content of the ``config.json`` in the directory; empty if there is none.

        Raises:
            ConfigError: it cannot be read.
        """
        path = None if self.directory is None else self.directory / FOREIGN_CONFIG
        return read_json_object(path) if path is not None and path.is_file() else {}

    @property
    def model_type(self) -> str:
        """Model type that the config of transformers tells; empty if there is none."""
        try:
            kind = self.config.get("model_type") if self.library == TRANSFORMERS else None
        except ConfigError:  # a damaged config; describing the source says so
            return ""
        return kind if isinstance(kind, str) else ""

    @cached_property
    def weight_files(self) -> list[Path]:
        """Files that hold the tensors.

        Raises:
            WeightsError: the directory holds none.
        """
        if self.base is not None:
            return self.base.weight_files
        if self.directory is None:
            return [] if self.file is None else [self.file]
        if self.library == TRANSFORMERS:
            return shard_files(self.directory)
        if self.library == OPEN_CLIP:
            return [find_open_clip_weights(self.directory)]
        return [self.directory / (CTRANSLATE2 if self.library == CT2 else WEIGHTS_FILE)]

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors by the names of their origin.

        Raises:
            WeightsError: a file cannot be read.
        """
        if self.timm:
            return self.fetched(lambda: _timm_tensors(self.timm))
        if self.file is not None:
            return read_file(self.file, self.key)
        found = read_files(self.weight_files) if self.base is None else self.base.tensors
        if self.adapter is None or self.directory is None:
            return found
        whole = self.directory if self.base is None or self.base.directory is None else self.base.directory
        return merged_tensors(found, whole / FOREIGN_CONFIG, self.adapter)

    def fetched(self, fetch: Callable[[], Any]) -> Any:
        """Call a library that may download these weights.

        Raises:
            WeightsError: they cannot be downloaded; the message says why, and what to do.
        """
        return fetched_or_refused(fetch, self.origin, re.sub(r"^hf[-_]hub:", "", self.timm))

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each tensor; headers tell it if the container has one.

        Raises:
            WeightsError: a file cannot be read.
        """
        found = None if self.timm or self.key or self.adapter is not None else shapes_of_files(self.weight_files)
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()} if found is None else found

    def unwrap(self) -> bool:
        """Take off the first word that all names share, if training code keeps a model under such a word; return False if there is none."""
        word = shared_wrapper(self.keys)
        if word:
            shapes = {name.removeprefix(word): shape for name, shape in self.shapes.items()}
            self.tensors = {name.removeprefix(word): tensor for name, tensor in self.tensors.items()}
            self.shapes = shapes
        return bool(word)

    @property
    def outline(self) -> Mapping[str, Tensor]:
        """Tensors with shapes and without values, for code that only looks at sizes."""
        return {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()}

    @property
    def keys(self) -> Set[str]:
        """Names of the tensors."""
        return self.shapes.keys()

    @property
    def name(self) -> str:
        """Name for a model: that of the directory, or of the file without its suffix."""
        directory = self.directory if self.base is None else self.adapter
        return directory.resolve().name if directory is not None else Path(self.origin).stem


def read_source(source: str | Path, base: str | Path | None = None, *, revision: str | None = None) -> Source:
    """Find a source of weights; its tensors are read later.

    Args:
        source: a directory, a file (``FILE#KEY`` takes only the tensors under a key of it), a bundled model's name, a name with a tag
            (``clip_vit_b32:openai``), ``timm://NAME``, or a model of the hub: ``hf://OWNER/NAME``, perhaps with ``/FILE`` and
            ``@REVISION``. ``OWNER/NAME`` is one too if there is no such directory. open_clip's spellings ``local-dir:DIRECTORY`` and
            ``hf-hub:OWNER/NAME`` are taken too. A directory or file elsewhere (``s3://``, ``gs://``, ``https://``) is copied into
            the cache.
        base: source of the weights that an adapter of PEFT changes; None takes the one that the adapter names.
        revision: branch, tag or commit of a model of the hub.

    Raises:
        ConfigError: a revision of something that is not on the hub, or two of them; or a base for a source that is no adapter.
        WeightsError: there is no such source, or it needs a library or a network that is missing.
    """
    found = _read_source(source, revision)
    if found.library == PEFT and found.directory is not None:
        return _adapted(found, found.directory, base)
    if base is not None:
        raise ConfigError(f"base: {source} is no adapter of PEFT alone (no {ADAPTER_CONFIG} without weights beside it); leave base out")
    if found.library == TRANSFORMERS and found.directory is not None and (found.directory / ADAPTER_CONFIG).is_file():
        return Source(found.origin, directory=found.directory, adapter=found.directory)
    return found


def _adapted(found: Source, adapter: Path, given: str | Path | None) -> Source:
    """Return the source of an adapter and the base model that it names."""
    base = read_source(find_base(adapter, given))
    if base.library != TRANSFORMERS or base.directory is None:
        raise WeightsError(
            f"{base.origin}: the base of an adapter of PEFT has to be a directory that transformers saved (config.json and weights)"
        )
    folder = files_of_both(base.directory, adapter)
    source = Source(found.origin, directory=folder, adapter=adapter, base=base)
    weakref.finalize(source, shutil.rmtree, folder, ignore_errors=True)
    return source


def _read_source(source: str | Path, revision: str | None) -> Source:
    text = find_pretrained(str(source)).address if is_tagged(source) else _ours(str(source))
    if not text.startswith((TIMM, HUB)) and is_hub_id(text) and not Path(text).exists() and not Path(text).parent.is_dir():
        text = HUB + text
    if revision is not None:
        text = _with_revision(text, revision)
    if text.startswith(TIMM):
        return Source(text, timm=text.removeprefix(TIMM))
    if text.startswith(HUB) and not is_remote_data(text):
        return _read_hub(text)
    text = weights_on_disk(text)
    whole, _, key = text.rpartition("#")
    if whole and not Path(text).exists() and Path(whole).is_file():
        verify_if_fetched(Path(whole))
        return Source(text, file=Path(whole), key=key)
    path = _find_path(text)
    if path.is_file():
        return Source(text, file=path)
    if is_foreign(path):
        return Source(text, directory=path)
    directory = find_checkpoint(path)
    return Source(text, directory=directory, own_config=read_config(directory))


def _ours(source: str) -> str:
    """Return our spelling of a source that is written as for open_clip: ``local-dir:DIRECTORY`` or ``hf-hub:OWNER/NAME``."""
    for theirs, ours in OPEN_CLIP_SCHEMES.items():
        if source.startswith(theirs):
            return ours + source.removeprefix(theirs)
    return source


def weights_on_disk(url: str) -> str:
    """Return the local copy of a remote file or directory of weights, without the states of a training; other names stay as they are.

    Raises:
        WeightsError: it cannot be read.
    """
    if not is_remote_data(url):
        return url
    try:
        if url.lower().endswith(WEIGHT_SUFFIXES):
            return str(local_file(url))
        return str(local_folder(url, takes=lambda name: "state" not in name.split("/")[:-1]))
    except DataError as error:
        raise WeightsError(str(error)) from error


def _find_path(source: str) -> Path:
    path = gguf.find_gguf(find_weights(source))
    verify_if_fetched(path)
    return path


def _with_revision(text: str, revision: str) -> str:
    if not text.startswith(HUB):
        raise ConfigError(f"revision: got {revision!r} for {text}, but only models of the hub (hf://OWNER/NAME) have revisions")
    if "@" in text:
        raise ConfigError(f"revision: got {revision!r}, but {text} names one already; give one of them")
    return f"{text}@{revision}"


def _read_hub(text: str) -> Source:
    directory, file = fetch_model(text.removeprefix(HUB), text)
    if file is not None:
        return Source(text, file=file)
    if is_foreign(directory):
        return Source(text, directory=directory)
    return Source(text, directory=directory, own_config=read_config(directory))


def is_foreign(directory: Path) -> bool:
    """Return True for a directory that another library saved."""
    names = (FOREIGN_CONFIG, OPEN_CLIP_CONFIG, CTRANSLATE2, ADAPTER_CONFIG)
    return any((directory / name).is_file() for name in names) and not (directory / CONFIG_FILE).is_file()


def _timm_tensors(name: str) -> dict[str, Tensor]:
    try:
        import timm
    except ImportError as error:
        raise WeightsError("weights: timm:// needs timm; install it with: zoo install vision") from error
    return timm.create_model(name, pretrained=True).state_dict()
