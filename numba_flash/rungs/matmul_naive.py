"""matmul_naive as the host sees it. The kernel is in numba_flash/kernels/matmul_naive.py."""

from __future__ import annotations

from collections.abc import Sequence

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.rungs.arguments import grid_reasons
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


def launches(problem: MatmulProblem, device: Device, x: Sequence[Array], c: Array) -> list[Launch]:
    """The launch that writes c (B, M, N), contiguous; x holds a and b."""
    a, b = x
    (T,) = CONFIGS
    kernel = Kernel("matmul_naive", (problem.dtype, problem.out_dtype, T), T)
    M, N, K = problem.M, problem.N, problem.K
    args = (a, a.strides, b, b.strides, Written(c), M, N, K, problem.B * M * N)
    return [Launch(kernel, grid(problem), args)]
