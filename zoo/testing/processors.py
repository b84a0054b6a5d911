"""Check of processors."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.testing.rules.comparison import refuse, require
from zoo.testing.rules.parts import check_keywords, is_plain
from zoo.types import Batch, ModalityProcessor


def check_processor(processor: Any, raws: Sequence[Any]) -> None:
    """Check every rule of ``zoo.types.ModalityProcessor``.

    Args:
        processor: a fitted one.
        raws: at least two raw inputs that it takes.

    Raises:
        ContractError: a rule is broken.
    """
    fits = isinstance(processor, ModalityProcessor)
    require(
        fits, processor, "a processor is a subclass of zoo.types.ModalityProcessor", "it is none", "ModalityProcessor", "derive from it"
    )
    check_keywords(type(processor))
    require(bool(processor.modality), processor, "a processor must say its modality", "it has none", "a string", 'write modality = "image"')
    made = tensors_of(processor(raws))
    collated = tensors_of(processor.collate([processor.item(raw) for raw in raws]))
    _same(processor, made, collated, "p(raws) equals the collated items", "let __call__ collate what item gives")
    _same(processor, tensors_of(processor(raws)), made, "equal inputs give equal tensors", "draw no random numbers")
    _check_meta(processor, made, len(raws))
    _check_settings(processor)
    _check_files(processor, raws, made)


def tensors_of(found: Any, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of a processor's output by name: a tensor, a tuple, targets by name, or a batch."""
    if isinstance(found, Tensor):
        return {name or "tensor": found}
    if isinstance(found, Batch):
        found = {"inputs": found.inputs, "masks": found.masks, "targets": found.targets}
    if isinstance(found, tuple | list):
        found = dict(zip(map(str, range(len(found))), found, strict=True))
    merged: dict[str, Tensor] = {}
    for key, value in (found or {}).items() if isinstance(found, Mapping) else ():
        merged |= tensors_of(value, f"{name}.{key}".strip("."))
    return merged


def _same(processor: Any, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rule: str, remedy: str) -> None:
    require(list(found) == list(expected), processor, rule, f"names are {list(found)}", f"{list(expected)}", remedy)
    for name in found:
        same = found[name].shape == expected[name].shape and torch.equal(found[name], expected[name])
        require(same, processor, rule, f"{name} differs", "equal tensors", remedy)


def _check_meta(processor: Any, made: Mapping[str, Tensor], number: int) -> None:
    """``zoo check`` runs on what ``meta`` gives, so that it must look like real batches."""
    meta = tensors_of(processor.meta(number))
    rule, remedy = "meta gives the types and axes of a batch", "make empty tensors of these types on the meta device"
    require(set(meta) == set(made), processor, rule, f"names are {sorted(meta)}", f"{sorted(made)}", remedy)
    for name, tensor in meta.items():
        found, wanted = (tensor.dtype, tensor.ndim, len(tensor)), (made[name].dtype, made[name].ndim, len(made[name]))
        require(tensor.is_meta and found == wanted, processor, rule, f"{name} is {found} on {tensor.device}", f"{wanted} on meta", remedy)


def _check_settings(processor: Any) -> None:
    settings = dict(processor.settings)
    require(
        is_plain(settings), processor, "settings are plain YAML values", f"they are {settings!r:.120}", "numbers, strings, lists", "convert"
    )
    try:
        again = dict(type(processor)(**settings).settings)
    except TypeError as error:
        refuse(
            processor,
            "settings are the constructor's keywords",
            str(error),
            "type(p)(**p.settings) works",
            "name each setting as its keyword",
        )
    rule, remedy = "type(p)(**p.settings) has equal settings", "return in settings what the constructor was given"
    require(again == settings, processor, rule, f"they are {again!r:.120}", f"{settings!r:.120}", remedy)


def _check_files(processor: Any, raws: Sequence[Any], made: Mapping[str, Tensor]) -> None:
    """Saved, loaded and saved again: equal tensors, and files of equal bytes, by which checkpoints are told apart."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        processor.save(Path(first))
        other = type(processor)(**processor.settings)
        other.load(Path(first))
        _same(processor, tensors_of(other(raws)), made, "saved and loaded it gives equal tensors", "write in save what load needs")
        other.save(Path(second))
        files = [{path.name: path.read_bytes() for path in Path(folder).iterdir()} for folder in (first, second)]
        rule, remedy = "saving again writes the same bytes", "sort what has no order"
        require(files[0] == files[1], processor, rule, f"files {sorted(files[0])} differ", "equal bytes", remedy)
