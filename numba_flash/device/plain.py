"""Tiles with nothing but loops: what the kernels use that come before register tiles and vector loads."""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.ptx import device


@cache
def make_load(dtype: str, rows: int, columns: int, threads: int):
    """Make load(tile, X, strides, row, N, width): tile[r, c] = X[row + r, c], zero beyond N rows or `width`.

    `X` is a view of one head, `strides` the whole array's (batch, head, row, column) strides in elements. All threads
    take part, neighbouring ones on neighbouring columns; no barrier inside.
    """
    n = number(dtype)
    ZERO, to_real = n.zero, n.to_real
    ELEMENTS = rows * columns

    @device
    def load(tile, X, strides, row, N, width):
        for x in range(cuda.threadIdx.x, ELEMENTS, threads):
            r, c = x // columns, x % columns
            exists = row + r < N and c < width
            tile[r, c] = to_real(X[(row + r) * strides[2] + c * strides[3]]) if exists else ZERO

    return load


@cache
def make_dots(dtype: str):
    """Make dot_abt, dot_ab and dot_atb(A, r, B, c, depth): element (r, c) of A B^T, A B and A^T B, of shared tiles."""
    ZERO = number(dtype).zero

    @device
    def dot_abt(A, r, B, c, depth):
        total = ZERO
        for x in range(depth):
            total += A[r, x] * B[c, x]
        return total

    @device
    def dot_ab(A, r, B, c, depth):
        total = ZERO
        for x in range(depth):
            total += A[r, x] * B[x, c]
        return total

    @device
    def dot_atb(A, r, B, c, depth):
        total = ZERO
        for x in range(depth):
            total += A[x, r] * B[x, c]
        return total

    return dot_abt, dot_ab, dot_atb
