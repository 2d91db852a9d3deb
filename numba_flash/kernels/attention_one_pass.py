"""Attention in one pass over the keys.        New here: o' is right for the keys met so far: one pass is enough.

Paper      Ye 2023, From Online Softmax to FlashAttention: the recurrence under FlashAttention; l is the paper's d'
           m_j = max(m_(j-1), x_j), l_j = l_(j-1) e^(m_(j-1) - m_j) + e^(x_j - m_j),
           o'_j = o'_(j-1) l_(j-1) e^(m_(j-1) - m_j) / l_j + e^(x_j - m_j) / l_j v_j
Grid       (cdiv(B*Hq*Nq, 4),)     Threads 128: a warp owns a query, its lanes every 32nd column of q and o
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), any strides -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
On chip    q, o, m, l in registers: d/32 + dv/32 + 2 numbers a lane; nothing shared, no barrier
Invariant  after key j: o is the attention over the keys <= j, and m + log(l) its LSE; (m, l, o) is all that is kept
Units      x, m, LSE in nats, scale applied
Edges      a query meets the keys that it sees and no others; one that sees no key: O = 0, LSE = -inf
Traffic    reads Q once, and K and V once for every query that sees them; writes O and LSE once
"""

from __future__ import annotations

import math
from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.device.rows import make_add_row, make_dot_row, make_load_row, make_write_row
from numba_flash.device.tiles import fill, head
from numba_flash.ptx import global_view
from numba_flash.tiling import seen_keys


@cache
def make_attention_one_pass(dtype: str, D: int, DV: int, rows: int, lanes: int):
    """The kernel for one storage dtype, head dimensions of at most D and DV, queries a block and lanes a query."""
    n = number(dtype)
    STORED, REAL, ZERO, NEG_INF, exp = n.stored, n.real, n.zero, n.neg_inf, n.exp
    Q_PIECES, O_PIECES = D // lanes, DV // lanes
    load_q, dot_q = make_load_row(dtype, lanes, Q_PIECES), make_dot_row(dtype, lanes, Q_PIECES)
    add_v, write_o = make_add_row(dtype, lanes, O_PIECES), make_write_row(dtype, lanes, O_PIECES)

    def attention_one_pass(Q, Q_strides, K, K_strides, V, V_strides, O, LSE, sizes, band, scale):
        B, Hq, Hk, Nq, Nk, d, dv = sizes
        first, last = band
        lane, row = cuda.threadIdx.x % lanes, cuda.blockIdx.x * rows + cuda.threadIdx.x // lanes
        bh, i = row // Nq, row % Nq
        b, h = bh // Hq, bh % Hq
        if b < B:
            K_head, V_head = head(K_strides, b, h // (Hq // Hk)), head(V_strides, b, h // (Hq // Hk))
            q, o = cuda.local.array(Q_PIECES, REAL), cuda.local.array(O_PIECES, REAL)
            load_q(q, global_view(Q, head(Q_strides, b, h) + i * Q_strides[2], STORED), Q_strides[3], d, lane)
            begin, end = seen_keys(i, Nk, first, last)

            m, l = NEG_INF, ZERO
            fill(o, O_PIECES, ZERO)
            for j in range(begin, end):
                k, v = (
                    global_view(K, K_head + j * K_strides[2], STORED),
                    global_view(V, V_head + j * V_strides[2], STORED),
                )
                x = dot_q(q, k, K_strides[3], d, lane) * scale
                m_new = max(m, x)
                l_old, p = l * exp(m - m_new), exp(x - m_new)
                m, l = m_new, l_old + p
                add_v(o, l_old / l, p / l, v, V_strides[3], dv, lane)  # o'

            write_o(global_view(O, row * dv, STORED), o, dv, lane)
            if lane == 0:
                global_view(LSE, 0, REAL)[row] = NEG_INF if l == ZERO else m + REAL(math.log(l))

    return attention_one_pass
