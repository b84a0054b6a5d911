"""Read and write weights: safetensors, strict, atomic, never a pickle that runs code."""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError, first_line, name_choices
from zoo.storage.checked import read_shard_names
from zoo.storage.files import WEIGHTS_FILE

STORAGES = ("fp16", "int8")
SCALE = "::scale"  # behind the name of an int8 tensor: the factor of each row
SMALLEST_INT8 = 4096  # numbers of a tensor; below there is nothing to gain


@dataclass
class LoadReport:
    """What fitted and what did not when weights met an architecture."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the architecture has it, the file does not
    unexpected: list[str] = field(default_factory=list)  # the file has it, the architecture does not
    resized: list[str] = field(default_factory=list)  # "name [file shape] -> [architecture shape]"

    @property
    def fits(self) -> bool:
        """Whether every tensor of both sides found its partner."""
        return not (self.missing or self.unexpected or self.resized)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors fit"]
        for word in ("missing", "unexpected", "resized"):
            names = getattr(self, word)
            if names:
                parts.append(f"{len(names)} {word}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
        return "; ".join(parts)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read ``.safetensors``, or ``.pt`` / ``.pth`` / ``.bin`` without running any code in it.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, or would have run code.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return expand(load_file(path))
        if path.suffix not in (".pt", ".pth", ".bin"):
            raise WeightsError(f"{path}: {path.suffix or 'no suffix'!r} is not a kind of weights; allowed: .safetensors, .pt, .pth, .bin")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles that it then refuses or reads
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, EOFError, OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)}); the file is damaged or not what its name says") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: holds more than tensors and would run code when opened, which is never done; ask its author for .safetensors"
        ) from error
    return _tensors_of(loaded, path)


def _tensors_of(loaded: object, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]  # Lightning and open_clip wrap their weights so
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model_state_dict"), Mapping):  # so does openai-whisper
        sizes = {f"dims.{name}": torch.tensor(value) for name, value in loaded.get("dims", {}).items()}
        loaded = {**loaded["model_state_dict"], **sizes}
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path}: holds {type(loaded).__name__}, not a table of tensors by name")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def compare(model: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Hold a model's state against tensors by name and shape, changing nothing."""
    state = model.state_dict()
    report = LoadReport(missing=sorted(state.keys() - tensors.keys()), unexpected=sorted(tensors.keys() - state.keys()))
    for name in sorted(state.keys() & tensors.keys()):
        ours, theirs = list(state[name].shape), list(tensors[name].shape)
        if ours == theirs:
            report.matched.append(name)
        else:
            report.resized.append(f"{name} {theirs} -> {ours}")
    return report


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], *, origin: str) -> LoadReport:
    """Load tensors where every one fits; otherwise leave the model as it was.

    Raises:
        WeightsError: anything missing, left over or of another shape; the message counts each kind and names the first.
    """
    report = compare(model, tensors)
    if not report.fits:
        raise WeightsError(f"{origin}: the weights do not fit {type(model).__name__}: {report}. Nothing was loaded.")
    model.load_state_dict(dict(tensors), strict=True)
    return report


def compress(tensors: Mapping[str, Tensor], storage: str) -> dict[str, Tensor]:
    """Tensors in fewer bytes; ``read_tensors`` turns them back, and no model ever computes with them.

    Args:
        storage: "fp16", or "int8": each row (first axis) of a matrix as whole numbers from -127 to 127 and one factor, under the
            name of the tensor with ``::scale`` behind it; what is small or a vector becomes fp16, where its range suffices.

    Raises:
        ConfigError: another word.
    """
    if storage not in STORAGES:
        raise ConfigError(f"storage: there is no {storage!r}; {name_choices(storage, STORAGES)}")
    found = {}
    for name, tensor in tensors.items():
        if storage == "int8" and tensor.is_floating_point() and tensor.ndim > 1 and tensor.numel() >= SMALLEST_INT8:
            rows = tensor.detach().float().flatten(1)  # [rows, rest]
            scale = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)  # [rows, 1]
            found[name] = (rows / scale).round().to(torch.int8).view(tensor.shape)
            found[name + SCALE] = scale
        else:
            fits = tensor.dtype == torch.float32 and tensor.ndim > 0 and bool((tensor.abs() < torch.finfo(torch.float16).max).all())
            found[name] = tensor.half() if fits else tensor  # no number may become infinite
    return found


def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``compress`` up to rounding: int8 becomes float32, fp16 stays."""
    found = {}
    for name, tensor in tensors.items():
        if name + SCALE in tensors:
            tensor = (tensor.flatten(1).float() * tensors[name + SCALE]).view(tensor.shape)
        if not name.endswith(SCALE):
            found[name] = tensor
    return found


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors; shared storage is written once per name."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt", **(metadata or {})})


def read_shards(directory: Path) -> dict[str, Tensor]:
    """The tensors of a transformers directory: ``model.safetensors``, its shards, or ``pytorch_model.bin``.

    Raises:
        WeightsError: none of them is there, or one is damaged.
    """
    for name in (WEIGHTS_FILE, "pytorch_model.bin"):
        index = directory / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(read_shard_names(index).values()))
            return {key: tensor for shard in shards for key, tensor in read_tensors(directory / Path(shard).name).items()}
        if (directory / name).is_file():
            return read_tensors(directory / name)
    raise WeightsError(f"{directory}: holds a config.json but no {WEIGHTS_FILE} and no pytorch_model.bin; fetch the directory again")
