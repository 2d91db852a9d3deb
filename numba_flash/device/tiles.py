"""Global memory to shared tiles and registers to global memory, with zeros beyond the edges.

Two forms of each: four elements an access where every row starts on 16 bytes, and element by element, with a column
stride, for any other layout.
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.ptx import device, load4, store4


@cache
def make_read4(dtype: str, vector: bool):
    """Make read4(view, at, column_stride, count): up to `count` elements of a row as reals, zeros after them."""
    N = number(dtype)
    ZERO, to_real = N.zero, N.to_real

    @device
    def read4_vector(view, at, column_stride, count):
        exists = count > 0
        x = load4(view, at if exists else 0)  # a load for every thread, of element 0 at need: no branch delays others
        return (
            to_real(x[0]) if exists else ZERO,
            to_real(x[1]) if exists else ZERO,
            to_real(x[2]) if exists else ZERO,
            to_real(x[3]) if exists else ZERO,
        )

    @device
    def read(view, at, exists):
        x = to_real(view[at if exists else 0])
        return x if exists else ZERO

    @device
    def read4_elements(view, at, column_stride, count):
        return (
            read(view, at, count > 0),
            read(view, at + column_stride, count > 1),
            read(view, at + 2 * column_stride, count > 2),
            read(view, at + 3 * column_stride, count > 3),
        )

    return read4_vector if vector else read4_elements


@cache
def make_load_tile(dtype: str, rows: int, columns: int, threads: int, vector: bool):
    """Make load_tile(tile, X, strides, row, N, width): tile[r, c] = X[row + r, c], zero beyond N rows or `width`.

    `X` is a view of one head, `strides` the whole array's (batch, head, row, column) strides in elements. All threads
    take part, neighbouring ones on neighbouring columns; no barrier inside.
    """
    read4 = make_read4(dtype, vector)
    CHUNKS = columns // 4  # four-element pieces of a row
    ROUNDS = (rows * CHUNKS + threads - 1) // threads
    EVEN = rows * CHUNKS % threads == 0

    @device
    def load_tile(tile, X, strides, row, N, width):
        for x in range(ROUNDS):
            chunk = x * threads + cuda.threadIdx.x
            r, c = chunk // CHUNKS, chunk % CHUNKS * 4
            if EVEN or r < rows:
                count = width - c if row + r < N else 0
                store4(tile, (r, c), read4(X, (row + r) * strides[2] + c * strides[3], strides[3], count))

    return load_tile


@cache
def make_write4(dtype: str, vector: bool):
    """Make write4(view, at, count, values): write the first `count` of four reals to neighbouring elements."""
    to_stored = number(dtype).to_stored

    @device
    def write4_vector(view, at, count, values):
        if count > 0:
            store4(view, at, (to_stored(values[0]), to_stored(values[1]), to_stored(values[2]), to_stored(values[3])))

    @device
    def write4_elements(view, at, count, values):
        if count > 0:
            view[at] = to_stored(values[0])
        if count > 1:
            view[at + 1] = to_stored(values[1])
        if count > 2:
            view[at + 2] = to_stored(values[2])
        if count > 3:
            view[at + 3] = to_stored(values[3])

    return write4_vector if vector else write4_elements


@cache
def make_write_rows(RG: int, CG: int, TM: int, TN: int, dtype: str, vector: bool):
    """Make write_rows(X, row_stride, acc, rg, cg, row0, N, width): a thread's piece of an (N, width) result.

    Piece and thread are `multiply_ab`'s: row r is row0 + rg + RG*r, columns are vectors of four at 4*(cg + CG*h).
    """
    write4 = make_write4(dtype, vector)

    @device
    def write_rows(X, row_stride, acc, rg, cg, row0, N, width):
        for r in range(TM):
            row = row0 + rg + RG * r
            for h in range(TN // 4):
                x, col = r * TN + 4 * h, 4 * (cg + CG * h)
                count = width - col if row < N else 0
                write4(X, row * row_stride + col, count, (acc[x], acc[x + 1], acc[x + 2], acc[x + 3]))

    return write_rows


@cache
def make_write_vectors(RG: int, CG: int, TM: int, TN: int, dtype: str, vector: bool):
    """Make write_vectors, the same as write_rows for `multiply_atb`, whose rows come in fours too."""
    write4 = make_write4(dtype, vector)

    @device
    def write_vectors(X, row_stride, acc, rg, cg, row0, N, width):
        for r in range(TM):
            row = row0 + 4 * (rg + RG * (r // 4)) + r % 4
            for h in range(TN // 4):
                x, col = r * TN + 4 * h, 4 * (cg + CG * h)
                count = width - col if row < N else 0
                write4(X, row * row_stride + col, count, (acc[x], acc[x + 1], acc[x + 2], acc[x + 3]))

    return write_vectors


@cache
def make_store_piece(RG: int, CG: int, TM: int, TN: int):
    """Make store_piece(tile, s, rg, cg): a thread's TM x TN piece of a score tile to shared memory."""

    @device
    def store_piece(tile, s, rg, cg):
        for r in range(TM):
            for c in range(TN):
                tile[rg + RG * r, cg + CG * c] = s[r * TN + c]

    return store_piece


@device
def fill(x, n, value):
    """Set the first n elements of a local array."""
    for c in range(n):
        x[c] = value


@device
def head(strides, b, h):
    """How many elements behind an array's start its head h of batch entry b lies."""
    return b * strides[0] + h * strides[1]
