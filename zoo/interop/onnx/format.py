"""ONNX export: one graph per encoder, checked with onnxruntime, and a description of the preprocessing beside it."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, first_line
from zoo.interop.base.format import NO, OTHER_FAMILY, Description, Format
from zoo.interop.base.recognise import not_described
from zoo.interop.base.source import Source
from zoo.interop.onnx.towers import Tower, towers_of
from zoo.registry import register
from zoo.registry.parts import label_of
from zoo.types import head_of, processor_of

log = logging.getLogger("zoo")

TARGET, OPSET = "onnx", 18
DESCRIPTION = "preprocessing.json"
TOLERANCE = 1e-4  # between onnxruntime and torch, of the largest value
LARGEST = 1_500_000_000  # bytes in one file; protobuf ends at 2 GB
INSTALL = "zoo install onnx"


@register("format")
class Onnx(Format):
    """Graphs for onnxruntime and other runtimes; they are written and never read, because a graph is no longer a model of parts."""

    targets = (TARGET,)
    takes = "encoders of images, audio and texts, and systems that have some"

    def recognises(self, source: Source) -> float:
        """Recognise nothing."""
        return NO

    def describe(self, source: Source) -> Description:
        """Raise the error that no model is described."""
        raise not_described(source)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Raise the error that no model is described."""
        raise not_described(source)

    def writes(self, model: nn.Module, target: str = "") -> str | None:
        """Return None for a model with encoders that torch can export for any batch size."""
        towers = towers_of(model)
        for tower in towers.values():
            if any(isinstance(module, nn.RNNBase) for module in tower.encoder.modules()):
                return f"export: {label_of(tower.encoder)} has an RNN, which torch exports for one batch size only; choose another format"
        return None if towers else OTHER_FAMILY

    def write(self, model: nn.Module, folder: Path, target: str = "", directory: Path | None = None) -> None:
        """Write ``NAME.onnx`` for each tower, ``preprocessing.json``, and the processor's files.

        Raises:
            ConfigError: a library is missing, torch cannot export the model, or onnxruntime computes something else.
        """
        _need_libraries()
        model = copy.deepcopy(model).float().cpu().eval()  # the graph is in float32, and the caller's model stays as it is
        models = {}
        for name, tower in towers_of(model).items():
            path = folder / f"{name}.onnx"
            axes = _write(tower, path)
            models[name] = _described(tower, path, axes, check(tower, path, axes))
        processor: Any = processor_of(model)
        for name, each in models.items():
            part = None if processor is None else processor.get(each["modality"])
            models[name]["preprocessing"] = {**towers_of(model)[name].encoder.preprocessing} if part is None else dict(part.settings)
        if processor is not None:
            processor.save(folder)  # tokenizer.json among them
        head: Any = head_of(model)
        classes = list(head.class_names or ()) if head is not None else []
        content = {"model": label_of(model), "opset": OPSET, "models": models} | ({"class_names": classes} if classes else {})
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _need_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"export: the format onnx needs onnx, onnxscript and onnxruntime; install them with: {INSTALL}") from error


def _write(tower: Tower, path: Path) -> dict[str, dict[int, str]]:
    """Write the graph of a tower and return its free axes by input.

    Texts get a free length, unless the encoder's code needs a fixed one.

    Raises:
        ConfigError: torch cannot export the model.
    """
    reasons = []
    for free_length in (True, False) if tower.modality == "text" else (False,):
        axes = {name: {0: "batch", **({1: "length"} if free_length else {})} for name in tower.inputs}
        try:
            _export(tower, path, axes)
        except (RuntimeError, ValueError, torch.onnx.OnnxExporterError) as error:
            reasons.append(first_line(error.__cause__ or error))
            continue
        if reasons:
            log.warning("export: %s needs texts of a fixed length: %s", label_of(tower.encoder), reasons[0])
        return axes
    raise ConfigError(f"export: {label_of(tower.encoder)} cannot be written as onnx ({reasons[-1]}); choose another format or encoder")


def _export(tower: Tower, path: Path, axes: Mapping[str, Mapping[int, str]]) -> None:
    most = tower.encoder.context_length or 2**15
    sizes = {"batch": torch.export.Dim("batch", min=1), "length": torch.export.Dim("length", min=2, max=most)}
    free = tuple({axis: sizes[word] for axis, word in axes[name].items()} for name in tower.inputs)
    length = None if any("length" in each.values() for each in axes.values()) else most
    size = sum(each.numel() * each.element_size() for each in tower.module.state_dict().values())
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        logging.getLogger("onnxscript").setLevel(logging.ERROR)  # and so does its optimizer
        torch.onnx.export(
            tower.module.eval(),
            tower.example(length=length),
            path,
            input_names=list(tower.inputs),
            output_names=list(tower.outputs),
            dynamic_shapes=free,
            opset_version=OPSET,
            external_data=size > LARGEST,
            dynamo=True,
            verbose=False,
        )


def check(tower: Tower, path: Path, axes: Mapping[str, Mapping[int, str]]) -> float:
    """Run a graph at another batch size than it was traced with, and return the largest difference to torch.

    Raises:
        ConfigError: it differs by more than ``TOLERANCE``, or onnxruntime refuses it.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as states  # type: ignore[attr-defined]

    fixed = tower.encoder.context_length if tower.modality == "text" and not any(1 in each for each in axes.values()) else None
    inputs = tower.example(3, length=fixed)
    with torch.no_grad():
        expected = tower.module(*inputs)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        taken = {each.name for each in session.get_inputs()}
        found = session.run(list(tower.outputs), {n: x.numpy() for n, x in zip(tower.inputs, inputs, strict=True) if n in taken})
    except (states.Fail, states.InvalidGraph, states.InvalidArgument, states.NotImplemented, states.RuntimeException) as error:
        raise ConfigError(f"export: onnxruntime refuses {path.name}: {first_line(error)}") from error
    wanted = expected if isinstance(expected, tuple) else (expected,)
    largest = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        largest = max(largest, float((torch.from_numpy(ours) - theirs).abs().max()) / scale)
    if not largest <= TOLERANCE:
        raise ConfigError(f"export: {path.name} differs from the model by {largest:.1e} in onnxruntime; allowed is {TOLERANCE}")
    return largest


def _described(tower: Tower, path: Path, axes: Mapping[str, Mapping[int, str]], largest: float) -> dict[str, Any]:
    """Return what a user of a graph must know."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    kept = {each.name for each in graph.input}
    inputs = {
        name: {"shape": [axes[name].get(axis, size) for axis, size in enumerate(x.shape)], "type": str(x.dtype).removeprefix("torch.")}
        for name, x in zip(tower.inputs, tower.example(length=tower.encoder.context_length), strict=True)
        if name in kept
    }
    return {"file": path.name, "modality": tower.modality, "inputs": inputs, "outputs": list(tower.outputs), "largest_difference": largest}
