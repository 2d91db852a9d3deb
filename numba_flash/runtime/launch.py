"""One launch of one kernel, on a GPU or in the simulator."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import types

from numba_flash import simulator
from numba_flash.arrays import Array
from numba_flash.simulator import SIMULATED

STATIC_SHARED_BYTES = 48 * 1024  # a launch that wants more dynamic shared memory must say so first


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel function with what its launch needs to know.

    threads : of a block, in x
    shared_bytes : dynamic shared memory of a block
    blocks : how many blocks should fit a multiprocessor; the compiler limits registers to that
    """

    function: Callable[..., None]
    threads: int
    shared_bytes: int = 0
    blocks: int = 1

    @property
    def name(self) -> str:
        return self.function.__name__


@dataclass(frozen=True)
class Written:
    """An operand that the kernel writes; all others are only read."""

    array: Array


@dataclass(frozen=True)
class Launch:
    """A kernel over `grid` blocks with its arguments: arrays (None: a null pointer), ints, tuples of ints, reals."""

    kernel: Kernel
    grid: int
    args: tuple[Any, ...]


def signature(args: tuple[Any, ...]) -> Any:
    """The kernel signature for arguments: pointers are uint64, ints int64, tuples of ints stay tuples."""
    return types.void(*[argument_type(a) for a in args])


def argument_type(arg: Any) -> Any:
    """The numba type of one kernel argument."""
    if arg is None or isinstance(arg, Array | Written):
        return types.uint64
    if isinstance(arg, tuple):
        return types.UniTuple(types.int64, len(arg))
    if isinstance(arg, np.floating):
        return types.float64 if arg.dtype == np.float64 else types.float32
    return types.int64


def launch(what: Launch, stream: int = 0, device: int | None = None) -> None:
    """Start a kernel on the CUDA stream `stream` of device ordinal `device`, or run it to its end in the simulator.

    A launch of no blocks does nothing. The host does not wait.
    """
    if what.grid == 0:
        return
    kernel = what.kernel
    if SIMULATED:
        simulator.launch(
            kernel.function, what.grid, kernel.threads, kernel.shared_bytes, [pointer(a) for a in what.args]
        )
        return
    from numba import cuda
    from numba.cuda.core.errors import NumbaPerformanceWarning

    ordinal = device or 0
    with cuda.gpus[ordinal], warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaPerformanceWarning)  # a small problem is a small grid
        compiled = compiled_kernel(kernel, signature(what.args), ordinal)
        start = compiled[what.grid, kernel.threads, cuda.external_stream(stream), kernel.shared_bytes]
        start(*[address(a) for a in what.args])


def address(arg: Any) -> Any:
    """A kernel argument as the compiled kernel takes it: pointers become integers."""
    if isinstance(arg, Written):
        return arg.array.address
    if isinstance(arg, Array):
        return arg.address
    return 0 if arg is None else arg


def pointer(arg: Any) -> Any:
    """A kernel argument as the simulated kernel takes it: pointers know their array."""
    if isinstance(arg, Written):
        return simulator.Pointer(arg.array.data, writable=True)
    if isinstance(arg, Array):
        return simulator.Pointer(arg.data, writable=False)
    return arg


def compiler_options(kernel: Kernel) -> dict[str, Any]:
    """What numba is told beside a kernel's signature."""
    return {"launch_bounds": (kernel.threads, kernel.blocks)}


@cache
def compiled_kernel(kernel: Kernel, signature: Any, ordinal: int) -> Any:
    """The kernel compiled for a device, allowed the shared memory that it asks for."""
    from numba import cuda

    compiled = cuda.jit(signature, **compiler_options(kernel))(kernel.function)
    if kernel.shared_bytes > STATIC_SHARED_BYTES:
        allow_shared_bytes(compiled, kernel.shared_bytes, ordinal)
    return compiled


def allow_shared_bytes(compiled: Any, count: int, ordinal: int) -> None:
    """Let a compiled kernel have more than 48 KB of dynamic shared memory.

    numba-cuda 0.30 has no public way to do this (its issue 94), hence its private code library; nothing else in this
    package uses one.
    """
    from cuda.bindings import driver

    (overload,) = compiled.overloads.values()
    function = overload._codelibrary.get_cufunc()
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (error,) = driver.cuKernelSetAttribute(attribute, count, function.handle, ordinal)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{compiled.__name__}: the driver refused {count} bytes of shared memory ({error.name})")
