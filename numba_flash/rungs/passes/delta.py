"""delta as the host sees it. The kernel is in numba_flash/kernels/passes/delta.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import LANES
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import strides_of
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

ROWS = 4  # of a block


def launches(problem: AttentionProblem, x: Operands, delta: Array, dq_sum: Array | None = None) -> list[Launch]:
    """The launch that writes delta (B, Hq, Nq) and sets dq_sum (B, Hq, Nq, d) to zeros; both are contiguous."""
    assert x.do is not None and x.o is not None
    count = problem.B * problem.Hq * problem.Nq
    config = (problem.dtype, x.dlse is not None, dq_sum is not None, ROWS)
    inputs = (x.do, x.do.strides, x.o, x.o.strides, x.dlse, strides_of(x.dlse))
    outputs = (Written(delta), dq_sum and Written(dq_sum))
    sizes = (problem.Hq, problem.Nq, problem.d, problem.dv, count)
    return [Launch(Kernel("passes.delta", config, LANES * ROWS), cdiv(count, ROWS), (*inputs, *outputs, *sizes))]


def traffic(problem: AttentionProblem, has_dlse: bool = False, clears: bool = False) -> Traffic:
    """What all threads move; the warps beyond the last row read it again, and all 32 lanes of a warp read its dLSE."""
    stored, real = ITEMSIZE[problem.dtype], ITEMSIZE[problem.real]
    count = problem.B * problem.Hq * problem.Nq
    warps = cdiv(count, ROWS) * ROWS
    return Traffic(
        global_read=warps * (2 * problem.dv * stored + LANES * real * has_dlse),
        global_written=count * (1 + problem.d * clears) * real,
    )
