"""numba's own simulated kernels, on this package's scheduler."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, wraps
from typing import Any

import numpy as np
from numba.cuda.errors import normalize_kernel_dimensions
from numba.cuda.simulator.args import ArgHint, InOut
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray, FakeWithinKernelCUDAArray
from numba.cuda.simulator.kernel import FakeCUDAKernel

from .launch import launch
from .thread import running

COMPILER_OPTIONS = frozenset({"forceinline", "launch_bounds", "lineinfo", "lto", "max_registers"})


def accept_compiler_options(jit: Callable[..., Any]) -> Callable[..., Any]:
    """`cuda.jit` that ignores what only a compiler understands."""

    @wraps(jit)
    def simulated_jit(func_or_sig: Any = None, *args: Any, **options: Any) -> Any:
        understood = {name: value for name, value in options.items() if name not in COMPILER_OPTIONS}
        return jit(func_or_sig, *args, **understood)

    return simulated_jit


def call(kernel: FakeCUDAKernel, *args: Any) -> Any:
    """Replaces `FakeCUDAKernel.__call__`: launch a kernel from the host, or call a device function from a kernel."""
    if kernel._device or running() is not None:
        return kernel.fn(*args)
    grid, block = normalize_kernel_dimensions(kernel.grid_dim, kernel.block_dim)
    if 0 in grid:
        return None
    function = _dividing_carefully(kernel.fn) if kernel._debug else kernel.fn
    write_backs: list[Callable[[], Any]] = []
    launch(function, grid, block, kernel.dynshared_size, [_to_device(kernel, arg, write_backs) for arg in args])
    for write_back in write_backs:
        write_back()
    return None


def _to_device(kernel: FakeCUDAKernel, arg: Any, write_backs: list[Callable[[], Any]]) -> Any:
    """An argument as the kernel sees it: numba's copy of an array, written back after the launch."""

    def prepare(typed: tuple[Any, Any], extension: Any) -> tuple[Any, Any]:
        return extension.prepare_args(*typed, stream=0, retr=write_backs)

    _, arg = reduce(prepare, kernel.extensions, (None, arg))
    if isinstance(arg, np.ndarray) and arg.ndim > 0:
        arg = InOut(arg)
    if isinstance(arg, ArgHint):
        arg = arg.to_device(write_backs)
    elif isinstance(arg, np.void):
        arg = FakeCUDAArray(arg)
    return FakeWithinKernelCUDAArray(arg) if isinstance(arg, FakeCUDAArray) else arg


def _dividing_carefully(function: Callable[..., Any]) -> Callable[..., Any]:
    """What debug=True adds: division by zero raises."""

    @wraps(function)
    def careful(*args: Any) -> None:
        with np.errstate(divide="raise"):
            function(*args)

    return careful
