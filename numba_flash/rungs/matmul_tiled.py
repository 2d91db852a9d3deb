"""matmul_tiled as the host sees it. The kernel is in numba_flash/kernels/matmul_tiled.py."""

from __future__ import annotations

from collections.abc import Sequence

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.problem import real_of
from numba_flash.rungs.arguments import grid_reasons
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

CONFIGS = [32]  # T


def why_not(problem: MatmulProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return grid_reasons(grid(problem))


def grid(problem: MatmulProblem) -> int:
    """How many blocks the product takes."""
    (T,) = CONFIGS
    return cdiv(problem.M, T) * cdiv(problem.N, T) * problem.B


def traffic(problem: MatmulProblem, device: Device) -> Traffic:
    """What exists of A for every column of tiles, of B for every row of them; whole tiles in shared memory."""
    (T,) = CONFIGS
    M, N, K, real = problem.M, problem.N, problem.K, ITEMSIZE[real_of(problem.dtype)]
    loaded = problem.B * (M * K * cdiv(N, T) + K * N * cdiv(M, T))
    tiles = 2 * grid(problem) * cdiv(K, T)
    return Traffic(
        global_read=loaded * ITEMSIZE[problem.dtype],
        global_written=problem.B * M * N * ITEMSIZE[problem.out_dtype],
        shared_read=tiles * T**3 * real,
        shared_written=tiles * T**2 * real,
    )


def launches(problem: MatmulProblem, device: Device, x: Sequence[Array], c: Array) -> list[Launch]:
    """The launch that writes c (B, M, N), contiguous; x holds a and b."""
    a, b = x
    (T,) = CONFIGS
    kernel = Kernel("matmul_tiled", (problem.dtype, problem.out_dtype, T), T * T)
    return [Launch(kernel, grid(problem), (a, a.strides, b, b.strides, Written(c), problem.M, problem.N, problem.K))]
