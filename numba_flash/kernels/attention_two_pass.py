"""Attention in two passes over the keys.        New here: no S in memory: a score is computed wherever it is needed.

Paper      Ye 2023, From Online Softmax to FlashAttention; the online softmax is Milakov 2018, arXiv:1805.02867
           m_j = max(m_(j-1), x_j), l_j = l_(j-1) e^(m_(j-1) - m_j) + e^(x_j - m_j) over all keys, then
           a_j = e^(x_j - m_N) / l_N (6) and o_j = o_(j-1) + a_j v_j (7) over all keys; l is the paper's d'
Grid       (cdiv(B*Hq*Nq, 4),)     Threads 128: a warp owns a query, its lanes every 32nd column of q and o
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), any strides -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
On chip    q, o, m, l in registers: d/32 + dv/32 + 2 numbers a lane; nothing shared, no barrier
Invariant  first pass: m = max x, l = sum e^(x - m) over the keys <= j; second: o = sum of a v over the keys <= j
Units      x, m, LSE in nats, scale applied
Edges      a query meets the keys that it sees and no others; one that sees no key: O = 0, LSE = -inf
Traffic    reads Q once, and K twice and V once for every query that sees them; writes O and LSE once
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
def make_attention_two_pass(dtype: str, D: int, DV: int, rows: int, lanes: int):
    """The kernel for one storage dtype, head dimensions of at most D and DV, queries a block and lanes a query."""
    n = number(dtype)
    STORED, REAL, ZERO, ONE, NEG_INF, exp = n.stored, n.real, n.zero, n.one, n.neg_inf, n.exp
    Q_PIECES, O_PIECES = D // lanes, DV // lanes
    load_q, dot_q = make_load_row(dtype, lanes, Q_PIECES), make_dot_row(dtype, lanes, Q_PIECES)
    add_v, write_o = make_add_row(dtype, lanes, O_PIECES), make_write_row(dtype, lanes, O_PIECES)

    def attention_two_pass(Q, Q_strides, K, K_strides, V, V_strides, O, LSE, sizes, band, scale):
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
            for j in range(begin, end):
                k = global_view(K, K_head + j * K_strides[2], STORED)
                x = dot_q(q, k, K_strides[3], d, lane) * scale
                m_new = max(m, x)
                l = l * exp(m - m_new) + exp(x - m_new)
                m = m_new

            fill(o, O_PIECES, ZERO)
            for j in range(begin, end):
                k, v = (
                    global_view(K, K_head + j * K_strides[2], STORED),
                    global_view(V, V_head + j * V_strides[2], STORED),
                )
                x = dot_q(q, k, K_strides[3], d, lane) * scale
                a = exp(x - m) / l  # (6)
                add_v(o, ONE, a, v, V_strides[3], dv, lane)  # (7)

            write_o(global_view(O, row * dv, STORED), o, dv, lane)
            if lane == 0:
                global_view(LSE, 0, REAL)[row] = NEG_INF if l == ZERO else m + REAL(math.log(l))

    return attention_two_pass
