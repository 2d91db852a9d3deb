"""The backward's first pass.        New here: rowsum(P*dP) without P, because it equals rowsum(dO*O).

Paper      Dao 2023, arXiv:2307.08691, Algorithm 2, line 4; there it is called D
Grid       (B*Hq*Nq / 4,)     Threads 128: a warp owns one row
Shapes     dO, O (B, Hq, Nq, dv), any strides; dLSE (B, Hq, Nq), any strides, or null -> delta (B, Hq, Nq)
           dQ (B, Hq, Nq, d) in float32 (float64), or null: becomes zeros, for the additions of the next kernel
On chip    one partial sum a lane
Invariant  dS = P*(dP - delta); since dLSE adds P*dLSE to dS, delta = rowsum(dO*O) - dLSE carries it for free
Units      as dO*O
Edges      a row that sees no key has O = 0: delta = -dLSE, which meets P = 0
Traffic    reads dO and O once, writes delta once, and zeros over dQ
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.device.softmax import make_row_sum
from numba_flash.device.tiles import head
from numba_flash.ptx import global_view


@cache
def make_delta(dtype: str, has_dlse: bool, clears: bool, rows: int):
    """The kernel for one storage dtype, with or without a gradient of LSE and a dQ to clear; `rows` of a block."""
    n = number(dtype)
    STORED, REAL, ZERO, to_real = n.stored, n.real, n.zero, n.to_real
    row_sum = make_row_sum(32)

    def delta(dO, dO_strides, O, O_strides, dLSE, dLSE_strides, delta, dQ, Hq, Nq, d, dv, count):
        lane, index = cuda.threadIdx.x % 32, cuda.blockIdx.x * rows + cuda.threadIdx.x // 32
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
        if clears and index < count:
            dq = global_view(dQ, index * d, REAL)
            for x in range(lane, d, 32):
                dq[x] = ZERO

    return delta
