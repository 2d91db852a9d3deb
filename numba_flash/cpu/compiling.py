"""How this folder's functions are compiled: `inner` for the loops over a tile, `compiled` for a whole pass."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from numba import njit, types

import numba_flash.compilable
import numba_flash.tiling

# No reassoc: vectors run along independent queries, so no sum needs reordering. No nnan or ninf: -inf hides a key.
OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy"}

inner = njit(**OPTIONS)

# numba's fallback threading layer (workqueue) aborts the process when two threads enter it at once.
ONE_AT_A_TIME = threading.Lock()


@cache
def source_digest() -> int:
    """A number that changes with the source of the compiled passes.

    numba's disk cache compares a compiled function with the one file it is written in, and a pass is linked from
    several. Values that a function closes over are part of the cache's key, so a pass that closes over this number
    is compiled again after an edit to any of them.
    """
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(numba_flash.tiling.__file__)]
    return crc32(b"".join(file.read_bytes() for file in files))


def read_only(dtype: types.Type, ndim: int) -> types.Array:
    """The numba type to which every array of this dtype and rank converts: new strides cost no new compilation."""
    return types.Array(dtype, ndim, "A", readonly=True, aligned=False)


def output(dtype: types.Type, ndim: int) -> types.Array:
    """The numba type of a C-contiguous array that a pass writes."""
    return types.Array(dtype, ndim, "C")


def compiled(function: Any, *argument_types: types.Type) -> Any:
    """`function` compiled for these types, or read from the disk cache; it releases the GIL and runs one at a time."""
    kernel = njit(argument_types, parallel=True, cache=True, nogil=True, **OPTIONS)(function)

    def launch(*arguments: Any) -> None:
        with ONE_AT_A_TIME:
            kernel(*arguments)

    return launch
