"""The backward's first pass on tensor cores.        New here: all that a step must know of a query row in one place.

Paper      Dao 2023, arXiv:2307.08691, Algorithm 2, line 4
Grid       (B*Hq*Mq / 4,)     Threads 128: a warp owns one of Mq rows of a head, the last of which fill up a tile
Shapes     dO, O (B, Hq, Nq, dv), LSE (B, Hq, Nq), dLSE the same or null, any strides -> rows (B, Hq, Mq, 2) float32
           dQ (splits, B, Hq, Mq, D) in float32: becomes zeros, for the additions of the next kernel
On chip    one partial sum a lane
Invariant  dS = P*(dP - delta); since dLSE adds P*dLSE to dS, delta = rowsum(dO*O) - dLSE carries it for free
Units      LSE in base 2: P = 2^(s*log2(e) - LSE)
Edges      a row that sees no key, or is beyond Nq: LSE = +inf here, so that P = 0
Traffic    reads dO, O and LSE once, writes a pair once, and zeros over dQ
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32

from numba_flash.device.number import LOG2_E, number
from numba_flash.device.softmax import make_row_sum
from numba_flash.device.tiles import head, make_read4
from numba_flash.ptx import global_view, store2, store4


@cache
def make_rows(dtype: str, vectors: bool, has_dlse: bool, D: int, rows: int):
    """The kernel for one storage dtype; `vectors`: rows are read four elements at a time; `rows` of a block.

    D is the width of dQ, a multiple of 4.
    """
    n = number(dtype)
    STORED, ZERO, NEG_INF, to_real = n.stored, n.zero, n.neg_inf, n.to_real
    PIECE = 4 if vectors else 1
    STEP = 32 * PIECE
    row_sum, read4 = make_row_sum(32), make_read4(dtype)

    def rows_of_queries(
        dO, dO_strides, O, O_strides, LSE, LSE_strides, dLSE, dLSE_strides, pairs, dQ, Hq, Nq, Mq, dv, count, splits
    ):  # fmt: skip
        lane, index = cuda.threadIdx.x & 31, cuda.blockIdx.x * rows + (cuda.threadIdx.x >> 5)
        bh, i = index // Mq, index % Mq
        b, h = bh // Hq, bh % Hq
        exists = index < count and i < Nq  # all lanes of a warp agree
        total, lse = ZERO, -NEG_INF
        if exists:
            do = global_view(dO, head(dO_strides, b, h) + i * dO_strides[2], STORED)
            o = global_view(O, head(O_strides, b, h) + i * O_strides[2], STORED)
            for x in range(PIECE * lane, dv, STEP):
                if vectors:
                    x4, y4 = read4(do, x, True), read4(o, x, True)
                    total += x4[0] * y4[0] + x4[1] * y4[1] + x4[2] * y4[2] + x4[3] * y4[3]
                else:
                    total += to_real(do[x * dO_strides[3]]) * to_real(o[x * O_strides[3]])
            total = row_sum(total)
            if has_dlse:
                total -= global_view(dLSE, head(dLSE_strides, b, h), float32)[i * dLSE_strides[2]]
            lse = global_view(LSE, head(LSE_strides, b, h), float32)[i * LSE_strides[2]] * LOG2_E
        if lane == 0 and index < count:
            store2(global_view(pairs, 0, float32), 2 * index, (-NEG_INF if lse == NEG_INF else lse, total))
        for split in range(splits if index < count else 0):
            dq = global_view(dQ, (split * count + index) * D, float32)
            for x in range(4 * lane, D, 128):
                store4(dq, x, (ZERO, ZERO, ZERO, ZERO))

    return rows_of_queries
