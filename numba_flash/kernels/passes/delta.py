"""The backward's first pass.        New here: rowsum(P*dP) without P, because it equals rowsum(dO*O).

Paper      Dao 2023, arXiv:2307.08691, Algorithm 2, line 4; there it is called D
Grid       (B*Hq*Nq / 4,)     Threads 128: a warp owns one row
Shapes     dO, O (B, Hq, Nq, dv), any strides; dLSE (B, Hq, Nq), any strides, or null -> delta (B, Hq, Nq)
On chip    one partial sum a lane
Invariant  dS = P*(dP - delta); since dLSE adds P*dLSE to dS, delta = rowsum(dO*O) - dLSE carries it for free
Units      as dO*O
Edges      a row that sees no key has O = 0: delta = -dLSE, which meets P = 0
Traffic    reads dO and O once, writes delta once
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.device.number import number
from numba_flash.device.softmax import make_row_sum
from numba_flash.device.tiles import head
from numba_flash.kernels.arguments import strides_of
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.ptx import global_view
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

ROWS = 4  # of a block


@cache
def make_delta(dtype: str, has_dlse: bool) -> Kernel:
    """The kernel for one storage dtype, with or without a gradient of LSE."""
    n = number(dtype)
    STORED, REAL, ZERO, to_real = n.stored, n.real, n.zero, n.to_real
    row_sum = make_row_sum(32)

    def delta(dO, dO_strides, O, O_strides, dLSE, dLSE_strides, delta, Hq, Nq, dv, count):
        lane, index = cuda.threadIdx.x % 32, cuda.blockIdx.x * ROWS + cuda.threadIdx.x // 32
        row = min(index, count - 1)  # the last warps repeat the last row: every lane reaches the shuffles
        bh, i = row // Nq, row % Nq
        b, h = bh // Hq, bh % Hq
        do = global_view(dO, head(dO_strides, b, h) + i * dO_strides[2], STORED)
        o = global_view(O, head(O_strides, b, h) + i * O_strides[2], STORED)
        total = ZERO
        for x in range(lane, dv, 32):
            total += to_real(do[x * dO_strides[3]]) * to_real(o[x * O_strides[3]])
        total = row_sum(total)
        if has_dlse:
            total -= global_view(dLSE, head(dLSE_strides, b, h), REAL)[i * dLSE_strides[2]]
        if lane == 0 and index < count:
            global_view(delta, 0, REAL)[index] = total

    return Kernel(delta, 32 * ROWS)


def launches(problem: AttentionProblem, x: Operands, delta: Array) -> list[Launch]:
    """The launch that writes delta (B, Hq, Nq), contiguous."""
    assert x.do is not None and x.o is not None
    count = problem.B * problem.Hq * problem.Nq
    kernel = make_delta(problem.dtype, x.dlse is not None)
    inputs = (x.do, x.do.strides, x.o, x.o.strides, x.dlse, strides_of(x.dlse))
    return [Launch(kernel, cdiv(count, ROWS), (*inputs, Written(delta), problem.Hq, problem.Nq, problem.dv, count))]


def traffic(problem: AttentionProblem, has_dlse: bool = False) -> Traffic:
    """What all threads move; the warps beyond the last row read it again, and all 32 lanes of a warp read its dLSE."""
    stored, real = ITEMSIZE[problem.dtype], ITEMSIZE[problem.real]
    count = problem.B * problem.Hq * problem.Nq
    warps = cdiv(count, ROWS) * ROWS
    return Traffic(global_read=warps * (2 * problem.dv * stored + 32 * real * has_dlse), global_written=count * real)
