"""softmax_safe as the host sees it. The kernel is in numba_flash/kernels/softmax_safe.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device
from numba_flash.rungs.arguments import grid_reasons
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.softmax_problem import SoftmaxProblem
from numba_flash.traffic import Traffic

CONFIGS = [256]  # T, a power of 2


def why_not(problem: SoftmaxProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return grid_reasons(problem.rows)


def traffic(problem: SoftmaxProblem, device: Device) -> Traffic:
    """Three passes over X, one over Y, and two trees of T - 1 sums, each of which reads two numbers and writes one."""
    (T,) = CONFIGS
    row, real = problem.N * ITEMSIZE[problem.dtype], ITEMSIZE[problem.real]
    trees = Traffic(shared_read=2 * (3 * T - 2) * real, shared_written=2 * (2 * T - 1) * real)
    return (Traffic(global_read=3 * row, global_written=row) + trees) * problem.rows


def launches(problem: SoftmaxProblem, device: Device, x: Array, y: Array) -> list[Launch]:
    """The launch that writes y (B, M, N), contiguous; x is (B, M, N)."""
    (T,) = CONFIGS
    kernel = Kernel("softmax_safe", (problem.dtype, T), T)
    return [Launch(kernel, problem.rows, (x, x.strides, Written(y), problem.M, problem.N))]
