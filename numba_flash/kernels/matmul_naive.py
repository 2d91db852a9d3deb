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

from collections.abc import Sequence
from functools import cache

from numba import cuda

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device
from numba_flash.device.number import number
from numba_flash.kernels.arguments import grid_reasons
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.ptx import global_view
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

CONFIGS = [256]  # T


def why_not(problem: MatmulProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return grid_reasons(grid(problem))


def grid(problem: MatmulProblem) -> int:
    """How many blocks the product takes."""
    (T,) = CONFIGS
    return cdiv(problem.B * problem.M * problem.N, T)


def traffic(problem: MatmulProblem, device: Device) -> Traffic:
    """A row of A and a column of B for every element of C."""
    elements = problem.B * problem.M * problem.N
    return Traffic(
        global_read=2 * elements * problem.K * ITEMSIZE[problem.dtype],
        global_written=elements * ITEMSIZE[problem.out_dtype],
    )


@cache
def make_matmul_naive(dtype: str, out_dtype: str, T: int) -> Kernel:
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

    return Kernel(matmul_naive, T)


def launches(problem: MatmulProblem, device: Device, x: Sequence[Array], c: Array) -> list[Launch]:
    """The launch that writes c (B, M, N), contiguous; x holds a and b."""
    a, b = x
    (T,) = CONFIGS
    kernel = make_matmul_naive(problem.dtype, problem.out_dtype, T)
    M, N, K = problem.M, problem.N, problem.K
    args = (a, a.strides, b, b.strides, Written(c), M, N, K, problem.B * M * N)
    return [Launch(kernel, grid(problem), args)]
