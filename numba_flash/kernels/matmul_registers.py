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

from functools import cache

from numba import cuda

from numba_flash import ptx
from numba_flash.config import Loads, MatmulTiles, padded
from numba_flash.device.number import number
from numba_flash.device.products import make_multiply_atb, make_place
from numba_flash.device.tiles import fill, make_load_tile, make_load_transposed, make_pipeline, make_write_rows
from numba_flash.ptx import global_view, shared_tile
from numba_flash.rungs.matmul_registers import piece_of
from numba_flash.tiling import cdiv


@cache
def make_matmul_registers(tiles: MatmulTiles, dtype: str, out_dtype: str, loads: Loads):
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

    return matmul_registers
