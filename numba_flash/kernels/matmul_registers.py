"""Matrix product in register tiles.        New here: a thread owns TM x TN elements, so each loaded number works more.

Paper      the outer-product SGEMM of Volkov & Demmel 2008, doi:10.1109/SC.2008.5214359
Grid       (cdiv(M, BM) * cdiv(N, BN) * B,)     Threads RG * CG: thread (rg, cg) owns a `Piece` of C
Shapes     A (B, M, K), B (B, K, N), any strides -> C (B, M, N)
On chip    | As BK x BM | Bs BK x BN | next As | next Bs |   shared, in float32 (float64), rows padded by 16 bytes
           acc TM x TN registers; As lies transposed, so that the product is a sum of outer products
Invariant  after step t: acc = sum of A[row, x] B[x, col] over x < (t + 1)*BK
Units      those of the inputs; 16-bit inputs accumulate in float32
Edges      beyond M, N, K the tiles hold zeros; only existing elements are written
Traffic    reads A N/BN times and B M/BM times; a step reads BM + BN shared numbers a thread column for TM*TN products
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import cuda

from numba_flash import ptx
from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device, padded
from numba_flash.device.number import number
from numba_flash.device.products import Piece, make_multiply_atb, make_place
from numba_flash.device.tiles import Loads, fill, make_load_tile, make_load_transposed, make_pipeline, make_write_rows
from numba_flash.kernels.arguments import grid_reasons, kind_of_loads
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.ptx import global_view, shared_tile
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic


@dataclass(frozen=True)
class MatmulTiles:
    """A block's BM x BN tile of C, BK deep at a time; a thread owns TM x TN of it."""

    BM: int
    BN: int
    BK: int
    TM: int
    TN: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.BM // self.TM * (self.BN // self.TN)


# By bytes of arithmetic, and whether elements are moved four at a time: one at a time needs registers for addresses.
CONFIGS = {
    (4, True): MatmulTiles(128, 256, 16, 8, 16),
    (4, False): MatmulTiles(128, 128, 16, 8, 8),
    (8, True): MatmulTiles(128, 128, 8, 8, 8),
    (8, False): MatmulTiles(128, 64, 16, 8, 4),
}


def piece_of(t: MatmulTiles) -> Piece:
    """A thread's piece of C."""
    return Piece(t.BM // t.TM, t.BN // t.TN, t.TM, t.TN, U=4, V=4)


def why_not(problem: MatmulProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return grid_reasons(grid(problem, tiles_of(problem)))


def tiles_of(problem: MatmulProblem) -> MatmulTiles:
    """The tile sizes for a problem."""
    return CONFIGS[8 if problem.dtype == "float64" else 4, problem.vector]


def grid(problem: MatmulProblem, t: MatmulTiles) -> int:
    """How many blocks the product takes."""
    return cdiv(problem.M, t.BM) * cdiv(problem.N, t.BN) * problem.B


@cache
def make_matmul_registers(tiles: MatmulTiles, dtype: str, out_dtype: str, loads: Loads) -> Kernel:
    """The kernel for one set of tile sizes, input dtype, output dtype and kind of loads."""
    BM, BN, BK, THREADS = tiles.BM, tiles.BN, tiles.BK, tiles.threads
    piece = piece_of(tiles)
    OUT = piece.size
    n = number(dtype)
    STORED, REAL, ZERO = n.stored, n.real, n.zero
    STORED_OUT = number(out_dtype).stored
    WIDTH = REAL.bitwidth // 8
    A_SHAPE, B_SHAPE = (BK, padded(BM, WIDTH)), (BK, padded(BN, WIDTH))
    B_AT = BK * A_SHAPE[1] * WIDTH
    NEXT = B_AT + BK * B_SHAPE[1] * WIDTH
    NEXT_B = NEXT + B_AT
    load_a, load_b = make_load_transposed(dtype, BM, BK, THREADS, loads), make_load_tile(dtype, BK, BN, THREADS, loads)
    commit, wait = make_pipeline(loads)
    place, multiply = make_place(piece.CG), make_multiply_atb(piece, BK, REAL, downwards=True)
    write_c = make_write_rows(piece, out_dtype, loads != "elements")

    @ptx.device
    def fetch(As, Bs, A, A_strides, B, B_strides, row0, col0, x, M, N, K):
        load_a(As, A, A_strides, row0, x, M, K)
        load_b(Bs, B, B_strides, x, col0, K, N)
        commit()

    def matmul_registers(A, A_strides, B, B_strides, C, M, N, K, one):
        As, Bs = shared_tile(0, A_SHAPE, REAL), shared_tile(B_AT, B_SHAPE, REAL)
        next_As, next_Bs = shared_tile(NEXT, A_SHAPE, REAL), shared_tile(NEXT_B, B_SHAPE, REAL)
        rg, cg = place()
        tiles_m, tiles_n = cdiv(M, BM), cdiv(N, BN)
        b, tile = cuda.blockIdx.x // (tiles_m * tiles_n), cuda.blockIdx.x % (tiles_m * tiles_n)
        row0, col0 = tile // tiles_n * BM, tile % tiles_n * BN
        acc = cuda.local.array(OUT, REAL)
        fill(acc, OUT, ZERO)
        A_rows, B_cols = global_view(A, b * A_strides[0], STORED), global_view(B, b * B_strides[0], STORED)
        if K > 0:
            fetch(As, Bs, A_rows, A_strides, B_cols, B_strides, row0, col0, 0, M, N, K)
        for x in range(0, K, 2 * BK):  # two pairs of tiles take turns: one is multiplied while the other is fetched
            wait(0)
            cuda.syncthreads()  # As, Bs are written; everyone has read next_As, next_Bs before they change
            fetch(next_As, next_Bs, A_rows, A_strides, B_cols, B_strides, row0, col0, x + BK, M, N, K)
            multiply(acc, As, Bs, rg, cg)
            wait(0)
            cuda.syncthreads()  # next_As, next_Bs are written; everyone has read As, Bs before they change
            fetch(As, Bs, A_rows, A_strides, B_cols, B_strides, row0, col0, x + 2 * BK, M, N, K)
            multiply(acc, next_As, next_Bs, rg, cg)
        write_c(global_view(C, b * M * N + col0, STORED_OUT), N, acc, one, rg, cg, row0, M, N - col0)

    return Kernel(matmul_registers, THREADS, 2 * NEXT)


def launches(problem: MatmulProblem, device: Device, x: Sequence[Array], c: Array) -> list[Launch]:
    """The launch that writes c (B, M, N), contiguous; x holds a and b."""
    a, b = x
    tiles = tiles_of(problem)
    kernel = make_matmul_registers(tiles, problem.dtype, problem.out_dtype, kind_of_loads(problem, device))
    strides = [(x.strides[0], 0, *x.strides[1:]) for x in (a, b)]
    one = np.dtype(problem.real).type(1)
    args = (a, strides[0], b, strides[1], Written(c), problem.M, problem.N, problem.K, one)
    return [Launch(kernel, grid(problem, tiles), args)]


def traffic(problem: MatmulProblem, device: Device) -> Traffic:
    """What all threads move where M, N and K are multiples of the tiles."""
    t = tiles_of(problem)
    real = 8 if problem.dtype == "float64" else 4
    blocks, steps = grid(problem, t), 2 * cdiv(problem.K, 2 * t.BK)
    tiles = (t.BM + t.BN) * t.BK
    read = cdiv(problem.K, t.BK) if kind_of_loads(problem, device) == "copies" else steps + 1  # copies stop at K
    return Traffic(
        global_read=blocks * read * tiles * ITEMSIZE[problem.dtype],
        global_written=problem.B * problem.M * problem.N * ITEMSIZE[problem.out_dtype],
        shared_read=blocks * steps * t.threads * piece_of(t).reads(t.BK) * real,
        shared_written=blocks * (steps + 1) * tiles * real,
    )
