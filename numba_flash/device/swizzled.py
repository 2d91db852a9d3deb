"""Global memory to swizzled shared tiles of 16-bit numbers (`tiling.swizzle`), with zeros beyond the edges.

Rows that start on 16 bytes are copied in chunks of 16 bytes while the thread computes; any other layout is loaded
element by element, with a column stride.
"""

from __future__ import annotations

from functools import cache
from math import gcd

from numba import cuda, uint16

from numba_flash.config import Loads
from numba_flash.device.tiles import NOTHING, clipped
from numba_flash.ptx import copy_part, device
from numba_flash.tiling import swizzled

CHUNK = 8  # elements


@cache
def make_load_swizzled(rows: int, columns: int, threads: int, loads: Loads):
    """Make load_swizzled(tile, top, X, strides, row, col, N, width): X[row.., col..] to `rows` rows of a tile.

    They are rows top.. of the tile, whose width is `columns`; what lies beyond (N, width) becomes 0. `X` is a view of
    one head, `strides` the whole array's (batch, head, row, column) strides in elements. All threads take part; no
    barrier inside. With "copies" the rows arrive later: see `make_pipeline`.
    """
    COPIES = loads == "copies"
    PIECE = CHUNK if COPIES else 1  # elements that a thread moves at once
    ACROSS = gcd(columns // PIECE, threads)  # threads side by side in a row
    WIDTH, ROWS = ACROSS * PIECE, threads // ACROSS  # what all threads together move at once
    EVEN = rows % ROWS == 0
    ZERO = uint16(0)

    @device
    def load_swizzled(tile, top, X, strides, row, col, N, width):
        r, c = cuda.threadIdx.x // ACROSS, cuda.threadIdx.x % ACROSS * PIECE
        step = 1 if COPIES else strides[3]
        height = clipped(N - row - r, rows)
        for x in range(c, c + columns, WIDTH):
            at = (row + r) * strides[2] + (col + x) * step
            inside = clipped(width - col - x, PIECE)
            for y in range(0, rows, ROWS):
                if EVEN or r + y < rows:
                    count = inside if y < height else NOTHING
                    to = top + r + y, swizzled(r + y, x, columns)
                    if COPIES:
                        copy_part(tile, to, X, at, CHUNK, count)
                    else:
                        element = X[at if count > 0 else 0]  # a load for every thread: no branch delays others
                        tile[to] = element if count > 0 else ZERO
                at += ROWS * strides[2]

    return load_swizzled
