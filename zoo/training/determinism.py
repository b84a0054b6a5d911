"""Deterministic operations, so that equal runs give equal bits with any number of threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.backends.cudnn
import torch.utils.deterministic

# Their attributes are properties of the module's class, which type checkers do not see.
_deterministic: Any = torch.utils.deterministic
_cudnn: Any = torch.backends.cudnn

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS is deterministic only with workspaces of fixed size


@contextmanager
def deterministic_algorithms(wanted: bool | None) -> Iterator[None]:
    """Context in which torch uses deterministic algorithms; the settings before it are restored.

    On a CPU the threads would otherwise share some sums (``index_put`` with accumulation) in an order that differs from run to run.
    On CUDA an operation without a deterministic form raises RuntimeError. Enter the context before the first operation on CUDA,
    because cuBLAS reads its setting once.

    Args:
        wanted: None uses them unless there is a CUDA device.
    """
    if not (not torch.cuda.is_available() if wanted is None else wanted):
        yield
        return
    if torch.cuda.is_available():
        os.environ.setdefault(WORKSPACE, ":4096:8")
    # Not use_deterministic_algorithms, which sets the same flag, but imports the compiler (1 s) to tell it.
    mode, tensors, cudnn = torch.get_deterministic_debug_mode(), _deterministic, _cudnn
    before = cudnn.deterministic, cudnn.benchmark, tensors.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    tensors.fill_uninitialized_memory = False  # a debugging aid that writes every new tensor twice
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, cudnn.benchmark, tensors.fill_uninitialized_memory = before
