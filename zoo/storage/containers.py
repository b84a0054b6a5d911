"""Read a file or a directory of weights in any known container: names and shapes from headers, tensors when they are needed."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zoo.errors import WeightsError
from zoo.storage import gguf
from zoo.storage.checked import read_shard_names
from zoo.storage.ctranslate2 import is_ctranslate2, read_ctranslate2
from zoo.storage.envelope import tensors_below
from zoo.storage.files import WEIGHTS_FILE
from zoo.storage.outside import understanding
from zoo.storage.tensors import is_safetensors, read_tensors, safetensors_shapes
from zoo.storage.torchscript import is_torchscript, read_torchscript

Shape = tuple[int, ...]
PICKLE_FILE = "pytorch_model.bin"  # of transformers before safetensors
GGML = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # first bytes of whisper.cpp's and old llama.cpp's files


def read_file(path: Path, key: str = "") -> dict[str, Tensor]:
    """Read all tensors of one file; its first bytes tell the container, not its suffix.

    Args:
        path: of the file.
        key: takes only the tensors under this key of the file, or this first word of their names.

    Raises:
        WeightsError: the file is missing, damaged, or of a kind that is not read.
    """
    _refuse_ggml(path)
    with understanding(path):  # the readers of damaged zip archives, pickles and headers raise almost anything
        if is_ctranslate2(path):
            return tensors_below(read_ctranslate2(path), key, path)
        if gguf.is_gguf(path):
            return tensors_below(gguf.read_tensors(path), key, path)
        return tensors_below(read_torchscript(path), key, path) if is_torchscript(path) else read_tensors(path, key)


def read_shapes(path: Path) -> dict[str, Shape] | None:
    """Read names and shapes from the header of a safetensors or GGUF file; None for a container without such a header.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    with understanding(path):
        if is_safetensors(path):
            return safetensors_shapes(path)
        return gguf.read_shapes(path) if gguf.is_gguf(path) else None


def shard_files(directory: Path) -> list[Path]:
    """Return the files of weights of a transformers directory: ``model.safetensors``, its shards, or ``pytorch_model.bin``.

    Raises:
        WeightsError: the directory has none of them, or its index cannot be read.
    """
    for name in (WEIGHTS_FILE, PICKLE_FILE):
        index = directory / f"{name}.index.json"
        if index.is_file():
            return [directory / name for name in _shards(index)]
        if (directory / name).is_file():
            return [directory / name]
    raise WeightsError(f"{directory}: holds a config.json but no {WEIGHTS_FILE} and no {PICKLE_FILE}; download the directory again")


def _shards(index: Path) -> list[str]:
    names = set(read_shard_names(index).values())
    return sorted(Path(name).name for name in names)  # the name alone, so that an index cannot point outside its directory


def read_files(paths: list[Path]) -> dict[str, Tensor]:
    """Read the tensors of several files; see ``read_file``."""
    return {name: tensor for path in paths for name, tensor in read_file(path).items()}


def shapes_of_files(paths: list[Path]) -> Mapping[str, Shape] | None:
    """Read names and shapes of several files; None if one of them has no header; see ``read_shapes``."""
    found: dict[str, Shape] = {}
    for path in paths:
        shapes = read_shapes(path)
        if shapes is None:
            return None
        found |= shapes
    return found


def _refuse_ggml(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    with path.open("rb") as file:
        start = file.read(4)
    if start in GGML:
        raise WeightsError(
            f"{path}: is a ggml file (of whisper.cpp or an old llama.cpp), which is not read; give the model's safetensors, .pt or GGUF "
            "file instead"
        )
