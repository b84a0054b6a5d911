"""Models on the Hugging Face hub: which of their files are fetched, so that one set of weights comes and not every duplicate."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.errors import WeightsError
from zoo.interop.base.files import change_of
from zoo.interop.base.library_files import ADAPTER_CONFIG, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, is_open_clip
from zoo.storage.checked import read_shard_names
from zoo.storage.containers import PICKLE_FILE
from zoo.storage.ctranslate2 import NAME as CTRANSLATE2
from zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE
from zoo.storage.hub import CONFIG, find_repository

SMALL = (".json", ".jinja", ".txt", ".model", ".spm", ".tiktoken")  # config, tokenizer, templates; of the hub's own card nothing is read
# Folders with files that are read: modules of sentence-transformers, further chat templates. All others hold copies for other programs.
FOLDERS = r"(\d+_\w+/|additional_chat_templates/)?[^/]+"
SINGLE = (".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin")  # kinds of a file of weights without a config beside it


def fetch_model(name: str, origin: str) -> tuple[Path, Path | None]:
    """Fetch a model of the hub; return its local folder, and the file of weights if the model is a file alone.

    Args:
        name: ``owner/name``, perhaps with ``/file`` and ``@revision``.
        origin: as the user named it, for messages.

    Raises:
        WeightsError: there is no such model or file, no access, no network, or several files of which one must be named.
    """
    name, at, revision = name.partition("@")
    owner, *rest = name.split("/", 2)
    repository = find_repository("/".join([owner, *rest[:1]]) + at + revision, origin)
    if rest[1:]:
        if rest[1] not in repository.files:
            raise WeightsError(f"{origin}: the model has no file {rest[1]!r}; it has: {_listed(_alone(repository.files)) or 'no weights'}")
        return _with_file(repository.fetch(rest[1:]), rest[1])
    folder = repository.fetch(small_files(repository.files))
    if any(each in repository.files for each in (CONFIG, CONFIG_FILE, OPEN_CLIP_CONFIG, ADAPTER_CONFIG)):
        if weights := weight_files(repository.files, folder):
            return repository.fetch(weights), None
    single = _alone(repository.files)
    if len(single) == 1:
        return _with_file(repository.fetch(single), single[0])
    if single:
        raise WeightsError(f"{origin}: holds several files of weights; name one, for example {origin}/{single[0]} ({_listed(single)})")
    cut = "the copy in the cache holds no weights: its download was interrupted; load again with a network"
    held = f"the model holds no weights that can be read here; it has: {_listed(repository.files)}"
    raise WeightsError(f"{origin}: {cut if repository.cached else held}")


def small_files(files: Iterable[str]) -> list[str]:
    """Return the files beside the weights that describe a model."""
    return [name for name in files if name == CONFIG_FILE or (name.endswith(SMALL) and re.fullmatch(FOLDERS, name))]


def weight_files(files: Sequence[str], folder: Path) -> list[str]:
    """Return the names of one set of weights, safetensors before pickles; empty if there is none under a name that a library gives.

    Args:
        files: of the repository.
        folder: holds the small files.
    """
    changes = [name for name in files if change_of(name)]  # adapters beside the weights are applied or refused, never overlooked
    if is_open_clip(folder):
        return [*changes, *[name for name in OPEN_CLIP_WEIGHTS if name in files][:1]]
    for name in (WEIGHTS_FILE, PICKLE_FILE):
        if (folder / f"{name}.index.json").is_file():
            return [*changes, *sorted({Path(shard).name for shard in read_shard_names(folder / f"{name}.index.json").values()})]
        if name in files:
            return [*changes, name]
    return changes or [name for name in (CTRANSLATE2,) if name in files]


def _alone(files: Iterable[str]) -> list[str]:
    return [name for name in files if name.endswith(SINGLE) and "/" not in name and not name.startswith(("optimizer", "training_args"))]


def _with_file(folder: Path, name: str) -> tuple[Path, Path]:
    return folder, folder / name


def _listed(files: Sequence[str]) -> str:
    return ", ".join(files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
