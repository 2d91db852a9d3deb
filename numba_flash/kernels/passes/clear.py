"""Counters become 0.        New here: the blocks of the kernel behind it take their work, or turns, by counters.

Paper      none
Grid       (cdiv(count, 128),)     Threads 128
Shapes     COUNTERS (count,) int32
On chip    nothing
Invariant  none
Units      query blocks that have been taken, or turns that have ended
Edges      none
Traffic    writes each counter once
"""

from __future__ import annotations

from functools import cache

from numba import cuda
from numba.types import int32

from numba_flash.ptx import global_view


@cache
def make_clear():
    """The kernel."""

    def clear(COUNTERS, count):
        n = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if n < count:
            global_view(COUNTERS, 0, int32)[n] = 0

    return clear
