"""Rank, world size, a differentiable all-gather, and exchanges between processes; without a process group, each is the identity.

Tensors of a training step are exchanged by the default group (NCCL on GPUs), everything else by a second group on the CPU. It has no time
limit worth the name, because a rank may wait for hours while another one evaluates; a rank that dies ends the wait at once.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn


def is_distributed() -> bool:
    """True if a process group with more than one rank is initialised."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the index of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def leave() -> None:
    """Wait for all ranks, then destroy the process group; call it at the end of a program, unless a rank has failed.

    A process that exits with an initialised group stops its threads in an undefined order, and sometimes aborts.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All-gather along the first axis; backward sums the gradients of all ranks for this rank's rows.

    ``torch.distributed.nn`` has a similar function, but its backward needs an all-to-all, which is slow with gloo.
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
    """Concatenate the rows of all ranks in rank order, with gradient. Every rank must hold the same number of rows.

    If each rank computes the *same* global loss from the gathered rows, the mean over ranks of the parameters' gradients is exactly the
    gradient of that loss.
    """
    return _Gather.apply(local) if is_distributed() else local


def gather_uneven(local: Shaped[Tensor, "rows ..."]) -> tuple[Shaped[Tensor, "all_rows ..."], int]:
    """Concatenate the rows of all ranks in rank order, with gradient; ranks may hold different numbers of rows, also none.

    Returns:
        The rows, and the index of this rank's first row among them.
    """
    if not is_distributed():
        return local, 0
    counts = torch.zeros(world_size(), dtype=torch.int64, device=local.device)
    counts[rank()] = len(local)
    numbers = sum_over_ranks(counts).tolist()
    most = max(numbers)
    padded = torch.cat([local, local.new_zeros(most - len(local), *local.shape[1:])])
    parts = gather(padded).split(most) if most else [local]
    found = torch.cat([part[:number] for part, number in zip(parts, numbers, strict=False)])
    return found, sum(numbers[: rank()])


def sum_over_ranks(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return the sum of the tensors of all ranks, without gradient; the tensor is overwritten in place."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return the element-wise maximum over the tensors of all ranks, without gradient."""
    largest = tensor.clone()
    if is_distributed():
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest


def share_of_mean(mean: Float[Tensor, ""], count: int | Tensor) -> Float[Tensor, ""]:
    """Weigh a mean over this rank's items, so that the average over ranks is the mean over the items of all ranks.

    Ranks may hold different numbers of items, for example of tokens with a label: with 1 item and 3 items the factors are 1/2 and 3/2.
    Outside of training (no gradients) the mean stays as it is, because ranks then need not run together.

    Args:
        mean: of this rank's loss; 0 if it has no items.
        count: number of this rank's items.
    """
    if not is_distributed() or not torch.is_grad_enabled() or mean.is_meta:
        return mean
    ours = mean.detach().new_zeros((), dtype=torch.float32) + count
    return mean * (ours * world_size() / sum_over_ranks(ours.clone()).clamp(min=1))


def mean_over_ranks(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the mean of a scalar over all ranks, without gradient."""
    return sum_over_ranks(value.detach().clone()) / world_size() if is_distributed() else value.detach()


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor (DTensor); another tensor is returned as it is."""
    if not is_distributed():
        return tensor
    from torch.distributed.tensor import DTensor  # its import takes most of a second

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor (DTensor) in one piece, for which every rank has to call it; another tensor is returned as it is."""
    return tensor if local_part(tensor) is tensor else tensor.full_tensor()  # type: ignore[attr-defined]


def divided_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """Return a tensor, equal on every rank, in parts as another one is (DTensor); as it is if the other one is whole."""
    if local_part(pattern) is pattern:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = pattern.device_mesh, pattern.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over ranks, for a backward pass outside of ``DistributedDataParallel``.

    Every rank must have gradients for the same parameters.
    """
    if not is_distributed():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # All reductions are started before the first is waited for, so that they overlap.
    for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        assert work is not None
        work.wait()
    for gradient in gradients:
        gradient.div_(dist.get_world_size())


def share_buffers(model: nn.Module) -> None:
    """Broadcast the main process's buffers (BatchNorm statistics) to all ranks, as DDP does before its next forward.

    Only the main process saves the model, so that different buffers of the other ranks would be lost on resume.
    """
    if is_distributed():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


_patient: list[Any] = []  # the default group, and the group on the CPU that was made for it
PATIENCE = timedelta(days=30)


def _patient_group() -> Any:
    """Return the group on the CPU; all ranks must make their first call at the same time."""
    world = dist.group.WORLD
    if not _patient or _patient[0] is not world:  # a program may leave a group and join another
        _patient[:] = [world, dist.new_group(backend="gloo", timeout=PATIENCE)]
    return _patient[1]


def gather_objects(own: Any) -> list[Any]:
    """Return the objects of all ranks, in rank order, on every rank; they are pickled, and tensors must be on the CPU."""
    if not is_distributed():
        return [own]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, own, group=_patient_group())
    return found


def share_object(own: Any) -> Any:
    """Return the first rank's object on every rank."""
    if not is_distributed():
        return own
    shared = [own if rank() == 0 else None]
    dist.broadcast_object_list(shared, src=0, group=_patient_group())
    return shared[0]


def largest_over_ranks(own: int) -> int:
    """Return the largest of the ranks' numbers on every rank, without a synchronisation of the accelerator."""
    if not is_distributed():
        return own
    number = torch.tensor(own)
    dist.all_reduce(number, dist.ReduceOp.MAX, group=_patient_group())
    return int(number)


def wait_for_ranks() -> None:
    """Wait until every rank is here, however long that takes."""
    if is_distributed():
        dist.barrier(group=_patient_group())
