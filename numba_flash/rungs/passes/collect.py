"""collect as the host sees it. The kernel is in numba_flash/kernels/passes/collect.py."""

from __future__ import annotations

import math

import numpy as np

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import LANES, Adds, GradientTiles, WarpgroupGradientTiles
from numba_flash.problem import AttentionProblem
from numba_flash.rungs.arguments import kind_of_stores
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, round_up
from numba_flash.traffic import Traffic

# For any device, so that its gradients have the same bits: `count_splits`.
MULTIPROCESSORS = 132  # of an H100
MOST_BLOCKS = 8 * MULTIPROCESSORS  # of a launch
SCRATCH = 2**31  # bytes of all sums of dQ


def count_splits(problem: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles) -> int:
    """How many key blocks of a head one launch takes where dQ must be the same bits every time.

    Each adds to a sum of its own. To clear and to collect one takes about half as long as a key block does. The number
    follows from the problem and its tiles alone, since another one would change bits.
    """
    heads, Tc = problem.B * problem.Hk, cdiv(problem.Nk, t.Bc)
    sums = problem.B * problem.Hq * round_up(problem.Nq, t.Br) * t.D * ITEMSIZE[problem.real]  # bytes
    most = min(Tc, cdiv(MOST_BLOCKS, max(heads, 1)), SCRATCH // max(sums, 1))

    def key_blocks_of_time(splits: int) -> float:
        return cdiv(splits * heads, MULTIPROCESSORS) * cdiv(Tc, splits) + splits * heads / MULTIPROCESSORS / 2

    return min(range(1, max(most, 1) + 1), key=key_blocks_of_time)


def launches(
    problem: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles, adds: Adds, dq_sums: Array, dq: Array
) -> list[Launch]:
    """The launch that writes dq, from dq_sums (splits, B, Hq, Mq, D): whole tiles of rows."""
    stores = kind_of_stores(problem.d)
    staged = t.adders // LANES * t.dq_rows * t.dq_step * ITEMSIZE[problem.dtype] if stores == "chunks" else 0
    kernel = Kernel("passes.collect", (t, problem.dtype, stores, adds), t.adders, staged)
    splits, *rows, _ = dq_sums.shape
    sizes = (problem.Nq, problem.d, splits, math.prod(dq_sums.shape[1:]))
    return [Launch(kernel, math.prod(rows) // t.Br, (dq_sums, Written(dq), *sizes, np.float32(problem.scale)))]


def traffic(problem: AttentionProblem, Mq: int, D: int, splits: int) -> Traffic:
    """What all threads move for so many sums of Mq rows of a head and D columns."""
    heads, staged = problem.B * problem.Hq, kind_of_stores(problem.d) == "chunks"
    return Traffic(
        shared_read=staged * heads * problem.Nq * problem.d * ITEMSIZE[problem.dtype],
        shared_written=staged * heads * Mq * D * ITEMSIZE[problem.dtype],
        global_read=splits * heads * Mq * D * ITEMSIZE[problem.real],
        global_written=heads * problem.Nq * problem.d * ITEMSIZE[problem.dtype],
    )
