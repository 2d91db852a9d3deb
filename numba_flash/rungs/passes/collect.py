"""collect as the host sees it. The kernel is in numba_flash/kernels/passes/collect.py."""

from __future__ import annotations

import math

import numpy as np

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import LANES, Adds, GradientTiles, WarpgroupGradientTiles
from numba_flash.problem import AttentionProblem
from numba_flash.rungs.arguments import kind_of_stores
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.traffic import Traffic


def launches(
    problem: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles, adds: Adds, dq_sums: Array, dq: Array
) -> list[Launch]:
    """The launch that writes dq, from dq_sums (B, Hq, Mq, D): whole tiles of rows."""
    stores = kind_of_stores(problem.d)
    staged = t.adders // LANES * t.dq_rows * t.dq_step * ITEMSIZE[problem.dtype] if stores == "chunks" else 0
    kernel = Kernel("passes.collect", (t, problem.dtype, stores, adds), t.adders, staged)
    arguments = (dq_sums, Written(dq), problem.Nq, problem.d, np.float32(problem.scale))
    return [Launch(kernel, math.prod(dq_sums.shape[:-1]) // t.Br, arguments)]


def traffic(problem: AttentionProblem, Mq: int, D: int) -> Traffic:
    """What all threads move for sums of Mq rows of a head and D columns."""
    heads, staged = problem.B * problem.Hq, kind_of_stores(problem.d) == "chunks"
    return Traffic(
        shared_read=staged * heads * problem.Nq * problem.d * ITEMSIZE[problem.dtype],
        shared_written=staged * heads * Mq * D * ITEMSIZE[problem.dtype],
        global_read=heads * Mq * D * ITEMSIZE[problem.real],
        global_written=heads * problem.Nq * problem.d * ITEMSIZE[problem.dtype],
    )
