"""Rank, world size, a gather that gradients pass through, and reductions. Without a process group all of it is the identity."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn


def is_distributed() -> bool:
    """Whether a process group with more than one rank is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Number of this process, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


def leave() -> None:
    """End the process group, once every rank is here; call it last in a program, and only where none has failed.

    A rank that ends with the group still up takes its threads down in no order, and now and then aborts.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All-gather along the first axis; backward sums every rank's gradient of this rank's rows.

    Written out because the one in ``torch.distributed.nn`` needs an all-to-all in backward, which gloo does slowly.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        ctx.rows = len(local)  # type: ignore[attr-defined]
        return torch.cat(parts)  # [world * B, ...]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous()
        dist.all_reduce(grad)
        rows = ctx.rows  # type: ignore[attr-defined]
        return grad[dist.get_rank() * rows : (dist.get_rank() + 1) * rows]


def gather(local: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "world_batch ..."]:
    """Concatenate every rank's rows in rank order, with gradient. Every rank must hold equally many rows.

    When each rank computes the *same* global loss from the gathered rows, the data-parallel mean of the parameters'
    gradients is exactly the gradient of that loss.
    """
    return _Gather.apply(local) if is_distributed() else local


def sum_over_ranks(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Sum of every rank's tensor, without gradient; the tensor itself is overwritten."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Largest of every rank's tensor, element by element, without gradient."""
    largest = tensor.clone()
    if is_distributed():
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over ranks; what ``DistributedDataParallel`` does, for those who go backward without it.

    Every rank must have gradients of the same parameters.
    """
    if not is_distributed():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        assert work is not None
        work.wait()
    for gradient in gradients:
        gradient.div_(dist.get_world_size())
