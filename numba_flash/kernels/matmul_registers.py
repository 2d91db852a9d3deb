"""Matrix product in register tiles.        New here: a thread owns TM x TN elements, so each loaded number works more.

Paper      the outer-product SGEMM of Volkov & Demmel 2008, doi:10.1109/SC.2008.5214359
Grid       (cdiv(M, BM) * cdiv(N, BN) * B,)     Threads RG * CG: rows rg + RG*r, columns 4*(cg + CG*h) + 0..3
Shapes     A (B, M, K), B (B, K, N), any strides -> C (B, M, N)
On chip    | As BM x BK | Bs BK x BN |   shared, in float32 (float64), rows padded by 16 bytes; acc TM x TN registers
Invariant  after step t: acc = sum of A[row, x] B[x, col] over x < (t + 1)*BK
Units      those of the inputs; 16-bit inputs accumulate in float32
Edges      beyond M, N, K the tiles hold zeros; only existing elements are written
Traffic    reads A N/BN times and B M/BM times; a step reads BM + BN shared numbers a thread column for TM*TN products
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from numba import cuda

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device, padded
from numba_flash.device.number import number
from numba_flash.device.products import ab_reads, make_multiply_ab
from numba_flash.device.tiles import fill, make_load_tile, make_write_rows
from numba_flash.kernels.arguments import grid_reasons
from numba_flash.problem import MatmulProblem
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


CONFIGS = {4: MatmulTiles(128, 128, 16, 8, 8), 8: MatmulTiles(64, 64, 16, 4, 4)}  # by bytes of arithmetic


def why_not(problem: MatmulProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return grid_reasons(grid(problem, tiles_of(problem)))


def tiles_of(problem: MatmulProblem) -> MatmulTiles:
    """The tile sizes for a problem."""
    return CONFIGS[8 if problem.dtype == "float64" else 4]


def grid(problem: MatmulProblem, t: MatmulTiles) -> int:
    """How many blocks the product takes."""
    return cdiv(problem.M, t.BM) * cdiv(problem.N, t.BN) * problem.B


@cache
def make_matmul_registers(tiles: MatmulTiles, dtype: str, out_dtype: str, vector: bool) -> Kernel:
    """The kernel for one set of tile sizes, input dtype, output dtype and kind of loads."""
    BM, BN, BK, TM, TN, THREADS = tiles.BM, tiles.BN, tiles.BK, tiles.TM, tiles.TN, tiles.threads
    RG, CG, OUT = BM // TM, BN // TN, TM * TN
    n = number(dtype)
    STORED, REAL, ZERO = n.stored, n.real, n.zero
    STORED_OUT = number(out_dtype).stored
    WIDTH = REAL.bitwidth // 8
    A_SHAPE, B_SHAPE = (BM, padded(BK, WIDTH)), (BK, padded(BN, WIDTH))
    B_AT = BM * A_SHAPE[1] * WIDTH
    load_a, load_b = (make_load_tile(dtype, rows, cols, THREADS, vector) for rows, cols in ((BM, BK), (BK, BN)))
    multiply = make_multiply_ab(RG, CG, TM, TN, BK, REAL)
    write_c = make_write_rows(RG, CG, TM, TN, out_dtype, vector)

    def matmul_registers(A, A_strides, B, B_strides, C, M, N, K):
        As, Bs = shared_tile(0, A_SHAPE, REAL), shared_tile(B_AT, B_SHAPE, REAL)
        rg, cg = cuda.threadIdx.x // CG, cuda.threadIdx.x % CG
        tiles_m, tiles_n = cdiv(M, BM), cdiv(N, BN)
        b, tile = cuda.blockIdx.x // (tiles_m * tiles_n), cuda.blockIdx.x % (tiles_m * tiles_n)
        row0, col0 = tile // tiles_n * BM, tile % tiles_n * BN
        acc = cuda.local.array(OUT, REAL)
        fill(acc, OUT, ZERO)
        for x in range(0, K, BK):
            a_tile = global_view(A, b * A_strides[0] + x * A_strides[3], STORED)
            b_tile = global_view(B, b * B_strides[0] + col0 * B_strides[3], STORED)
            cuda.syncthreads()  # everyone has read As, Bs before they change
            load_a(As, a_tile, A_strides, row0, M, K - x)
            load_b(Bs, b_tile, B_strides, x, K, N - col0)
            cuda.syncthreads()  # As, Bs are written before anyone reads them
            multiply(acc, As, Bs, rg, cg)
        write_c(global_view(C, b * M * N + col0, STORED_OUT), N, acc, rg, cg, row0, M, N - col0)

    return Kernel(matmul_registers, THREADS, (BM * A_SHAPE[1] + BK * B_SHAPE[1]) * WIDTH)


def launches(problem: MatmulProblem, device: Device, x: Sequence[Array], c: Array) -> list[Launch]:
    """The launch that writes c (B, M, N), contiguous; x holds a and b."""
    a, b = x
    tiles = tiles_of(problem)
    kernel = make_matmul_registers(tiles, problem.dtype, problem.out_dtype, problem.vector)
    strides = [(x.strides[0], 0, *x.strides[1:]) for x in (a, b)]
    args = (a, strides[0], b, strides[1], Written(c), problem.M, problem.N, problem.K)
    return [Launch(kernel, grid(problem, tiles), args)]


def traffic(problem: MatmulProblem, device: Device) -> Traffic:
    """What all threads move. Tiles are read whole: beyond M, N and K, element 0 in place of the missing ones."""
    t = tiles_of(problem)
    real = 8 if problem.dtype == "float64" else 4
    steps = grid(problem, t) * cdiv(problem.K, t.BK)
    tiles = steps * (t.BM + t.BN) * t.BK
    return Traffic(
        global_read=tiles * ITEMSIZE[problem.dtype],
        global_written=problem.B * problem.M * problem.N * ITEMSIZE[problem.out_dtype],
        shared_read=steps * t.threads * ab_reads(t.TM, t.TN, t.BK) * real,
        shared_written=tiles * real,
    )
