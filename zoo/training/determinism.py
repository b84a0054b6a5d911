"""Deterministic operations, so that equal runs give equal bits with any number of threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils.deterministic

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
    flags, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn
    warns, fills = torch.is_deterministic_algorithms_warn_only_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    before = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that writes every new tensor twice
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(flags, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fills
        cudnn.deterministic, cudnn.benchmark = before
