"""collect as the host sees it. The kernel is in numba_flash/kernels/passes/collect.py."""

from __future__ import annotations

import math

import numpy as np

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Adds, GradientTiles
from numba_flash.problem import AttentionProblem
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import round_up
from numba_flash.traffic import Traffic


def sum_shape(problem: AttentionProblem, t: GradientTiles) -> tuple[int, ...]:
    """Of the sum of dQ: rows of whole tiles."""
    return (problem.B, problem.Hq, round_up(problem.Nq, t.Br), t.D)


def launches(problem: AttentionProblem, t: GradientTiles, adds: Adds, dq_sum: Array, dq: Array) -> list[Launch]:
    """The launch that writes dq, from dq_sum of `sum_shape`."""
    kernel = Kernel("passes.collect", (t, problem.dtype, problem.d % 2 == 0, adds), t.threads)
    grid = math.prod(dq_sum.shape[:-1]) // t.Br
    return [Launch(kernel, grid, (dq_sum, Written(dq), problem.Nq, problem.d, np.float32(problem.scale)))]


def traffic(problem: AttentionProblem, t: GradientTiles) -> Traffic:
    """What all threads move."""
    written = problem.B * problem.Hq * problem.Nq * problem.d * ITEMSIZE[problem.dtype]
    return Traffic(
        global_read=math.prod(sum_shape(problem, t)) * ITEMSIZE[problem.real],
        global_written=written,
    )
