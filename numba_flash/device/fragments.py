"""Products on tensor cores: fragments from swizzled shared tiles, sums in registers, results to global memory.

A warp owns WM x WN elements of a product, as WM/16 x WN/8 accumulator fragments of 16 x 8 in a local array, row by row.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cuda, uint16, uint32, uint64

from numba_flash.config import LANES, Adds, AnyPiece, Fragments
from numba_flash.device.swizzled import CHUNK, thread
from numba_flash.ptx import (
    add,
    add4,
    device,
    float32_to_bfloat16x2,
    float32_to_float16x2,
    ldmatrix_x4,
    ldmatrix_x4_trans,
    load4,
    mma_bfloat16,
    mma_float16,
    store2,
    store4,
    store_if,
)
from numba_flash.tiling import accumulator_place, down_then_right, right_then_down, swizzled

MMA = {"float16": mma_float16, "bfloat16": mma_bfloat16}
PAIR = {"float16": float32_to_float16x2, "bfloat16": float32_to_bfloat16x2}
UNROLLED = 64  # the depth of a loop over slices that the compiler unrolls as a whole; longer ones it unrolls by two


@device
def lane():
    """This thread's number in its warp."""
    return cuda.threadIdx.x & 31  # the compiler sees that it is not negative


@cache
def make_load_a(columns: int, height: int):
    """Make load_a(a, place, tile, row, col): fragments of A from tile[row : row + height, col : col + 16].

    They become number `place` of a and those behind. The tile has so many columns; `row` is a multiple of 8, as swizzle
    asks.
    """

    @device
    def load_a(a, place, tile, row, col):
        r, c = down_then_right(lane())
        for m in range(height // 16):
            ldmatrix_x4(a, place + m, tile, (row + 16 * m + r, swizzled(r, col + c, columns)))

    return load_a


@cache
def make_load_at(columns: int, height: int):
    """Make load_at(a, tile, row, col): fragments of A from tile[row : row + 16, col : col + height].T."""

    @device
    def load_at(a, tile, row, col):
        r, c = right_then_down(lane())
        for m in range(height // 16):
            ldmatrix_x4_trans(a, m, tile, (row + r, swizzled(r, col + 16 * m + c, columns)))

    return load_at


@cache
def make_slices(dtype: str, WM: int, WN: int, depth: int, BN: int):
    """Make load_slice(a, b, place, As, Bs, row, top, col, x) and multiply_slice(acc, a, b, place).

    A slice is As[row : row + WM, x : x + 16] and Bs[top + x : top + x + 16, col : col + WN], in fragments; a and b have
    two places for one, so that the next can be loaded while this one is multiplied. As has `depth` columns, Bs BN.
    """
    M_FRAGMENTS, N_FRAGMENTS = WM // 16, WN // 8
    load_a, mma = make_load_a(depth, WM), MMA[dtype]

    @device
    def load_slice(a, b, place, As, Bs, row, top, col, x):
        r, c = down_then_right(lane())
        load_a(a, place * M_FRAGMENTS, As, row, x)
        for n in range(N_FRAGMENTS // 2):
            at = top + x + r, swizzled(r, col + 16 * n + c, BN)
            ldmatrix_x4_trans(b, place * N_FRAGMENTS // 2 + n, Bs, at)

    @device
    def multiply_slice(acc, a, b, place):
        for m in range(M_FRAGMENTS):
            for n in range(N_FRAGMENTS):
                mma(acc, m * N_FRAGMENTS + n, a, place * M_FRAGMENTS + m, b, place * N_FRAGMENTS + n)

    return load_slice, multiply_slice


@cache
def make_multiply_abt_mma(dtype: str, piece: Fragments, depth: int):
    """Make multiply_abt_mma(s, As, Bs, row, top): s += As[row : row + 8*TM] @ Bs[top : top + 4*TN].T.

    Both tiles have `depth` columns. The compiler unrolls the inner loop, and loads fragments ahead in it.
    """
    M, N, A_WORDS, TOGETHER = piece.TM // 2, piece.TN // 2, 2 * piece.TM, min(depth, UNROLLED)
    load_a, mma = make_load_a(depth, 16 * M), MMA[dtype]

    @device
    def multiply_abt_mma(s, As, Bs, row, top):
        a, b = cuda.local.array(A_WORDS, uint32), cuda.local.array(4, uint32)
        r, c = right_then_down(lane())
        for left in range(0, depth, TOGETHER):
            for x in range(left, left + TOGETHER, 16):
                load_a(a, 0, As, row, x)
                for n in range(0, N, 2):
                    ldmatrix_x4(b, 0, Bs, (top + 8 * n + r, swizzled(r, x + c, depth)))
                    for m in range(M):
                        mma(s, m * N + n, a, m, b, 0)
                        mma(s, m * N + n + 1, a, m, b, 1)

    return multiply_abt_mma


@cache
def make_multiply_ab_mma(dtype: str, piece: Fragments, depth: int, columns: int):
    """Make multiply_ab_mma(acc, a, Bs, top, col): acc += A @ Bs[top : top + depth, col : col + 4*TN].

    A is in fragments by `make_round`; Bs has so many columns.
    """
    M, N, DEEP = piece.TM // 2, piece.TN // 2, depth // 16
    mma = MMA[dtype]

    @device
    def multiply_ab_mma(acc, a, Bs, top, col):
        b = cuda.local.array(4, uint32)
        r, c = down_then_right(lane())
        for x in range(DEEP):
            for n in range(0, N, 2):
                ldmatrix_x4_trans(b, 0, Bs, (top + 16 * x + r, swizzled(r, col + 8 * n + c, columns)))
                for m in range(M):
                    mma(acc, m * N + n, a, m * DEEP + x, b, 0)
                    mma(acc, m * N + n + 1, a, m * DEEP + x, b, 1)

    return multiply_ab_mma


@cache
def make_multiply_tiles_mma(dtype: str, piece: Fragments, depth: int, A_columns: int, B_columns: int, transposed: bool):
    """Make multiply_tiles_mma(acc, As, Bs, row, left, top, col): acc += A @ Bs[top : top + depth, col : col + 4*TN].

    A is As[row : row + 8*TM, left : left + depth], or where As lies `transposed`, that of its transpose.
    """
    M, N, A_WORDS = piece.TM // 2, piece.TN // 2, 2 * piece.TM
    load_a, load_at, mma = make_load_a(A_columns, 16 * M), make_load_at(A_columns, 16 * M), MMA[dtype]

    @device
    def multiply_tiles_mma(acc, As, Bs, row, left, top, col):
        a, b = cuda.local.array(A_WORDS, uint32), cuda.local.array(4, uint32)
        r, c = down_then_right(lane())
        for x in range(0, depth, 16):
            if transposed:
                load_at(a, As, left + x, row)
            else:
                load_a(a, 0, As, row, left + x)
            for n in range(0, N, 2):
                ldmatrix_x4_trans(b, 0, Bs, (top + x + r, swizzled(r, col + 8 * n + c, B_columns)))
                for m in range(M):
                    mma(acc, m * N + n, a, m, b, 0)
                    mma(acc, m * N + n + 1, a, m, b, 1)

    return multiply_tiles_mma


@cache
def make_round(dtype: str, piece: AnyPiece):
    """Make round_to(a, s): accumulator fragments in 16 bits, as fragments of A for the next product.

    Two neighbouring accumulators of 16 x 8 hold what one A of 16 x 16 holds, lane by lane.
    """
    WORDS = piece.size // 2
    pair = PAIR[dtype]

    @device
    def round_to(a, s):
        for n in range(WORDS):
            a[n] = pair(s[2 * n], s[2 * n + 1])

    return round_to


@cache
def make_store_words(WM: int, WN: int, columns: int):
    """Make store_words(tile, a, row, col): fragments by `make_round` to tile[row : row + WM, col : col + WN].

    The tile has so many columns of 16 bits, two to a word.
    """
    DEEP = WN // 16

    @device
    def store_words(tile, a, row, col):
        r, c = accumulator_place(lane(), 0)
        for m in range(WM // 16):
            for n in range(4 * DEEP):
                down, right = 16 * m + n % 2 * 8, n // 2 * 8
                tile[uint64(row + down + r), uint64(swizzled(r, col + right + c, columns) // 2)] = a[4 * DEEP * m + n]

    return store_words


@cache
def make_place_of_sums(threads: int, adds: Adds, others: int = 0):
    """Make place_of_sums(n): where in a block's part of a sum over blocks lies number n of this thread.

    The numbers that a warp adds at once are neighbours, in an order of their own that `passes.collect` undoes. So many
    `threads` add, behind `others` that do not.
    """

    @device
    def four_by_four(n):
        return 4 * (n // 4 * threads + thread() - others) + n % 4

    @device
    def one_by_one(n):
        return n * threads + thread() - others

    return four_by_four if adds == "vectors" else one_by_one


@cache
def make_add_sums(count: int, threads: int, adds: Adds, others: int = 0):
    """Make add_sums(X, first, acc): add `count` float32 of a thread to the sums of its block in global memory.

    They are its numbers `first`, a multiple of 4, and on. `threads`, `others` as in `make_place_of_sums`.
    """
    place = make_place_of_sums(threads, adds, others)
    VECTORS = adds == "vectors"

    @device
    def add_sums(X, first, acc):
        for n in range(0, count, 4):
            if VECTORS:
                add4(X, place(first + n), (acc[n], acc[n + 1], acc[n + 2], acc[n + 3]))
            else:
                for k in range(4):
                    add(X, place(first + n + k), acc[n + k])

    return add_sums


@cache
def make_write2(dtype: str, vector: bool):
    """Make write2(view, at, count, x, y): write the first `count` of two float32 to neighbouring elements."""
    pair: Any = PAIR.get(dtype)

    @device
    def write2_words(view, at, count, x, y):
        if count > 0:
            word = pair(x, y)
            store2(view, at, (word & 0xFFFF, word >> 16))

    @device
    def write2_vector(view, at, count, x, y):
        if count > 0:
            store2(view, at, (x, y))

    @device
    def write2_halves(view, at, count, x, y):
        word = pair(x, y)
        store_if(view, at, uint16(word & 0xFFFF), count > 0)
        store_if(view, at + 1, uint16(word >> 16), count > 1)

    @device
    def write2_elements(view, at, count, x, y):
        store_if(view, at, x, count > 0)
        store_if(view, at + 1, y, count > 1)

    if not vector:
        return write2_halves if pair else write2_elements
    return write2_words if pair else write2_vector


@cache
def make_write_chunks(dtype: str, piece: Fragments, columns: int):
    """Make write_chunks(X, row_stride, acc, tile, top, row0, col0, N, width): X[row0.., col0..] of X[:N, :width] = acc.

    A lane has four bytes of a row. They meet in rows top.. of a shared tile, this warp's own, and go on 16 at a time.
    X and the tile are views in words of two numbers; the tile has so many columns of numbers. Arguments count numbers,
    too: whole chunks, where they count columns.
    """
    WM, WN, WORDS = 8 * piece.TM, 4 * piece.TN, piece.size // 2
    ACROSS = WN // CHUNK
    round_to, store_words = make_round(dtype, piece), make_store_words(WM, WN, columns)

    @device
    def write_chunks(X, row_stride, acc, tile, top, row0, col0, N, width):
        words = cuda.local.array(WORDS, uint32)
        round_to(words, acc)
        store_words(tile, words, top, 0)
        cuda.syncwarp()  # the rows are written before other lanes read them
        for first in range(0, WM * ACROSS, LANES):
            n = first + lane()
            r, c = n // ACROSS, n % ACROSS * CHUNK
            row, col = row0 + r, col0 + c
            if row < N and col < width:
                chunk = load4(tile, (uint64(top + r), uint64(swizzled(r, c, columns) // 2)))
                store4(X, (row * row_stride + col) // 2, chunk)

    return write_chunks


@cache
def make_write_fragments(dtype: str, WM: int, WN: int, vector: bool):
    """Make write_fragments(X, row_stride, acc, row0, col0, N, width): X[row0.., col0..] of X[:N, :width] = acc."""
    N_FRAGMENTS = WN // 8
    write2 = make_write2(dtype, vector)

    @device
    def write_fragments(X, row_stride, acc, row0, col0, N, width):
        for m in range(WM // 16):
            for half in range(2):
                r, c = accumulator_place(lane(), 2 * half)
                row = row0 + 16 * m + r
                for n in range(N_FRAGMENTS):
                    x, col = 4 * (m * N_FRAGMENTS + n) + 2 * half, col0 + 8 * n + c
                    count = width - col if row < N else 0
                    write2(X, row * row_stride + col, count, acc[x], acc[x + 1])

    return write_fragments
