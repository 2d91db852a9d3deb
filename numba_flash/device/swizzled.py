"""Global memory to swizzled shared tiles of 16-bit numbers (`tiling.swizzle`), with zeros beyond the edges.

Rows that start on 16 bytes are copied in chunks of 16 bytes while the thread computes; any other layout is loaded
element by element, with a column stride.
"""

from __future__ import annotations

from functools import cache
from math import gcd, lcm

import numpy as np
from numba import cuda, int32, uint16

from numba_flash.config import Loads
from numba_flash.ptx import copy, copy_part, device
from numba_flash.tiling import swizzled

CHUNK = 8  # elements
PERIOD = 8  # rows after which `swizzle` repeats
MOST = 1023  # the last thread of the largest block
NONE, WHOLE, FAR = np.int32(0), np.int32(CHUNK), np.int32(2**30)


@device
def thread():
    """This thread's number in its block."""
    return cuda.threadIdx.x & MOST  # the compiler sees that it is not negative


@device
def left(n):
    """How many rows or columns are left, in 32 bits: all beyond 2^30 are one to a tile."""
    return int32(min(n, FAR))


@cache
def make_load_swizzled(rows: int, columns: int, threads: int, loads: Loads):
    """Make load_swizzled(tile, top, X, strides, row, col, N, width): X[row.., col..] to `rows` rows of a tile.

    They are rows top.. of the tile, whose width is `columns`; what lies beyond (N, width) becomes 0. `X` is a view of
    one head, `strides` the whole array's (batch, head, row, column) strides in elements. All threads take part; no
    barrier inside. With "copies" and "parts" the rows arrive later: see `make_pipeline`.
    """
    ELEMENTS, PARTS = loads == "elements", loads == "parts"
    PIECE = 1 if ELEMENTS else CHUNK  # elements that a thread moves at once
    ACROSS = gcd(columns // PIECE, threads)  # threads side by side in a row
    WIDTH, ROWS = ACROSS * PIECE, threads // ACROSS  # what all threads together move at once
    EVEN = rows % ROWS == 0
    STEP = lcm(ROWS, PERIOD)  # rows so far apart lie in the same columns: one address, and constants added to it
    ZERO = uint16(0)

    @device
    def load_swizzled(tile, top, X, strides, row, col, N, width):
        r, c = thread() // ACROSS, thread() % ACROSS * PIECE
        step = strides[3] if ELEMENTS else 1
        below, beside = int32(left(N - row) - r), left(width - col)
        for x in range(c, c + columns, WIDTH):
            inside = int32(beside - x)
            for first in range(0, min(STEP, rows), ROWS):
                at = (row + r + first) * strides[2] + (col + x) * step
                column = swizzled(r + first, x, columns)
                for y in range(first, rows, STEP):
                    if EVEN or r + y < rows:
                        to = top + r + y, column
                        exists = int32(y) < below and inside > NONE
                        if ELEMENTS:
                            element = X[at if exists else 0]  # a load for every thread: no branch delays others
                            tile[to] = element if exists else ZERO
                        elif PARTS:
                            copy_part(tile, to, X, at, CHUNK, min(inside, WHOLE) if exists else NONE)
                        else:
                            copy(tile, to, X, at, CHUNK, exists)
                    at += STEP * strides[2]

    return load_swizzled
