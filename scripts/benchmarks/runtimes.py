"""Other runtimes for a module of torch: onnxruntime in float32 and int8, OpenVINO in float32."""

import contextlib
import io
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.comparison import Candidate, Make
from benchmarks.job import need
from torch import Tensor, nn

from zoo.layers.low_precision.cpu import has_vnni

OPSET = 18
Quality = Callable[[Any], float]


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Keep ``torch.nn.MultiheadAttention`` from its fused operator, which other runtimes do not have."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Exported:
    """A module written as ONNX in a temporary folder, once, at the first use; the folder is deleted with the object.

    Args:
        module: maps the inputs to one tensor.
        inputs: their sizes are fixed in the graph.
    """

    def __init__(self, module: nn.Module, *inputs: Tensor) -> None:
        self.module, self.inputs = module.eval(), inputs
        self.names = [f"x{number}" for number in range(len(inputs))]
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def path(self) -> Path:
        """Return the file of the graph."""
        path = self.folder / "model.onnx"
        if not path.is_file():
            need("onnx", "onnx")
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad(), plain_attention():
                warnings.simplefilter("ignore")  # the exporter by tracing is deprecated; it takes a tenth of the other one's time
                torch.onnx.export(self.module, self.inputs, str(path), input_names=self.names, opset_version=OPSET, dynamo=False)
        return path

    def int8(self) -> Path:
        """Return the file of the graph with int8 weights and activations that are quantised at run time, one scale per tensor."""
        quantization = need("onnxruntime.quantization", "onnxruntime")
        path = self.path().with_name("int8.onnx")
        if not path.is_file():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind = quantization.QuantType.QInt8
                quantization.quantize_dynamic(str(self.path()), str(path), weight_type=kind, reduce_range=not has_vnni(), per_channel=True)
        return path


def onnxruntime_candidate(exported: Exported, precision: str, quality: Quality) -> Make:
    """Return the maker of onnxruntime with ``torch.get_num_threads()`` threads; precision is "fp32" or "int8"."""

    def make() -> Candidate:
        library = need("onnxruntime", "onnxruntime")
        options = library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3  # errors
        path = exported.path() if precision == "fp32" else exported.int8()
        session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {name: x.numpy() for name, x in zip(exported.names, exported.inputs, strict=True)}

        def run() -> Any:
            return session.run(None, feed)[0]

        return Candidate("onnxruntime", precision, run, lambda: quality(run()))

    return make


def openvino_candidate(exported: Exported, quality: Quality, precision: str = "fp32") -> Make:
    """Return the maker of OpenVINO, which reads the module itself; precision is "fp32" or "bf16"."""

    def make() -> Candidate:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # not importable: it would report each use over the network
        library = need("openvino", "openvino")
        with warnings.catch_warnings(), torch.no_grad(), plain_attention():
            warnings.simplefilter("ignore")  # tracing warns about constants
            model = library.convert_model(exported.module, example_input=exported.inputs)
        model.reshape({number: list(x.shape) for number, x in enumerate(exported.inputs)})
        hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        request = library.Core().compile_model(model, "CPU", settings).create_infer_request()
        given = [x.numpy() for x in exported.inputs]

        def run() -> Any:
            return request.infer(given, share_inputs=True)[0]

        return Candidate("OpenVINO", precision, run, lambda: quality(run()))

    return make
