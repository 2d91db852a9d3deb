"""Rows that boxes can be copied of.        New here: rows that start anywhere get rows that start on 16 bytes.

Paper      none
Grid       (count / 1024,)     Threads 256: thread t of a block owns elements t, t + 256... of Y
Shapes     X (B, H, N, d) 16 bits, any strides -> Y (B, H, N, D), contiguous, D >= d
On chip    nothing
Invariant  Y[..., c] = X[..., c] for c < d, zero beyond
Units      those of X
Edges      only existing elements are read and written
Traffic    reads X once, writes Y once
"""

from __future__ import annotations

from functools import cache

from numba import cuda, uint16

from numba_flash.ptx import global_view


@cache
def make_pad(threads: int, elements: int):
    """The kernel, in blocks of so many threads and elements."""
    ZERO = uint16(0)

    def pad(X, X_strides, Y, sizes, count):
        H, N, d, D = sizes
        x, y = global_view(X, 0, uint16), global_view(Y, 0, uint16)
        begin = cuda.blockIdx.x * elements
        for index in range(begin + cuda.threadIdx.x, min(begin + elements, count), threads):
            row, c = index // D, index % D
            bh, n = row // N, row % N
            b, h = bh // H, bh % H
            at = b * X_strides[0] + h * X_strides[1] + n * X_strides[2] + c * X_strides[3]
            y[index] = x[at] if c < d else ZERO

    return pad
