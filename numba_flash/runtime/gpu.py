"""Kernels on a GPU: their machine code is loaded once for each device, and started through the driver."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cuda.bindings import driver
from cuda.core import LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM, Device, LaunchConfig, ObjectCode, Stream
from cuda.core import launch as cuda_launch

from numba_flash.arrays import Array
from numba_flash.config import cuda_device
from numba_flash.runtime.launch import Kernel, Launch, Written, signature
from numba_flash.runtime.machine_code import machine_code

UNASKED_SHARED_BYTES = 48 * 1024  # a kernel that wants more dynamic shared memory must say so first
SUCCESS = driver.CUresult.CUDA_SUCCESS

LOADED: dict[tuple[Kernel, str, int], Any] = {}
LOADING = threading.Lock()


@dataclass(frozen=True)
class Start:
    """A launch but for its addresses.

    parameters : the kernel's, with 0 for each pointer
    pointers : which parameter points how many bytes into which array
    """

    kernel: Any
    configuration: LaunchConfig
    parameters: tuple[Any, ...]
    pointers: tuple[tuple[int, int, int], ...]

    def __call__(self, stream: int, addresses: Sequence[int]) -> None:
        """Start the kernel on a stream of the current device. The host does not wait."""
        parameters = list(self.parameters)
        for n, source, offset in self.pointers:
            parameters[n] = addresses[source] + offset
        cuda_launch(stream_of(stream), self.configuration, self.kernel, *parameters)


def prepare(what: Launch, ordinal: int) -> Start:
    """A launch whose arrays are outlines, ready for a device."""
    parameters, pointers = [], []
    for n, x in enumerate(flat(what.args)):
        pointed = x.array if isinstance(x, Written) else x
        if isinstance(pointed, Array):
            pointers.append((n, pointed.data.source, pointed.data.offset))
            parameters.append(0)
        else:
            parameters.append(0 if x is None else x)
    kernel = load(what.kernel, signature(what.args), ordinal)
    return Start(kernel, configuration(what), tuple(parameters), tuple(pointers))


def start(what: Launch, stream: int, ordinal: int) -> None:
    """Start a kernel on a stream of the device with this ordinal. The host does not wait."""
    kernel = load(what.kernel, signature(what.args), ordinal)
    with on_device(ordinal):
        cuda_launch(stream_of(stream), configuration(what), kernel, *map(address, flat(what.args)))


def configuration(what: Launch) -> LaunchConfig:
    """A launch's grid, block and shared memory."""
    return LaunchConfig(grid=what.grid, block=what.kernel.threads, shmem_size=what.kernel.shared_bytes)


def flat(args: tuple[Any, ...]) -> Iterator[Any]:
    """A kernel's parameters: its arguments, with tuples as their numbers."""
    return (x for a in args for x in (a if isinstance(a, tuple) else (a,)))


def address(arg: Any) -> Any:
    """A parameter as the driver takes it; a null pointer for no array."""
    if isinstance(arg, Written):
        return arg.array.address
    if isinstance(arg, Array):
        return arg.address
    return 0 if arg is None else arg


def load(kernel: Kernel, signature: str, ordinal: int) -> Any:
    """A kernel ready to start on a device, allowed the shared memory that it asks for."""
    wanted = kernel, signature, ordinal
    if wanted not in LOADED:
        with LOADING:
            if wanted not in LOADED:
                LOADED[wanted] = load_anew(*wanted)
    return LOADED[wanted]


def load_anew(kernel: Kernel, signature: str, ordinal: int) -> Any:
    """The same, from the machine code.

    Raises
    ------
    RuntimeError
        If the driver refuses the code or so much shared memory.
    """
    code = machine_code(kernel, signature, cuda_device(ordinal).arch)
    with on_device(ordinal):
        try:
            loaded = ObjectCode.from_cubin(code.cubin).get_kernel(code.symbol)
        except Exception as error:  # cuda.core names no class for it
            raise RuntimeError(
                f"{kernel.name}: the driver, of CUDA {driver_version()}, does not load the compiled kernel ({error}). "
                "Update the driver, or install the packages of its CUDA version: numba_flash[cu12] or numba_flash[cu13]"
            ) from error
        if kernel.shared_bytes > UNASKED_SHARED_BYTES:
            allow_shared_bytes(kernel, loaded, ordinal)
    return loaded


def allow_shared_bytes(kernel: Kernel, loaded: Any, ordinal: int) -> None:
    """Let a loaded kernel have its dynamic shared memory, where that is more than any kernel gets unasked."""
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (error,) = driver.cuKernelSetAttribute(attribute, kernel.shared_bytes, loaded.handle, ordinal)
    if error != SUCCESS:
        raise RuntimeError(
            f"{kernel.name}: the driver refuses {kernel.shared_bytes} bytes of shared memory ({error.name})"
        )


def driver_version() -> str:
    """The newest CUDA version that the driver knows, as in "13.0"."""
    _, version = driver.cuDriverGetVersion()
    return f"{version // 1000}.{version % 1000 // 10}"


DEFAULT_STREAMS = {0: LEGACY_DEFAULT_STREAM, 1: LEGACY_DEFAULT_STREAM, 2: PER_THREAD_DEFAULT_STREAM}
STREAMS: dict[int, Stream] = {}


def stream_of(handle: int) -> Stream:
    """The stream with this handle, which remains its owner's."""
    found = DEFAULT_STREAMS.get(handle) or STREAMS.get(handle)
    if found is None:
        if len(STREAMS) >= 256:  # of streams that may be gone
            STREAMS.clear()
        found = STREAMS[handle] = Stream.from_handle(handle)
    return found


def current_device() -> int | None:
    """The ordinal of this thread's current device; None where it has none, as a thread that has done nothing yet."""
    error, device = driver.cuCtxGetDevice()
    return int(device) if error == SUCCESS else None


def is_current(ordinal: int) -> bool:
    """Is this device the thread's current one?"""
    return current_device() == ordinal


@contextlib.contextmanager
def on_device(ordinal: int) -> Iterator[None]:
    """Make a device the current one of this thread, if it is not."""
    before = current_device()
    if before == ordinal:
        yield
        return
    Device(ordinal).set_current()
    try:
        yield
    finally:
        if before is not None:
            Device(before).set_current()
