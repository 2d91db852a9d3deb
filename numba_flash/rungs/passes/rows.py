"""rows as the host sees it. The kernel is in numba_flash/kernels/passes/rows.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import LANES
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import strides_of
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

ROWS = 4  # of a block


def launches(problem: AttentionProblem, x: Operands, pairs: Array, dq_sums: Array) -> list[Launch]:
    """The launch that writes pairs (B, Hq, Mq, 2) and sets dq_sums (splits, B, Hq, Mq, D) to zeros; all contiguous."""
    assert x.do is not None and x.o is not None and x.lse is not None
    _, Hq, Mq, _ = pairs.shape
    count, vectors = problem.B * Hq * Mq, problem.vector and problem.dv % 4 == 0
    config = (problem.dtype, vectors, x.dlse is not None, dq_sums.shape[-1], ROWS)
    inputs = [item for array in (x.do, x.o, x.lse, x.dlse) for item in (array, strides_of(array))]
    outputs = (Written(pairs), Written(dq_sums))
    sizes = (Hq, problem.Nq, Mq, problem.dv, count, dq_sums.shape[0])
    return [Launch(Kernel("passes.rows", config, LANES * ROWS), cdiv(count, ROWS), (*inputs, *outputs, *sizes))]


def traffic(problem: AttentionProblem, Mq: int, cleared: int) -> Traffic:
    """What all threads move without a gradient of LSE, `cleared` columns of all sums of dQ among it.

    All 32 lanes of a warp read its LSE.
    """
    stored, real, heads = ITEMSIZE[problem.dtype], ITEMSIZE[problem.real], problem.B * problem.Hq
    return Traffic(
        global_read=heads * problem.Nq * (2 * problem.dv * stored + LANES * real),
        global_written=heads * Mq * (2 + cleared) * real,
    )
