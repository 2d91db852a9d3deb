"""Matrix product in shared tiles.        New here: a block shares what its threads would each read again.

Paper      Kirk & Hwu, Programming Massively Parallel Processors, chapter 5
Grid       (cdiv(M, T) * cdiv(N, T) * B,)     Threads T*T: thread (r, c) owns C[r, c] of its tile
Shapes     A (B, M, K), B (B, K, N), any strides -> C (B, M, N)
On chip    | As T x T | Bs T x T |   shared, in float32 (float64), T = 32
Invariant  after step t: acc = sum of A[row, x] B[x, col] over x < (t + 1)*T
Units      those of the inputs; 16-bit inputs accumulate in float32
Edges      beyond M, N, K the tiles hold zeros; only existing elements are written
Traffic    reads A cdiv(N, T) times and B cdiv(M, T) times: T times less than matmul_naive; writes C once;
           from shared memory two numbers for every multiplication
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.ptx import global_view
from numba_flash.tiling import cdiv


@cache
def make_matmul_tiled(dtype: str, out_dtype: str, T: int):
    """The kernel for one input dtype, one output dtype and one tile size."""
    n = number(dtype)
    STORED, REAL, ZERO, to_real = n.stored, n.real, n.zero, n.to_real
    OUT, to_out = number(out_dtype).stored, number(out_dtype).to_stored

    def matmul_tiled(A, A_strides, B, B_strides, C, M, N, K):
        As, Bs = cuda.shared.array((T, T), REAL), cuda.shared.array((T, T), REAL)
        r, c = cuda.threadIdx.x // T, cuda.threadIdx.x % T
        tiles_m, tiles_n = cdiv(M, T), cdiv(N, T)
        b, tile = cuda.blockIdx.x // (tiles_m * tiles_n), cuda.blockIdx.x % (tiles_m * tiles_n)
        row, col = tile // tiles_n * T + r, tile % tiles_n * T + c
        a_row = global_view(A, b * A_strides[0] + row * A_strides[1], STORED)
        b_col = global_view(B, b * B_strides[0] + col * B_strides[2], STORED)
        acc = ZERO
        for t in range(cdiv(K, T)):
            x = t * T
            As[r, c] = to_real(a_row[(x + c) * A_strides[2]]) if row < M and x + c < K else ZERO
            Bs[r, c] = to_real(b_col[(x + r) * B_strides[1]]) if x + r < K and col < N else ZERO
            cuda.syncthreads()  # As, Bs are written before anyone reads them
            for x in range(T):
                acc += As[r, x] * Bs[x, c]
            cuda.syncthreads()  # everyone has read As, Bs before they change
        if row < M and col < N:
            global_view(C, (b * M + row) * N, OUT)[col] = to_out(acc)

    return matmul_tiled
