"""Makes `numba.cuda` itself what kernels see, instead of a module that numba swaps into their globals at every call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda, types
from numba.cuda.simulator.kernel import FakeCUDAKernel
from numba.cuda.simulator.kernelapi import FakeCUDAModule

from . import barriers, warp
from .cooperative import this_grid
from .geometry import Coordinates, grid, gridsize
from .local import local_array
from .numba_kernel import accept_compiler_options, call
from .pause import nanosleep
from .shared import shared_array
from .thread import WARP, current

COORDINATES = ("threadIdx", "blockIdx", "blockDim", "gridDim")
BARRIERS = ("syncthreads", "syncthreads_count", "syncthreads_and", "syncthreads_or")
WARP_OPERATIONS = (
    "syncwarp",
    "shfl_sync", "shfl_up_sync", "shfl_down_sync", "shfl_xor_sync",
    "all_sync", "any_sync", "eq_sync", "ballot_sync", "match_any_sync", "match_all_sync",
    "activemask", "lanemask_lt",
)  # fmt: skip
FROM_NUMBA = (
    "atomic", "const", "fp16",
    "threadfence", "threadfence_block", "threadfence_system",
    "popc", "brev", "clz", "ffs", "fma", "cbrt", "selp",
)  # fmt: skip

NUMBERS = {kind.name: getattr(np, kind.name) for kind in types.number_domain if kind.name in np.__dict__}


def install() -> None:
    """Put this package's scheduler under numba's CUDA simulator. For the whole process, and once."""
    FakeCUDAKernel.__call__ = call
    types.Integer.__call__ = types.Float.__call__ = cast
    cuda.jit = accept_compiler_options(cuda.jit)
    for name, value in _attributes().items():
        setattr(cuda, name, value)


def cast(kind: types.Number, *values: Any) -> Any:
    """`int32(x)`, without the import and the look for NumPy's type by its name that numba's own takes each time."""
    if len(values) == 1 and not isinstance(values[0], types.Type):
        return NUMBERS[kind.name](values[0])
    return types.Type.__call__(kind, *values)  # a signature


def _attributes() -> dict[str, Any]:
    numba_kernel_module = FakeCUDAModule((1, 1, 1), (1, 1, 1), 0)
    return {
        **{name: Coordinates(name) for name in COORDINATES},
        **{name: getattr(barriers, name) for name in BARRIERS},
        **{name: getattr(warp, name) for name in WARP_OPERATIONS},
        **{name: getattr(numba_kernel_module, name) for name in FROM_NUMBA},
        "grid": grid,
        "gridsize": gridsize,
        "nanosleep": nanosleep,
        "warpsize": WARP,
        "shared": SimpleNamespace(array=shared_array),
        "local": SimpleNamespace(array=local_array),
        "cg": SimpleNamespace(this_grid=this_grid),
        "__getattr__": _lane_id,
    }


def _lane_id(name: str) -> int:
    """`cuda.laneid`, the one attribute that is a number of the running thread."""
    if name != "laneid":
        raise AttributeError(f"module 'numba.cuda' has no attribute {name!r}")
    return current().lane
