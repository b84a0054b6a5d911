"""Activation memory and FLOPs of one forward and backward pass, counted on the meta device."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

CAST_DOWN = {F.linear, F.conv1d, F.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.baddbmm, torch.addmm}
CAST_UP = {F.layer_norm, F.softmax, F.log_softmax, torch.softmax, Tensor.softmax, torch.log_softmax, F.cross_entropy, F.nll_loss}
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Pass:
    """Costs of one forward and backward pass.

    Attributes:
        activation_bytes: tensors that the forward pass keeps for the backward pass, weights and inputs apart.
        flops: floating-point operations of both passes (2 per multiply-add), without those of checkpointed blocks that run again.
        ran: blocks that took part.
        gives_gradient: those of them through which a gradient flows back.
    """

    activation_bytes: int
    flops: int
    ran: set[str]
    gives_gradient: set[str]


def count_pass(
    model: nn.Module,
    run: Callable[[], Tensor],
    *,
    blocks: dict[str, nn.Module],
    checkpointed: Collection[str],
    held: Iterable[Tensor],
    precision: str,
) -> Pass:
    """Run a forward and a backward pass on the meta device and count what they cost.

    Attention is counted as the fused kernels run it, which keep queries, keys, values, output and one number per query. Of a
    checkpointed block only the inputs are kept, and once, for the block whose backward pass runs, all of its tensors.

    Args:
        run: function that returns the loss.
        blocks: blocks by name; the whole model is "".
        checkpointed: names of blocks with activation checkpointing.
        held: tensors that are counted elsewhere: the inputs.
        precision: "fp32", "bf16" or "fp16" (autocast).
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes half a second

    kept = _Kept([*model.parameters(), *model.buffers(), *held], checkpointed)
    ran, gives_gradient = set(), set()

    def note(name: str, output: Any) -> None:
        ran.add(name)
        if any(isinstance(each, Tensor) and each.requires_grad for each in _tensors(output)):
            gives_gradient.add(name)

    with FlopCounterMode(display=False) as counter, _FusedAttention(), _Autocast(DTYPES[precision]):
        with kept.watching(blocks, note), saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            loss = run()
        activation_bytes = kept.total()
        loss.backward()
    return Pass(activation_bytes, counter.get_total_flops(), ran, gives_gradient)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the memory of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tensors(value: Any) -> Iterator[Any]:
    from torch.utils._pytree import tree_leaves

    yield from tree_leaves(value)


class _Kept:
    """Storages that autograd keeps, each counted once, by the checkpointed block in which they are made."""

    def __init__(self, known: Iterable[Tensor], checkpointed: Collection[str]) -> None:
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.checkpointed = set(checkpointed)
        self.block: str | None = None
        self.alive: list[Tensor] = []  # while a tensor lives, no other storage gets its number
        self.bytes_by_block: dict[str | None, dict[int, int]] = {None: {}}

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved for the backward pass."""
        self.alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.bytes_by_block.setdefault(self.block, {})[storage._cdata] = storage.nbytes()
        return tensor

    @contextmanager
    def watching(self, blocks: dict[str, nn.Module], note: Callable[[str, Any], None]) -> Iterator[None]:
        """Context in which the block that runs is known."""
        handles: list[RemovableHandle] = []
        for name, block in blocks.items():
            handles.append(block.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            handles.append(block.register_forward_hook(self._leave(name, note)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, arguments: Any, keywords: Any) -> None:
            if name in self.checkpointed:
                for each in _tensors((arguments, keywords)):
                    if isinstance(each, Tensor):
                        self.keep(each)
                self.block = name

        return enter

    def _leave(self, name: str, note: Callable[[str, Any], None]) -> Callable[..., None]:
        def leave(module: nn.Module, arguments: Any, output: Any) -> None:
            note(name, output)
            if name in self.checkpointed:
                self.block = None

        return leave

    def total(self) -> int:
        """Return the bytes that live at once at most."""
        always = self.bytes_by_block[None]
        again = [
            sum(size for key, size in own.items() if key not in always) for name, own in self.bytes_by_block.items() if name is not None
        ]
        return sum(always.values()) + max(again, default=0)


class _Fused(torch.autograd.Function):
    """Attention of meta tensors that keeps what a fused kernel keeps."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        output = torch.matmul(torch.matmul(q, k.transpose(-2, -1)), v)
        output = output.transpose(1, 2).contiguous().transpose(1, 2)  # the kernels' layout, in which joining the heads copies nothing
        ctx.save_for_backward(q, k, v, output, q.new_empty(q.shape[:-1], dtype=torch.float32), mask)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        q, k, v, _, _, mask = ctx.saved_tensors
        weights = torch.matmul(q, k.transpose(-2, -1))  # [..., queries, keys], which the kernels compute again
        of_weights = torch.matmul(grad, v.transpose(-2, -1))
        of_v = torch.matmul(weights.transpose(-2, -1), grad)
        of_mask = of_weights.sum_to_size(mask.shape) if mask is not None and ctx.needs_input_grad[3] else None
        return torch.matmul(of_weights, k), torch.matmul(of_weights.transpose(-2, -1), q), of_v, of_mask


class _FusedAttention(TorchFunctionMode):
    """Mode in which ``scaled_dot_product_attention`` is ``_Fused``; the meta device would take the unfused form."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        if (kwargs or {}).get("enable_gqa"):
            k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], dim=-3) for x in (k, v))
        return _Fused.apply(q, k, v, (kwargs or {}).get("attn_mask"))


class _Autocast(TorchFunctionMode):
    """Mode that casts as autocast does; autocast itself knows no meta device.

    Args:
        dtype: low precision; None casts nothing.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        target = (
            None
            if self.dtype is None
            else self.dtype
            if func in CAST_DOWN or _is_attention(func)
            else torch.float32
            if func in CAST_UP
            else None
        )
        if target is not None:
            args = tuple(self._cast(each, target) for each in args)
            kwargs = {name: self._cast(each, target) for name, each in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _cast(value: Any, target: torch.dtype) -> Any:
        return value.to(target) if isinstance(value, Tensor) and value.is_floating_point() else value


def _is_attention(func: Any) -> bool:
    return func is F.scaled_dot_product_attention
