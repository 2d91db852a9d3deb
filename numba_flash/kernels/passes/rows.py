"""The backward's first pass on tensor cores.        New here: all that a step must know of a query row in one place.

Paper      Dao 2023, arXiv:2307.08691, Algorithm 2, line 4
Grid       (B*Hq*Mq / rows of a block,)     Threads 128: so many `lanes` own one of Mq rows of a head, the last of which
           fill up a tile, then one further down, `turns` altogether
Shapes     dO, O (B, Hq, Nq, dv), LSE (B, Hq, Nq), dLSE the same or null, any strides -> rows (B, Hq, Mq, 2) float32
           dQ (B, Hq, Mq, D) in float32: becomes zeros, for the additions of the next kernel
On chip    one partial sum a lane and row
Invariant  dS = P*(dP - delta); since dLSE adds P*dLSE to dS, delta = rowsum(dO*O) - dLSE carries it for free
Units      LSE in base 2: P = 2^(s*log2(e) - LSE)
Edges      a row that sees no key, or is beyond Nq: LSE = +inf here, so that P = 0
Traffic    reads dO, O and LSE once, writes a pair once, and zeros over dQ
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, int32

from numba_flash.config import WARPGROUP
from numba_flash.device.number import LOG2_E, number
from numba_flash.device.softmax import make_row_sum
from numba_flash.device.tiles import head, make_read, make_read4
from numba_flash.ptx import global_view, store2, store4
from numba_flash.tiling import quotient


@cache
def make_rows(dtype: str, vectors: bool, has_dlse: bool, D: int, lanes: int, pieces: int, turns: int):
    """The kernel for one storage dtype; D is the width of dQ, a multiple of 4.

    vectors : a piece of a row is four elements, not one; each lane of a row has so many `pieces` of it
    """
    n = number(dtype)
    STORED, ZERO, NEG_INF = n.stored, n.zero, n.neg_inf
    TOGETHER, PIECE = WARPGROUP // lanes, 4 if vectors else 1
    STEP, ROWS = lanes * PIECE, TOGETHER * turns
    row_sum, read, read4 = make_row_sum(lanes), make_read(dtype), make_read4(dtype)

    def rows_of_queries(
        dO, dO_strides, O, O_strides, LSE, LSE_strides, dLSE, dLSE_strides, pairs, dQ, Hq, Nq, Mq, dv, count
    ):  # fmt: skip
        place, line, top = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes, cuda.blockIdx.x * ROWS
        totals, lses = cuda.local.array(turns, float32), cuda.local.array(turns, float32)
        for t in range(turns):  # all loads before the first store, so that they are in flight together
            index = int32(min(top + t * TOGETHER + line, count - 1))
            bh = quotient(index, int32(Mq))
            i, b = min(index - bh * Mq, Nq - 1), quotient(bh, int32(Hq))
            h = bh - b * Hq
            do = global_view(dO, head(dO_strides, b, h) + i * dO_strides[2], STORED)
            o = global_view(O, head(O_strides, b, h) + i * O_strides[2], STORED)
            total = ZERO
            for piece in range(pieces):
                x = piece * STEP + place * PIECE
                if vectors:
                    x4, y4 = read4(do, x, x < dv), read4(o, x, x < dv)
                    total += x4[0] * y4[0] + x4[1] * y4[1] + x4[2] * y4[2] + x4[3] * y4[3]
                else:
                    total += read(do, x * dO_strides[3], x < dv) * read(o, x * O_strides[3], x < dv)
            totals[t] = total
            lses[t] = global_view(LSE, head(LSE_strides, b, h), float32)[i * LSE_strides[2]] * LOG2_E
            if has_dlse and place == 0:
                totals[t] -= global_view(dLSE, head(dLSE_strides, b, h), float32)[i * dLSE_strides[2]]
        for t in range(turns):
            index, total = int32(top + t * TOGETHER + line), row_sum(totals[t])
            exists = int32(index % int32(Mq)) < Nq
            if place == 0 and index < count:
                lse = lses[t] if exists and lses[t] != NEG_INF else -NEG_INF
                store2(global_view(pairs, 0, float32), 2 * index, (lse, total if exists else ZERO))
        dq = global_view(dQ, top * D, float32)
        for x in range(4 * cuda.threadIdx.x, min(ROWS, count - top) * D, 4 * WARPGROUP):
            store4(dq, x, (ZERO, ZERO, ZERO, ZERO))

    return rows_of_queries
