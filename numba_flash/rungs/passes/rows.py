"""rows as the host sees it. The kernel is in numba_flash/kernels/passes/rows.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import LANES, WARPGROUP
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import strides_of
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, round_up
from numba_flash.traffic import Traffic

TURNS = 4  # rows that a lane has to do with


def launches(problem: AttentionProblem, x: Operands, pairs: Array, dq_sums: Array) -> list[Launch]:
    """The launch that writes pairs (B, Hq, Mq, 2) and sets dq_sums (B, Hq, Mq, D) to zeros; all contiguous."""
    assert x.do is not None and x.o is not None and x.lse is not None
    _, Hq, Mq, _ = pairs.shape
    count, (vectors, lanes, pieces) = problem.B * Hq * Mq, share(problem)
    config = (problem.dtype, vectors, x.dlse is not None, dq_sums.shape[-1], lanes, pieces, TURNS)
    inputs = [item for array in (x.do, x.o, x.lse, x.dlse) for item in (array, strides_of(array))]
    outputs = (Written(pairs), Written(dq_sums))
    sizes = (Hq, problem.Nq, Mq, problem.dv, count)
    grid = cdiv(count, WARPGROUP // lanes * TURNS)
    return [Launch(Kernel("passes.rows", config, WARPGROUP), grid, (*inputs, *outputs, *sizes))]


def share(problem: AttentionProblem) -> tuple[bool, int, int]:
    """Is a row read four elements at a time, how many lanes read one, and how often each?"""
    vectors = problem.vector and problem.dv % 4 == 0
    piece = 4 if vectors else 1
    lanes = min(LANES, 1 << (cdiv(problem.dv, piece) - 1).bit_length())
    return vectors, lanes, cdiv(problem.dv, lanes * piece)


def traffic(problem: AttentionProblem, Mq: int, cleared: int) -> Traffic:
    """What all threads move without a gradient of LSE, `cleared` columns of sums of dQ among it.

    All lanes of a row read its LSE, and in the place of what is beyond its end its beginning, as blocks do with rows.
    """
    vectors, lanes, pieces = share(problem)
    heads = problem.B * problem.Hq
    rows, elements = round_up(heads * Mq, WARPGROUP // lanes * TURNS), pieces * lanes * (4 if vectors else 1)
    stored, real = ITEMSIZE[problem.dtype], ITEMSIZE[problem.real]
    return Traffic(
        global_read=rows * (2 * elements * stored + lanes * real),
        global_written=heads * Mq * (2 + cleared) * real,
    )
