"""collect as the host sees it. The kernel is in numba_flash/kernels/passes/collect.py."""

from __future__ import annotations

import math

import numpy as np

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Adds, GradientTiles
from numba_flash.problem import AttentionProblem
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.traffic import Traffic


def launches(problem: AttentionProblem, t: GradientTiles, adds: Adds, dq_sums: Array, dq: Array) -> list[Launch]:
    """The launch that writes dq, from dq_sums (splits, B, Hq, Mq, D): whole tiles of rows."""
    kernel = Kernel("passes.collect", (t, problem.dtype, problem.d % 2 == 0, adds), t.threads)
    splits, *rows, _ = dq_sums.shape
    sizes = (problem.Nq, problem.d, splits, math.prod(dq_sums.shape[1:]))
    return [Launch(kernel, math.prod(rows) // t.Br, (dq_sums, Written(dq), *sizes, np.float32(problem.scale)))]


def traffic(problem: AttentionProblem, Mq: int, D: int, splits: int) -> Traffic:
    """What all threads move for so many sums of Mq rows of a head and D columns."""
    heads = problem.B * problem.Hq
    return Traffic(
        global_read=splits * heads * Mq * D * ITEMSIZE[problem.real],
        global_written=heads * problem.Nq * problem.d * ITEMSIZE[problem.dtype],
    )
