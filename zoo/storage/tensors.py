"""Read and write weights: safetensors and pickles of tensors, strict, atomic, without running any code in a file."""

import argparse
import collections
import datetime
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError, first_line, name_choices
from zoo.storage.envelope import plain_names, table_of, tensors_below
from zoo.storage.progress import is_displayed, progress

STORAGES = ("fp16", "int8")
SCALE = "::scale"  # suffix of the tensor that holds the factor of each row of an int8 tensor
SMALLEST_INT8 = 4096  # numbers of a tensor; int8 saves too little on smaller ones
LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
PICKLES = (b"PK", b"\x80")  # first bytes of what torch.save writes: a zip archive, or a bare pickle


@dataclass
class LoadReport:
    """Comparison of the tensors of a file with those of an architecture, by name and shape."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the architecture has it, the file does not
    unexpected: list[str] = field(default_factory=list)  # the file has it, the architecture does not
    resized: list[str] = field(default_factory=list)  # "name [file shape] -> [architecture shape]"

    @property
    def fits(self) -> bool:
        """True if every tensor of both sides has a partner of its shape."""
        return not (self.missing or self.unexpected or self.resized)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors fit"]
        for word, names in (("missing", self.missing), ("unexpected", self.unexpected), ("resized", self.resized)):
            if names:
                parts.append(f"{len(names)} {word}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
        return "; ".join(parts)


def is_safetensors(path: Path) -> bool:
    """Return True for a file that is named ``.safetensors`` or begins as one: the size of a header, then JSON."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < LARGEST_HEADER


def read_tensors(path: Path, key: str = "") -> dict[str, Tensor]:
    """Read a safetensors file, or a file of ``torch.save`` without running any code in it; the suffix does not matter.

    Args:
        path: of the file.
        key: takes only the tensors under this key of the file, or this first word of their names.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, or would have run code.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    try:
        if is_safetensors(path):
            return tensors_below(plain_names(expand(load_file(path)), path), key, path)
        _refuse_other_kinds(path)
        with warnings.catch_warnings(), _harmless_objects():
            warnings.simplefilter("ignore")  # torch warns about pickles of other programs, which it then reads or refuses
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, EOFError, OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)}); the file is damaged or not what its name says") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise WeightsError(f"{path}: cannot be read ({first_line(error)}); the file is damaged or not what its name says") from error
        raise WeightsError(
            f"{path}: holds Python objects beside its tensors ({named[1]}) and would run code when opened, which is never done; ask its "
            "author for .safetensors"
        ) from error
    return table_of(loaded, path, key)


def _refuse_other_kinds(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(2)
    if not start.startswith(PICKLES):
        raise WeightsError(
            f"{path}: is not a kind of weights; allowed are safetensors, files of torch.save, GGUF, CTranslate2 and TorchScript"
        )


def _harmless_objects() -> AbstractContextManager[object]:
    """Allow plain data in a pickle that training scripts write: NumPy values, command lines, paths, times. Building them runs nothing."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in (np.bool_, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64)]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2
    names = [(made, f"{module}.{name}") for module in modules for made, name in ((scalar, "scalar"), (array, "_reconstruct"))]
    # Paths of either system; a pure path never touches a disk.
    names += [(PurePath, f"pathlib.{name}") for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")]
    plain = [datetime.date, datetime.datetime, datetime.timedelta, datetime.timezone, collections.defaultdict, dict, list, int, float]
    return torch.serialization.safe_globals([*names, np.dtype, np.ndarray, *kinds, argparse.Namespace, *plain])  # type: ignore[list-item]


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes from the header of a safetensors file.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)}); the file is damaged or not what its name says") from error
    return plain_names({name: shape for name, shape in shapes.items() if not name.endswith(SCALE)}, path)


def compare(model: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Compare a model's state with tensors by name and shape; nothing is changed."""
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
    """Load tensors into a model if every one fits; otherwise leave the model as it was.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape; the message counts each kind and names the first.
    """
    report = compare(model, tensors)
    if not report.fits:
        raise WeightsError(f"{origin}: the weights do not fit {type(model).__name__}: {report}. Nothing was loaded.")
    with _counted_loading(model, origin):
        model.load_state_dict(dict(tensors), strict=True)
    return report


@contextmanager
def _counted_loading(model: nn.Module, origin: str) -> Iterator[None]:
    """Report the bytes of each module that is loaded inside the block; a file of safetensors is read only then, page by page."""
    if not is_displayed():
        yield
        return
    sizes = {part: sum(t.nbytes for t in (*part.parameters(recurse=False), *part.buffers(recurse=False))) for part in model.modules()}
    with progress(f"load {PurePath(origin).name}", sum(sizes.values())) as advance:
        handles = [part.register_load_state_dict_post_hook(lambda part, keys: advance(sizes[part])) for part in sizes]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def compress(tensors: Mapping[str, Tensor], storage: str) -> dict[str, Tensor]:
    """Return tensors that take fewer bytes in a file; ``read_tensors`` turns them back.

    Args:
        storage: "fp16", or "int8": each row (first axis) of a matrix becomes whole numbers from -127 to 127 and one factor, under the
            tensor's name with the suffix ``::scale``; small tensors and vectors become fp16 if no number overflows.

    Raises:
        ConfigError: ``storage`` is another word.
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
            found[name] = tensor.half() if fits else tensor  # fp16 would make larger numbers infinite
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
    """Write safetensors; tensors that share memory are written once for each name."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt", **(metadata or {})})
