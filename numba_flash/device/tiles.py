"""Global memory to shared tiles and registers to global memory, with zeros beyond the edges.

Every row that starts on 16 bytes is moved four elements at a time; any other layout element by element, with a column
stride. An index of a single element is unsigned: a signed one may count from the end, and finding out takes registers.
"""

from __future__ import annotations

from functools import cache
from math import gcd

import numpy as np
from numba import cuda, int32, uint64

from numba_flash.arrays import ITEMSIZE
from numba_flash.config import Adds, Loads, Piece
from numba_flash.device.number import number
from numba_flash.device.products import make_rows_and_columns
from numba_flash.ptx import add, add4, commit_copies, copy, device, load4, store4, wait_copies
from numba_flash.ptx.copies import COPY_BYTES


@cache
def make_read(dtype: str):
    """Make read(view, at, exists): an element as a real, zero where there is none."""
    ZERO, to_real = number(dtype).zero, number(dtype).to_real

    @device
    def read(view, at, exists):
        x = to_real(view[at if exists else 0])  # a load for every thread, of element 0 at need: no branch delays others
        return x if exists else ZERO

    return read


@cache
def make_read4(dtype: str):
    """Make read4(view, at, exists): four neighbouring elements of a row as reals, zeros where there are none."""
    ZERO, to_real = number(dtype).zero, number(dtype).to_real

    @device
    def read4(view, at, exists):
        x = load4(view, at if exists else 0)
        return (
            to_real(x[0]) if exists else ZERO,
            to_real(x[1]) if exists else ZERO,
            to_real(x[2]) if exists else ZERO,
            to_real(x[3]) if exists else ZERO,
        )

    return read4


IN_FLIGHT = 32  # bytes that a thread loads at once, element by element: 8 registers, and as many addresses


@cache
def make_pause(dtype: str, loads: Loads):
    """Make pause(n): no load beyond a thread's element n starts before those up to it are done, for every few elements.

    Unasked, the compiler starts all loads of a tile at once, and each takes registers for its address and its number.
    """
    TOGETHER = IN_FLIGHT // (number(dtype).real.bitwidth // 8)
    ELEMENTS = loads == "elements"

    @device
    def pause(n):
        if ELEMENTS and (n + 1) % TOGETHER == 0:
            cuda.syncwarp()  # no hazard: it only keeps later loads from starting earlier

    return pause


NOTHING = np.int32(0)


@device
def clipped(n, highest):
    """n between 0 and `highest`, in 32 bits: what is compared often should be short."""
    return int32(min(max(n, 0), highest))


@cache
def make_load_tile(dtype: str, rows: int, columns: int, threads: int, loads: Loads):
    """Make load_tile(tile, X, strides, row, col, N, width): tile[r, c] = X[row + r, col + c], 0 beyond (N, width).

    `X` is a view of one head, `strides` the whole array's (batch, head, row, column) strides in elements. All threads
    take part, neighbouring ones on neighbouring columns; no barrier inside. With "copies" the tile arrives later: see
    `make_pipeline`.
    """
    read, read4, pause = make_read(dtype), make_read4(dtype), make_pause(dtype, loads)
    COPIES, VECTORS = loads == "copies", loads == "vectors"
    PIECE = COPY_BYTES // ITEMSIZE[dtype] if COPIES else 4 if VECTORS else 1  # elements that a thread moves at once
    ACROSS = gcd(columns // PIECE, threads, 64)  # threads side by side in a row
    WIDTH, ROWS = ACROSS * PIECE, threads // ACROSS  # what all threads together move at once
    EVEN = rows % ROWS == 0

    @device
    def load_tile(tile, X, strides, row, col, N, width):
        r, c = cuda.threadIdx.x // ACROSS, cuda.threadIdx.x % ACROSS * PIECE
        step = 1 if COPIES or VECTORS else strides[3]
        at = (row + r) * strides[2] + (col + c) * step
        inside = clipped(width - col - c, columns)
        for y in range(0, rows, ROWS):
            count = inside if row + r + y < N else NOTHING  # elements from the thread's first one on that exist
            for x in range(0, columns, WIDTH):
                if EVEN or r + y < rows:
                    if COPIES:
                        copy(tile, (r + y, c + x), X, at + x, PIECE, x < count)
                    elif VECTORS:
                        store4(tile, (r + y, c + x), read4(X, at + x, x < count))
                    else:
                        tile[uint64(r + y), uint64(c + x)] = read(X, at + x * step, x < count)
                pause(y // ROWS * (columns // WIDTH) + x // WIDTH)
            at += ROWS * strides[2]

    return load_tile


@cache
def make_load_transposed(dtype: str, rows: int, columns: int, threads: int, loads: Loads):
    """Make load_transposed, as load_tile with tile[c, r] = X[row + r, col + c]: for operands read depth-first.

    Eight neighbouring elements of a row meet four (sixteen) rows in a warp: whole 32-byte sectors of global memory, and
    32 different banks of shared memory.
    """
    read, read4, pause = make_read(dtype), make_read4(dtype), make_pause(dtype, loads)
    COPIES, VECTORS = loads == "copies", loads == "vectors"
    PIECE = 4 if VECTORS else 1  # elements that a thread moves at once
    LANES = 8 // PIECE  # neighbouring threads in a row
    DOWN = gcd(rows, threads // LANES)
    WIDTH = threads // DOWN * PIECE  # threads for which no row is left take the next columns
    EVEN = columns % WIDTH == 0

    @device
    def load_transposed(tile, X, strides, row, col, N, width):
        t = cuda.threadIdx.x
        r = t // LANES % DOWN
        c = (t % LANES + t // (LANES * DOWN) * LANES) * PIECE
        step = 1 if COPIES or VECTORS else strides[3]
        at = (row + r) * strides[2] + (col + c) * step
        inside = clipped(width - col - c, columns)
        for y in range(0, rows, DOWN):
            count = inside if row + r + y < N else NOTHING
            for x in range(0, columns, WIDTH):
                if EVEN or c + x < columns:
                    if COPIES:
                        copy(tile, (c + x, r + y), X, at + x, PIECE, x < count)
                    elif VECTORS:
                        values = read4(X, at + x, x < count)
                        for n in range(4):
                            tile[c + x + n, r + y] = values[n]
                    else:
                        tile[uint64(c + x), uint64(r + y)] = read(X, at + x * step, x < count)
                pause(y // DOWN * (columns // WIDTH) + x // WIDTH)
            at += DOWN * strides[2]

    return load_transposed


@cache
def make_pipeline(loads: Loads):
    """Make commit() and wait(pending): close a group of tiles being loaded; wait until `pending` groups are in flight.

    A barrier after the wait makes the tiles of all threads visible to all. Loads that are no asynchronous copies are
    complete at once.
    """
    COPIES = loads in ("copies", "parts")

    @device
    def commit():
        if COPIES:
            commit_copies()

    @device
    def wait(pending):
        if COPIES:
            wait_copies(pending)

    return commit, wait


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
def make_write_rows(piece: Piece, dtype: str, vector: bool):
    """Make write_rows(X, row_stride, acc, factor, rg, cg, row0, N, width): X[:N, :width] = factor * a piece.

    A result without a factor gets `one` from the host. Numbers that are stored four at a time lie in four aligned
    registers; were they the sums themselves, half of the FFMA that made them would lose a cycle (device/products.py).
    A product may lie elsewhere than its factors, and the compiler cannot know that this one changes nothing.
    """
    TM, TN = piece.TM, piece.TN
    assert piece.V == 4
    row_of, column_of = make_rows_and_columns(piece)
    write4 = make_write4(dtype, vector)

    @device
    def write_rows(X, row_stride, acc, factor, rg, cg, row0, N, width):
        for r in range(TM):
            row = row0 + row_of(rg, r)
            for c in range(0, TN, 4):
                x, col = r * TN + c, column_of(cg, c)
                count = width - col if row < N else 0
                values = (factor * acc[x], factor * acc[x + 1], factor * acc[x + 2], factor * acc[x + 3])
                write4(X, row * row_stride + col, count, values)

    return write_rows


@cache
def make_join_rows(piece: Piece, dtype: str, vector: bool):
    """Make join_rows(X, row_stride, acc, shares, rg, cg, row0, N, width): X[:N, :width] = a piece + shares[row] * X."""
    TM, TN = piece.TM, piece.TN
    assert piece.V == 4
    row_of, column_of = make_rows_and_columns(piece)
    read, read4, write4 = make_read(dtype), make_read4(dtype), make_write4(dtype, vector)

    @device
    def earlier(X, at, count):
        if vector:
            return read4(X, at, True)
        return read(X, at, True), read(X, at + 1, count > 1), read(X, at + 2, count > 2), read(X, at + 3, count > 3)

    @device
    def join_rows(X, row_stride, acc, shares, rg, cg, row0, N, width):
        for r in range(TM):
            row, share = row0 + row_of(rg, r), shares[r]
            for c in range(0, TN, 4):
                x, col = r * TN + c, column_of(cg, c)
                at, count = row * row_stride + col, width - col if row < N else 0
                if count > 0:
                    y = earlier(X, at, count)
                    values = (
                        acc[x] + share * y[0], acc[x + 1] + share * y[1],
                        acc[x + 2] + share * y[2], acc[x + 3] + share * y[3],
                    )  # fmt: skip
                    write4(X, at, count, values)

    return join_rows


@cache
def make_add_rows(piece: Piece, adds: Adds):
    """Make add_rows(X, row_stride, acc, factor, rg, cg, row0, N, width): X += factor * a thread's piece, in reals."""
    TM, TN = piece.TM, piece.TN
    assert piece.V == 4
    row_of, column_of = make_rows_and_columns(piece)
    VECTORS = adds == "vectors"

    @device
    def add_rows(X, row_stride, acc, factor, rg, cg, row0, N, width):
        for r in range(TM):
            row = row0 + row_of(rg, r)
            for c in range(0, TN, 4):
                x, col = r * TN + c, column_of(cg, c)
                at, count = row * row_stride + col, width - col if row < N else 0
                if VECTORS:
                    if count > 0:
                        add4(X, at, (factor * acc[x], factor * acc[x + 1], factor * acc[x + 2], factor * acc[x + 3]))
                else:
                    for y in range(4):
                        if y < count:
                            add(X, at + y, factor * acc[x + y])

    return add_rows


@cache
def make_store_piece(piece: Piece):
    """Make store_piece(tile, s, rg, cg): a thread's piece of a tile to shared memory."""
    TM, TN = piece.TM, piece.TN
    row_of, column_of = make_rows_and_columns(piece)

    @device
    def store_piece(tile, s, rg, cg):
        for r in range(TM):
            for c in range(TN):
                tile[row_of(rg, r), column_of(cg, c)] = s[r * TN + c]

    return store_piece


@cache
def make_store_transposed(piece: Piece):
    """Make store_transposed(tile, s, rg, cg): a thread's piece to the transpose of its place, four rows at a time."""
    TM, TN = piece.TM, piece.TN
    assert piece.U == 4
    row_of, column_of = make_rows_and_columns(piece)

    @device
    def store_transposed(tile, s, rg, cg):
        for c in range(TN):
            for r in range(0, TM, 4):
                x = r * TN + c
                store4(tile, (column_of(cg, c), row_of(rg, r)), (s[x], s[x + TN], s[x + 2 * TN], s[x + 3 * TN]))

    return store_transposed


@device
def fill(x, n, value):
    """Set the first n elements of a local array."""
    for c in range(n):
        x[c] = value


@device
def head(strides, b, h):
    """How many elements behind an array's start its head h of batch entry b lies."""
    return b * strides[0] + h * strides[1]
