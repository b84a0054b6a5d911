"""Recording of a model's operations: ``torch.export``, ``torch.compile``, ``torch.jit.trace`` and ONNX."""

import torch


def is_recorded() -> bool:
    """Return True while the operations of a model are recorded, so that no value of a tensor may choose a branch."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def is_exported() -> bool:
    """Return True while operations are recorded to be run without this code, so that none may have a backward or write in place."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]
