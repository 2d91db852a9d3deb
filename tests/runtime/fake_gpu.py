"""CuPy, the driver and a GPU, played by NumPy and the simulator: what runs between a call and the driver, on a CPU.

Memory is host memory, a launch finds its arrays by their addresses and runs in the simulator, and all that a stream is
asked to do is written down.
"""

import ctypes
import sys
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from numba_flash import config, ladder, planners, simulator
from numba_flash.arrays import ITEMSIZE, NUMPY, gpu_count
from numba_flash.config import Device
from numba_flash.runtime import gpu
from numba_flash.runtime.launch import Kernel

DEVICE = Device("fake", (9, 0), 227 * 1024)


class FakeArray(np.ndarray):
    """`cupy.ndarray`: its `data` is a pointer on a device, and it can be made on one."""

    def __new__(cls, shape, dtype, memory):
        return memory.array(shape, dtype)

    @property
    def data(self):
        address = self.__array_interface__["data"][0]
        return SimpleNamespace(ptr=address, device_id=0)

    @property
    def device(self):
        return SimpleNamespace(id=0)


class FakeMemory:
    """`cupy.cuda.MemoryPointer`."""

    def __init__(self, memory, offset=0):
        self.memory, self.offset = memory, offset

    @property
    def ptr(self):
        return self.memory.ctypes.data + self.offset

    def __add__(self, offset):
        return FakeMemory(self.memory, self.offset + offset)

    def array(self, shape, dtype):
        """`cupy.ndarray(shape, dtype, memory)`."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.memory[self.offset : self.offset + count].view(dtype).reshape(shape).view(FakeArray)


class FakeStream:
    """A stream that notes what it is asked."""

    def __init__(self, ptr, machine):
        self.ptr, self.machine, self.notes, self.capturing = ptr, machine, machine.notes, False

    def is_capturing(self):
        return self.capturing

    def record(self):
        self.notes.append(f"record on {self.ptr}")
        return f"event of {self.ptr}"

    def wait_event(self, event):
        self.notes.append(f"{self.ptr} waits for {event}")

    def __enter__(self):
        self.notes.append(f"enter {self.ptr}")
        self.before, self.machine.current = self.machine.current, self
        return self

    def __exit__(self, *error):
        self.notes.append(f"leave {self.ptr}")
        self.machine.current = self.before


class FakeGpu:
    """The machine: its memory, its notes of what streams were asked, and the launches that it has run."""

    def __init__(self):
        self.notes, self.launched, self.allocated = [], [], []
        self.loaded = self.device = 0
        self.kernels = []
        self.current = FakeStream(5, self)

    def change_device(self, ordinal):
        self.notes.append(f"device {ordinal}")
        self.device = ordinal

    def remember(self, x):
        """An array that kernels may be given."""
        self.allocated.append(x)
        return x

    def empty(self, shape, dtype):
        x = np.empty(shape, dtype).view(FakeArray)
        if x.dtype.kind != "b":
            x[...] = np.nan
        return self.remember(x)

    def alloc(self, count):
        return FakeMemory(self.remember(np.full(count, 0xFF, np.uint8)))  # NaNs of every dtype

    def asarray(self, x):
        """The array on the device: a copy with its strides."""
        copy = np.array(x, order="K").view(FakeArray)
        return self.remember(copy)

    def load(self, kernel, signature, ordinal):
        assert ordinal == 0
        self.loaded += 1
        self.kernels.append((kernel, signature.split(",")))
        return SimpleNamespace(handle=len(self.kernels))

    def pointer(self, address):
        """Where an address points, with the bounds of the allocation that holds it."""
        if address == 0:
            return None
        for x in self.allocated:
            low, count = x.__array_interface__["data"][0], max(x.nbytes, 1)
            if low <= address < low + count:
                memory = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(low))
                return simulator.Pointer(memory, writable=True) + (address - low)
        raise AssertionError(f"address {address} lies in no allocation")

    def launch(self, function, *sizes_and_rest):
        """`cuda.bindings.driver.cuLaunchKernel`."""
        *sizes, shared_bytes, stream, parameters, extra = sizes_and_rest
        kernel: Kernel
        kernel, letters = self.kernels[int(function) - 1]
        assert sizes[1:] == [1, 1, kernel.threads, 1, 1] and shared_bytes == kernel.shared_bytes and extra == 0
        if self.device is None:
            return (gpu.driver.CUresult.CUDA_ERROR_INVALID_CONTEXT,)
        arguments, lies = [], parameters
        for letter in letters:
            taken = [parameter(lies + 8 * n, letter) for n in range(int(letter[1:] or 1))]
            lies += 8 * len(taken)
            arguments.append(tuple(taken) if letter[1:] else self.pointer(taken[0]) if letter == "P" else taken[0])
        self.launched.append((stream, kernel.name))
        simulator.launch(kernel.function, sizes[0], kernel.threads, kernel.shared_bytes, arguments)
        return (gpu.SUCCESS,)

    @property
    def cupy(self):
        """The module."""
        return SimpleNamespace(
            __spec__="found",
            ndarray=FakeArray,
            empty=self.empty,
            asarray=self.asarray,
            asnumpy=lambda x: np.array(x).view(np.ndarray),
            cuda=SimpleNamespace(
                alloc=self.alloc,
                runtime=SimpleNamespace(getDeviceCount=lambda: 1, getDevice=lambda: self.device or 0),
                get_current_stream=lambda device=None: self.current,
                ExternalStream=lambda handle, device: FakeStream(handle, self),
            ),
        )


def parameter(lies, letter):
    """A parameter of a launch, by the type of its argument, from where the list of parameters says that it lies."""
    kind, number = {
        "P": (ctypes.c_uint64, int), "L": (ctypes.c_int64, int), "F": (ctypes.c_float, np.float32),
        "D": (ctypes.c_double, np.float64),
    }[letter[0]]  # fmt: skip
    address = ctypes.c_uint64.from_address(lies).value
    return number(kind.from_address(address).value)


@contextmanager
def instead_of_cupy(module):
    """`import cupy` finds this; what else is imported meanwhile stays."""
    real = sys.modules.get("cupy")
    sys.modules["cupy"] = module
    try:
        yield
    finally:
        del sys.modules["cupy"]
        if real is not None:
            sys.modules["cupy"] = real


@contextmanager
def fake_gpu():
    """The package finds this CuPy and this GPU; CuPy arrays are made with its `asarray`."""
    machine = FakeGpu()
    gpu_count.cache_clear()
    with ExitStack() as stack:
        stack.callback(gpu_count.cache_clear)
        stack.enter_context(instead_of_cupy(machine.cupy))
        host = patch.object(NUMPY, "is_owner", lambda x: isinstance(x, np.ndarray) and not isinstance(x, FakeArray))
        stack.enter_context(host)
        for module in (config, ladder, planners):
            stack.enter_context(patch.object(module, "SIMULATED", False))
        stack.enter_context(patch.object(config, "cuda_device", lambda ordinal: DEVICE))
        played = {
            "words": lambda what: simulator.tensor_copies.encode(
                ITEMSIZE[what.dtype], what.shape, what.strides, what.box
            ),
            "load": machine.load,
            "launch_kernel": machine.launch,
            "current_device": lambda: machine.device,
            "Device": lambda ordinal: SimpleNamespace(set_current=lambda: machine.change_device(ordinal)),
        }
        for name, player in played.items():
            stack.enter_context(patch.object(gpu, name, player))
        yield machine
