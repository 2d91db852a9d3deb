"""Kernels on a GPU: their machine code is loaded once for each device, and started through the driver."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from ctypes import addressof, c_double, c_float, c_int64, c_uint64, sizeof
from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np
from cuda.bindings import driver
from cuda.core import Device, ObjectCode

from numba_flash.arrays import Array
from numba_flash.config import cuda_device
from numba_flash.runtime.launch import Kernel, Launch, Written, signature
from numba_flash.runtime.machine_code import machine_code
from numba_flash.runtime.tensor_map import TensorMap, words

UNASKED_SHARED_BYTES = 48 * 1024  # a kernel that wants more dynamic shared memory must say so first
SUCCESS = driver.CUresult.CUDA_SUCCESS
DEFAULT_STREAM = int(driver.CU_STREAM_LEGACY)  # what 0 stands for, whatever cuda.bindings may be told

# Not cuda.core.launch, which lays out every parameter at every call: for the 44 of flash2_forward it takes 1.5 us of
# the host where this takes 0.6 us, the driver's own time left out, with parameters that are laid out already.
launch_kernel = driver.cuLaunchKernel

LOADED: dict[tuple[Kernel, str, int], Any] = {}
LOADING = threading.Lock()

Place = tuple[int, int]  # a pointer: the number of an array of the call, and how many bytes into it


@dataclass(frozen=True)
class Start:
    """A launch but for its addresses: the loaded kernel, and for each parameter its place or its value."""

    kernel: Any
    launch: Launch
    parameters: tuple[Place | c_int64 | c_float | c_double, ...]


class Starts:
    """Launches on a device, ready to be started one after the other once the addresses of `count` arrays are known.

    The driver takes a list of where a kernel's parameters lie. The lists are made once: pointers lie in a table, and
    a call only fills in its table.
    """

    def __init__(self, starts: Sequence[Start], count: int, ordinal: int) -> None:
        self.starts, self.ordinal = starts, ordinal
        pointers = dict.fromkeys(x for start in starts for x in start.parameters if isinstance(x, tuple))
        self.inside = [(n, offset) for n, offset in pointers if offset]
        self.places = [*((n, 0) for n in range(count)), *self.inside]
        self.fill = Struct(f"={len(self.places)}Q").pack_into
        self.tables: list[Table] = []  # that no call is using

    def __call__(self, stream: int, addresses: list[int]) -> None:
        """Start the kernels on a stream of the current device. The host does not wait."""
        try:
            table = self.tables.pop()  # of this call alone: the driver reads it while other threads may run
        except IndexError:
            table = Table(self.starts, self.places)
        if self.inside:
            addresses = addresses + [addresses[n] + offset for n, offset in self.inside]
        self.fill(table.entries, 0, *addresses)
        stream = stream or DEFAULT_STREAM
        for name, function, grid, threads, shared_bytes, parameters in table.launches:
            (error,) = launch_kernel(function, grid, 1, 1, threads, 1, 1, shared_bytes, stream, parameters, 0)
            if error is SUCCESS:
                continue
            if current_device() is None:  # a thread that has done nothing on a GPU yet
                Device(self.ordinal).set_current()
                (error,) = launch_kernel(function, grid, 1, 1, threads, 1, 1, shared_bytes, stream, parameters, 0)
            if error is not SUCCESS:
                raise RuntimeError(f"{name}: the driver does not start {grid} blocks ({error.name})")
        self.tables.append(table)


class Table:
    """The parameters of a call's kernels in memory.

    entries : the addresses that places stand for, to be filled in
    launches : name, function, grid, threads, shared memory and the address of the list of parameters of each
    """

    def __init__(self, starts: Sequence[Start], places: Sequence[Place]) -> None:
        self.entries = (c_uint64 * len(places))()
        self.lists = [(c_uint64 * len(start.parameters))() for start in starts]
        entry = {place: addressof(self.entries) + n * sizeof(c_uint64) for n, place in enumerate(places)}
        self.launches = []
        for start, parameters in zip(starts, self.lists, strict=True):
            parameters[:] = [entry[x] if isinstance(x, tuple) else addressof(x) for x in start.parameters]
            kernel, function = start.launch.kernel, driver.CUfunction(int(start.kernel.handle))
            sizes = start.launch.grid, kernel.threads, kernel.shared_bytes
            self.launches.append((kernel.name, function, *sizes, addressof(parameters)))


def prepare(launches: Sequence[Launch], ordinal: int, arrays: int, begins: Sequence[int]) -> Starts:
    """Launches whose arrays are outlines, ready for a device.

    The first `arrays` have addresses of their own. The others lie in one allocation, whose address comes last; they
    begin so many bytes behind it.
    """

    def place(x: Array) -> Place:
        n, offset = x.data.source, x.data.offset
        return (n, offset) if n < arrays else (arrays, offset + begins[n - arrays])

    return Starts([placed(what, ordinal, place) for what in launches], arrays + 1, ordinal)


def start(what: Launch, stream: int, ordinal: int) -> None:
    """Start a kernel on a stream of the device with this ordinal. The host does not wait."""
    addresses: list[int] = []

    def place(x: Array) -> Place:
        addresses.append(x.address)
        return len(addresses) - 1, 0

    start = placed(what, ordinal, place)
    with on_device(ordinal):
        Starts([start], len(addresses), ordinal)(stream, addresses)


def placed(what: Launch, ordinal: int, place: Callable[[Array], Place]) -> Start:
    """A launch with its kernel loaded, and its arrays as places."""
    parameters = (x for a in what.args for x in several(a))
    kernel = load(what.kernel, signature(what.args), ordinal)
    return Start(kernel, what, tuple(parameter(x, place) for x in parameters))


def several(arg: Any) -> tuple[Any, ...]:
    """An argument as the parameters that it stands for."""
    if isinstance(arg, TensorMap):
        return words(arg)
    return arg if isinstance(arg, tuple) else (arg,)


def parameter(x: Any, place: Callable[[Array], Place]) -> Any:
    """A parameter as `Start` has it; no array is a null pointer."""
    if isinstance(x, Written):
        return place(x.array)
    if isinstance(x, Array):
        return place(x)
    if isinstance(x, np.floating):
        return (c_double if x.dtype == np.float64 else c_float)(float(x))
    return c_int64(0 if x is None else int(x))


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


def current_device() -> int | None:
    """The ordinal of this thread's current device; None where it has none, as a thread that has done nothing yet."""
    error, device = driver.cuCtxGetDevice()
    return int(device) if error == SUCCESS else None


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
