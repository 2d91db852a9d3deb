"""Matrix product on tensor cores.        New here: a warp multiplies 16 x 16 by 16 x 8 in one instruction.

Paper      PTX ISA, mma.sync and ldmatrix; the pipeline of CUTLASS's Ampere kernels. In NumPy: `algorithms.matmul_tiled`
Grid       (cdiv(M, BM) * cdiv(N, BN) * B,)     Threads 32 a warp: a warp owns WM x WN of the block's tile of C
Shapes     A (B, M, K), B (B, K, N), 16 bits, any strides -> C (B, M, N)
On chip    | As stages x BM x BK | Bs stages x BK x BN |   shared, in 16 bits, rows swizzled
           acc WM x WN float32 of a warp in registers, and two slices of A and B by turns, in fragments, 16 deep
Invariant  after step t: acc = sum of A[row, x] B[x, col] over x < (t + 1)*BK; later pairs are in flight
Units      those of the inputs; sums in float32, in the order of the hardware
Edges      beyond M, N, K the tiles hold zeros; only existing elements are written
Traffic    reads A cdiv(N, BN) times and B cdiv(M, BM) times; a warp reads WM + WN shared numbers for WM*WN products
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, uint16, uint32

from numba_flash import ptx
from numba_flash.config import LANES, Fragments, Loads, MmaTiles, Stores
from numba_flash.device.fragments import make_slices, make_write_chunks, make_write_fragments
from numba_flash.device.number import number
from numba_flash.device.swizzled import make_load_swizzled
from numba_flash.device.tiles import fill, make_pipeline
from numba_flash.ptx import global_view, shared_tile
from numba_flash.tiling import cdiv, grouped


@cache
def make_matmul_mma(tiles: MmaTiles, dtype: str, out_dtype: str, loads: Loads, stores: Stores):
    """The kernel for one set of tile sizes, input dtype, output dtype and kinds of loads and stores."""
    BM, BN, BK, WM, WN, STAGES, GROUP = tiles.BM, tiles.BN, tiles.BK, tiles.WM, tiles.WN, tiles.stages, tiles.group
    LAST, PENDING, SLICES, WARPS = STAGES - 1, STAGES - 2, BK // 16, tiles.threads // LANES
    CHUNKS = stores == "chunks"
    SUMS, A_WORDS, B_WORDS, ACROSS = WM * WN // LANES, WM // 2, WN // 2, BN // WN
    A_SHAPE, B_SHAPE, C_WORDS = (STAGES * BM, BK), (STAGES * BK, BN), (WARPS * WM, WN // 2)
    B_AT = 2 * STAGES * BM * BK
    ZERO, STORED_OUT = number(dtype).zero, number(out_dtype).stored
    load_a = make_load_swizzled(BM, BK, tiles.threads, loads)
    load_b = make_load_swizzled(BK, BN, tiles.threads, loads)
    commit, wait = make_pipeline(loads)
    load_slice, multiply_slice = make_slices(dtype, WM, WN, BK, BN)
    if CHUNKS:
        write_c = make_write_chunks(out_dtype, Fragments(8 * BM // WM, WM // 8, WN // 4), WN)
    else:
        write_c = make_write_fragments(out_dtype, WM, WN, stores == "pairs")

    @ptx.device
    def fetch(As, Bs, stage, A, A_strides, B, B_strides, row0, col0, x, M, N, K):
        if x < K:
            load_a(As, stage * BM, A, A_strides, row0, x, M, K)
            load_b(Bs, stage * BK, B, B_strides, x, col0, K, N)
        commit()

    def matmul_mma(A, A_strides, B, B_strides, C, M, N, K):
        As, Bs = shared_tile(0, A_SHAPE, uint16), shared_tile(B_AT, B_SHAPE, uint16)
        tiles_m, tiles_n = cdiv(M, BM), cdiv(N, BN)
        batch, tile = cuda.blockIdx.x // (tiles_m * tiles_n), cuda.blockIdx.x % (tiles_m * tiles_n)
        i, j = grouped(tile, tiles_m, tiles_n, GROUP)
        row0, col0 = i * BM, j * BN
        warp = cuda.threadIdx.x >> 5
        row, col = warp // ACROSS * WM, warp % ACROSS * WN
        acc = cuda.local.array(SUMS, float32)
        a, b = cuda.local.array(A_WORDS, uint32), cuda.local.array(B_WORDS, uint32)
        fill(acc, SUMS, ZERO)
        A_rows, B_cols = global_view(A, batch * A_strides[0], uint16), global_view(B, batch * B_strides[0], uint16)
        for stage in range(STAGES):
            fetch(As, Bs, stage, A_rows, A_strides, B_cols, B_strides, row0, col0, stage * BK, M, N, K)
        wait(LAST)
        cuda.syncthreads()  # the first stage is written
        load_slice(a, b, 0, As, Bs, row, 0, col, 0)
        now = 0  # the stage that is multiplied
        for x in range(0, K, BK):
            for y in range(SLICES - 1):  # a slice is loaded while that before it is multiplied
                load_slice(a, b, (y + 1) % 2, As, Bs, now * BM + row, now * BK, col, 16 * y + 16)
                multiply_slice(acc, a, b, y % 2)
            following = 0 if now == LAST else now + 1
            wait(PENDING)
            cuda.syncthreads()  # stage `following` is written; everyone has read stage `now` before it changes
            load_slice(a, b, 0, As, Bs, following * BM + row, following * BK, col, 0)
            fetch(As, Bs, now, A_rows, A_strides, B_cols, B_strides, row0, col0, x + STAGES * BK, M, N, K)
            multiply_slice(acc, a, b, 1)
            now = following
        if CHUNKS:  # by way of shared rows, which each warp has of its own
            wait(0)
            cuda.syncthreads()  # everyone has read As and Bs, and nothing lands there any more
            words, C_words = shared_tile(0, C_WORDS, uint32), global_view(C, batch * M * N // 2, uint32)
            write_c(C_words, N, acc, words, warp * WM, row0 + row, col0 + col, M, N)
        else:
            write_c(global_view(C, batch * M * N, STORED_OUT), N, acc, row0 + row, col0 + col, M, N)

    return matmul_mma
