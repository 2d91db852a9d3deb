"""The backward's last pass for 16-bit floats.        New here: sums are kept in float32 and rounded once, at the end.

Paper      none
Grid       (count / 1024,)     Threads 256: thread t of a block owns elements t, t + 256...
Shapes     X -> Y, both contiguous, of the same shape
On chip    nothing
Invariant  Y = X in Y's dtype, to nearest, ties to even
Units      those of X
Edges      only existing elements are read and written
Traffic    reads X once, writes Y once
"""

from __future__ import annotations

import math
from functools import cache

from numba import cuda

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.device.number import number
from numba_flash.problem import AttentionProblem
from numba_flash.ptx import global_view
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

THREADS, ELEMENTS = 256, 1024  # of a block


@cache
def make_convert(dtype: str) -> Kernel:
    """The kernel that writes one storage dtype."""
    n = number(dtype)
    STORED, REAL, to_stored = n.stored, n.real, n.to_stored

    def convert(X, Y, count):
        x, y = global_view(X, 0, REAL), global_view(Y, 0, STORED)
        begin = cuda.blockIdx.x * ELEMENTS
        for index in range(begin + cuda.threadIdx.x, min(begin + ELEMENTS, count), THREADS):
            y[index] = to_stored(x[index])

    return Kernel(convert, THREADS)


def launches(x: Array, y: Array) -> list[Launch]:
    """The launch that writes y, both contiguous."""
    count = math.prod(y.shape)
    return [Launch(make_convert(y.dtype), cdiv(count, ELEMENTS), (x, Written(y), count))]


def traffic(problem: AttentionProblem) -> Traffic:
    """What all threads move for dQ."""
    count = problem.B * problem.Hq * problem.Nq * problem.d
    return Traffic(global_read=count * ITEMSIZE[problem.real], global_written=count * ITEMSIZE[problem.dtype])
