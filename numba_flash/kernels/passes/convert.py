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

from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.ptx import global_view


@cache
def make_convert(dtype: str, threads: int, elements: int):
    """The kernel that writes one storage dtype, in blocks of so many threads and elements."""
    n = number(dtype)
    STORED, REAL, to_stored = n.stored, n.real, n.to_stored

    def convert(X, Y, count):
        x, y = global_view(X, 0, REAL), global_view(Y, 0, STORED)
        begin = cuda.blockIdx.x * elements
        for index in range(begin + cuda.threadIdx.x, min(begin + elements, count), threads):
            y[index] = to_stored(x[index])

    return convert
