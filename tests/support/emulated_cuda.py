"""A CUDA device that is emulated on the CPU: finds synchronisations of the host and tensors of two devices in one operation.

A tensor of the emulated device says ``device=cuda``, and holds a tensor of the CPU that computes its values. Every operation goes through
``__torch_dispatch__``, where the emulation counts what would make the host wait for a real device: values that Python reads (``item``,
``tolist``, ``bool``, ``cpu``), results whose shape depends on values (``nonzero``, a boolean index), and copies from pageable memory.

Not emulated: kernels and their numbers, streams, autocast, memory.
"""

import traceback
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
WAITS = {  # the host needs values, or a shape that depends on values
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim, aten.is_nonzero),
    *(aten.unique_consecutive, aten.nonzero_numpy, aten.item, aten.masked_scatter_backward, aten.bincount),
}
BY_INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index, aten._unsafe_index_put}
ON_CPU = {aten._pack_padded_sequence, aten._pad_packed_sequence, aten.lstm, aten.gru}  # their lengths are on the CPU
DRIVER = {  # functions of torch.cuda that would ask the driver
    "_lazy_init": lambda *_: None,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "Event": mock.Mock,
    "current_device": lambda: 0,
    "set_device": lambda *_: None,
    "synchronize": lambda *_: None,
    "empty_cache": lambda: None,
    "is_current_stream_capturing": lambda: False,
    "is_bf16_supported": lambda *_: True,
    "get_device_capability": lambda *_: (9, 0),
    "get_device_name": lambda *_: "Emulated",
    "get_device_properties": lambda *_: mock.Mock(total_memory=1 << 37),
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "get_rng_state_all": lambda *_: [],
    "set_rng_state": lambda state, *_: torch.set_rng_state(state),
    "manual_seed": lambda *_: None,
    "manual_seed_all": lambda *_: None,
    "max_memory_allocated": lambda *_: 1 << 20,
    "reset_peak_memory_stats": lambda *_: None,
}
ROOT = Path(__file__).parents[2]


class DeviceMismatchError(AssertionError):
    """An operation got tensors of two devices."""


class Emulated(torch.Tensor):
    """Tensor of the emulated device.

    For torch's own code it is a meta tensor, because the autograd engine asks the driver about any device but the CPU and meta.
    """

    device = property(lambda self: CUDA)
    is_cuda, is_meta, is_cpu = (property(lambda self, value=value: value) for value in (True, False, False))

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
            requires_grad=False,
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"Emulated({self.held})"

    def to(self, *arguments, **keywords):
        """Return self if nothing changes; torch would compare devices with that of a meta tensor."""
        if arguments and isinstance(arguments[0], torch.Tensor):
            arguments = (arguments[0].device, arguments[0].dtype, *arguments[1:])
        copy = keywords.pop("copy", False)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*arguments, **keywords)
        stays = device is None or device.type == "cuda"
        if stays and dtype in (None, self.dtype) and not copy and memory_format is None:
            return self
        return super().to(CUDA if stays else device, dtype or self.dtype, non_blocking, True)

    def cuda(self, *_, **__):
        return self

    def tolist(self):  # torch reads the memory of a tensor here, and refuses subclasses
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        raise AssertionError(f"{function}: a tensor of the emulated device outside of the emulation")


class EmulatedCuda(TorchDispatchMode):
    """While active, ``device="cuda"`` is a device that computes on the CPU.

    Attributes:
        waits: each synchronisation as "operation at file:line in function".
    """

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        tensors = [each for each in tree_flatten((arguments, keywords))[0] if isinstance(each, torch.Tensor)]
        emulated = any(isinstance(each, Emulated) for each in tensors)
        wanted = keywords.get("device")
        packet = function.overloadpacket
        target = None if wanted is None else torch.device(wanted).type.replace("meta", "cuda")  # torch's code sees meta tensors
        if target == "cuda":
            keywords["device"] = torch.device("cpu")
        if packet is aten._pin_memory:
            return arguments[0].clone()
        if packet is aten._to_copy:
            return self._copy(function, arguments, keywords, target)
        if packet is aten.is_pinned:
            return False
        if packet is aten.copy_:
            return self._copy_into(function, arguments, keywords)
        if not emulated:
            found = function(*arguments, **keywords)
            return tree_map(self._wrap, found) if target == "cuda" else found
        if packet not in ON_CPU:
            self._refuse_two_devices(function, tensors, arguments)
        self._count(packet, arguments)
        found = function(*tree_map(self._unwrap, arguments), **tree_map(self._unwrap, keywords))
        if target == "cpu":  # a factory such as new_zeros(device="cpu")
            return found
        if packet is aten._pack_padded_sequence:
            return self._wrap(found[0]), found[1]
        return self._results(function, found, arguments, keywords)

    def _results(self, function, found, arguments, keywords):
        """Wrap results; an operation in place returns the tensor that it was given."""
        flat = [each for each in tree_flatten((arguments, keywords))[0] if isinstance(each, Emulated)]
        known = {id(each.held): each for each in flat}

        def wrap(value):
            if not isinstance(value, torch.Tensor):
                return value
            same = known.get(id(value))
            return same if same is not None and function._schema.is_mutable else self._wrap(value)

        return tree_map(wrap, found)

    @staticmethod
    def _wrap(value):
        return Emulated(value) if isinstance(value, torch.Tensor) and not isinstance(value, Emulated) else value

    @staticmethod
    def _unwrap(value):
        return value.held if isinstance(value, Emulated) else value

    def _copy(self, function, arguments, keywords, target):
        source = arguments[0]
        there = isinstance(source, Emulated) if target is None else target == "cuda"
        if isinstance(source, Emulated) != there and not keywords.get("non_blocking"):
            self._wait(function)
        found = function(self._unwrap(source), *arguments[1:], **keywords)
        found = found.clone() if found is self._unwrap(source) else found
        return self._wrap(found) if there else found

    def _copy_into(self, function, arguments, keywords):
        into, source = arguments[:2]
        non_blocking = keywords.get("non_blocking", len(arguments) > 2 and arguments[2])
        crosses = isinstance(into, Emulated) != isinstance(source, Emulated)
        if crosses and not non_blocking:
            self._wait(function)
        function(self._unwrap(into), self._unwrap(source))
        return into

    def _refuse_two_devices(self, function, tensors, arguments):
        other = [each for each in tensors if not isinstance(each, Emulated) and each.ndim > 0 and not each.is_meta]
        if other and function.overloadpacket in BY_INDEX:  # torch moves indices of the CPU to the device, which waits
            indices = [each for each in tree_flatten(arguments[1])[0] if isinstance(each, torch.Tensor)]
            if all(any(each is index for index in indices) for each in other):
                self._wait(function)
                return
        if other:
            raise DeviceMismatchError(f"{function}: tensors of cuda and cpu {[tuple(each.shape) for each in other]} at {_place()}")

    def _count(self, packet, arguments):
        if packet in WAITS:
            self._wait(packet)
        elif packet is aten.repeat_interleave and len(arguments) == 1:
            self._wait(packet)
        elif packet in BY_INDEX and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in arguments[1]):
            self._wait(packet)

    def _wait(self, function):
        self.waits.append(f"{function} at {_place()}")


def _place():
    """File, line and function of ours, or the last of all, from which the operation comes."""
    frames = [frame for frame in traceback.extract_stack() if "emulated_cuda" not in frame.filename]
    ours = [frame for frame in frames if frame.filename.startswith(str(ROOT / "zoo"))] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} in {ours[-1].name}"


@contextmanager
def emulated_cuda():
    """Make torch believe in a CUDA device; yields the mode with its list of synchronisations."""
    torch._C._ensureCUDADeviceGuardSet()  # without a driver: a guard that does nothing, as FakeTensorMode sets
    before, swap = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters become emulated tensors, and keep their identity
    # Inference mode refuses views of wrapped tensors; without it, only the speed differs.
    no_inference = mock.patch.object(torch._C, "_InferenceMode", lambda mode: torch.no_grad() if mode else nullcontext())
    with mock.patch.multiple(torch.cuda, **DRIVER), no_inference, EmulatedCuda() as mode:
        try:
            yield mode
        finally:
            torch._C._set_only_lift_cpu_tensors(before)
            torch.__future__.set_swap_module_params_on_conversion(swap)
