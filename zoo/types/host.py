"""Values on the CPU of index and mask tensors that are on another device, so that reading them does not wait for the device.

A step on a GPU runs ahead of the device. It has to wait whenever Python reads a value there: ``item``, ``tolist``, ``bool``, a boolean
index, ``nonzero``. Which tokens are real is known on the CPU before a batch is moved, so this module keeps those values beside the moved
tensor::

    mask = send(mask, device)            # ``Batch.to`` does this
    mask = follow(lambda m: m[:, ::2], mask)
    if on_host(mask).all(): ...          # reads the copy on the CPU
    places = send(on_host(mask).flatten().nonzero()[:, 0], mask.device)

For tensors on the CPU, ``send`` and ``on_host`` return the tensor itself, and ``follow`` calls the function once. The values of a tensor
whose copy is unknown are read from the device, which waits once. A tensor that was changed in place has no copy any more.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

HERE = ("cpu", "meta")  # types of devices whose tensors need no copy
# By tensor of a device: its version, its values on the CPU, and the version of these. An entry disappears with its tensor.
_copies = WeakTensorKeyDictionary()


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor to a device without waiting for it; of integers and booleans, the values on the CPU stay known."""
    moved = tensor.to(device, non_blocking=tensor.device.type == "cpu")  # towards the CPU, torch would return before the values arrive
    if tensor.device.type == "cpu" and not tensor.is_floating_point():
        _know(moved, tensor)
    return moved


def on_host(tensor: Tensor) -> Tensor:
    """Return the values of a tensor on the CPU; a meta tensor, which has none, is returned as it is."""
    if tensor.device.type in HERE:
        return tensor
    values = _known(tensor)
    if values is None:
        values = tensor.detach().cpu()  # waits for the device
        _know(tensor, values)
    return values


def follow(change: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return ``change(*tensors)``; if the values of all tensors are known on the CPU, so are those of the result.

    Args:
        change: pure function of integer or boolean tensors.
    """
    made = change(*tensors)
    if made.device.type not in HERE and not torch.compiler.is_compiling():
        known = [_known(tensor) for tensor in tensors]
        if all(values is not None for values in known):
            _know(made, change(*known))
    return made


def all_real(shape: torch.Size | tuple[int, ...], device: torch.device) -> Tensor:
    """Return a mask without padding, whose values are known on the CPU."""
    made = torch.ones(shape, dtype=torch.bool, device=device)
    if device.type not in HERE and not torch.compiler.is_compiling():
        _know(made, torch.ones(shape, dtype=torch.bool))
    return made


def update(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Write ``change(tensor)`` into the tensor; its values on the CPU stay known."""
    values = change(on_host(tensor))
    tensor.copy_(change(tensor))
    _know(tensor, values)


def _know(tensor: Tensor, values: Tensor) -> None:
    # Inference tensors count no versions, so that a change in place would go unnoticed; compiled code keeps no tables.
    if tensor.device.type not in HERE and not torch.compiler.is_compiling() and not (tensor.is_inference() or values.is_inference()):
        _copies[tensor] = (tensor._version, values, values._version)


def _known(tensor: Tensor) -> Tensor | None:
    if (found := _copies.get(tensor)) is None:
        return None
    version, values, version_of_values = found
    return values if (version, version_of_values) == (tensor._version, values._version) else None
