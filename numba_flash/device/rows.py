"""A row of a matrix over the lanes of a warp: element c lives in lane c % lanes, neighbouring elements side by side.

A lane holds `pieces` elements in a local array, zeros beyond the row's width. All loops over them have constant trip
counts, so the compiler unrolls them and the local array becomes registers. There are 32 lanes; in the simulator, where
lanes take turns, a block of fewer threads is one short warp.
"""

from __future__ import annotations

from functools import cache

from numba_flash.device.number import number
from numba_flash.device.softmax import make_row_sum
from numba_flash.ptx import device


@cache
def make_load_row(dtype: str, lanes: int, pieces: int):
    """Make load_row(x, X, stride, width, lane): a row of a view into the lanes' registers."""
    n = number(dtype)
    ZERO, to_real = n.zero, n.to_real

    @device
    def load_row(x, X, stride, width, lane):
        for c in range(pieces):
            col = lane + lanes * c
            x[c] = to_real(X[col * stride]) if col < width else ZERO

    return load_row


@cache
def make_dot_row(dtype: str, lanes: int, pieces: int):
    """Make dot_row(x, Y, stride, width, lane): the product, in every lane, of a row in registers and one of a view."""
    n = number(dtype)
    ZERO, to_real, row_sum = n.zero, n.to_real, make_row_sum(lanes)

    @device
    def dot_row(x, Y, stride, width, lane):
        total = ZERO
        for c in range(pieces):
            col = lane + lanes * c
            if col < width:
                total += x[c] * to_real(Y[col * stride])
        return row_sum(total)

    return dot_row


@cache
def make_add_row(dtype: str, lanes: int, pieces: int):
    """Make add_row(x, keep, a, Y, stride, width, lane): x = keep*x + a*Y, x a row in registers, Y one of a view."""
    to_real = number(dtype).to_real

    @device
    def add_row(x, keep, a, Y, stride, width, lane):
        for c in range(pieces):
            col = lane + lanes * c
            if col < width:
                x[c] = keep * x[c] + a * to_real(Y[col * stride])

    return add_row


@cache
def make_write_row(dtype: str, lanes: int, pieces: int):
    """Make write_row(X, x, width, lane): a row from the lanes' registers to a contiguous one."""
    to_stored = number(dtype).to_stored

    @device
    def write_row(X, x, width, lane):
        for c in range(pieces):
            col = lane + lanes * c
            if col < width:
                X[col] = to_stored(x[c])

    return write_row
