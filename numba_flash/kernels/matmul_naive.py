"""Matrix product from global memory.        New here: a thread for every element, and nothing shared between them.

Paper      Kirk & Hwu, Programming Massively Parallel Processors, chapter 3
Grid       (cdiv(B*M*N, T),)     Threads T = 256: thread t of block i owns element i*T + t of C
Shapes     A (B, M, K), B (B, K, N), any strides -> C (B, M, N)
On chip    acc, one register; no shared memory
Invariant  after step x: acc = sum of A[row, 0..x] B[0..x, col]
Units      those of the inputs; 16-bit inputs accumulate in float32
Edges      the last block's threads beyond C do nothing; K = 0 gives zeros
Traffic    reads A N times and B M times: two numbers from global memory for every multiplication; writes C once
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.ptx import global_view


@cache
def make_matmul_naive(dtype: str, out_dtype: str, T: int):
    """The kernel for one input dtype, one output dtype and one number of threads."""
    n = number(dtype)
    STORED, ZERO, to_real = n.stored, n.zero, n.to_real
    OUT, to_out = number(out_dtype).stored, number(out_dtype).to_stored

    def matmul_naive(A, A_strides, B, B_strides, C, M, N, K, count):
        index = cuda.blockIdx.x * T + cuda.threadIdx.x
        if index < count:
            b, row, col = index // (M * N), index // N % M, index % N
            a_row = global_view(A, b * A_strides[0] + row * A_strides[1], STORED)
            b_col = global_view(B, b * B_strides[0] + col * B_strides[2], STORED)
            acc = ZERO
            for x in range(K):
                acc += to_real(a_row[x * A_strides[2]]) * to_real(b_col[x * B_strides[1]])
            global_view(C, 0, OUT)[index] = to_out(acc)

    return matmul_naive
