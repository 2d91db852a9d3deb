"""FlashAttention forward.        New here: tiles in shared memory; one of K and V is read once for all queries.

Paper      Dao et al. 2022, arXiv:2205.14135, Algorithm 1; its M is 48 KB, what every GPU gives a block unasked
Grid       (B*Hq,)     Threads Br * CG: thread (r, c) owns row r of a tile and its columns c, c + CG, c + 2 CG...
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), any strides -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
           l (B, Hq, Nq), scratch; m lives where LSE will be; O in float32 (float64), in its own place or in scratch
On chip    | Qi Br x D | Kj Bc x D | Vj Bc x D | P Br x Bc |   shared, in float32 (float64), rows padded by one element
Invariant  after tile (i, j): for the rows of block i, O is the attention over the keys < (j + 1)*Bc, m + log(l) its LSE
Units      s, m, LSE in nats, scale applied
Edges      a tile that a row sees nothing of leaves its O, l, m as they are; one that nobody sees is left out;
           a row that sees no key: O = 0, LSE = -inf
Traffic    reads K, V once a query head; reads Q, and reads and writes O, l, m, once for each of Tc key blocks
"""

from __future__ import annotations

import math
from functools import cache

from numba import cuda

from numba_flash.config import Tiles
from numba_flash.device.number import number
from numba_flash.device.plain import make_dots, make_load
from numba_flash.device.softmax import make_row_max, make_row_sum
from numba_flash.device.tiles import head
from numba_flash.ptx import global_view
from numba_flash.tiling import cdiv, query_blocks, sees


@cache
def make_flash1_forward(tiles: Tiles, dtype: str):
    """The kernel for one set of tile sizes and one storage dtype."""
    Br, Bc, D, CG, THREADS = tiles.Br, tiles.Bc, tiles.D, tiles.CG, tiles.threads
    Q_SHAPE, KV_SHAPE, P_SHAPE = (Br, D + 1), (Bc, D + 1), (Br, Bc + 1)
    n = number(dtype)
    STORED, REAL, ZERO, ONE, NEG_INF, exp, to_stored = n.stored, n.real, n.zero, n.one, n.neg_inf, n.exp, n.to_stored
    load_q, load_kv = make_load(dtype, Br, D, THREADS), make_load(dtype, Bc, D, THREADS)
    row_max, row_sum = make_row_max(CG), make_row_sum(CG)
    dot_abt, dot_ab, _ = make_dots(dtype)

    def flash1_forward(Q, Q_strides, K, K_strides, V, V_strides, O, O_stored, l, m, sizes, band, scale):
        B, Hq, Hk, Nq, Nk, d, dv = sizes
        first, last = band
        Qi, P = cuda.shared.array(Q_SHAPE, REAL), cuda.shared.array(P_SHAPE, REAL)
        Kj, Vj = cuda.shared.array(KV_SHAPE, REAL), cuda.shared.array(KV_SHAPE, REAL)
        r, c = cuda.threadIdx.x // CG, cuda.threadIdx.x % CG
        bh = cuda.blockIdx.x
        b, h = bh // Hq, bh % Hq
        hk = h // (Hq // Hk)
        Qh, Kh = global_view(Q, head(Q_strides, b, h), STORED), global_view(K, head(K_strides, b, hk), STORED)
        Vh, Oh = global_view(V, head(V_strides, b, hk), STORED), global_view(O, bh * Nq * dv, REAL)
        lh, mh = global_view(l, bh * Nq, REAL), global_view(m, bh * Nq, REAL)

        for row in range(r, Nq, Br):  # line 2
            for x in range(c, dv, CG):
                Oh[row * dv + x] = ZERO
            if c == 0:
                lh[row], mh[row] = ZERO, NEG_INF

        for j in range(cdiv(Nk, Bc)):  # line 5
            cuda.syncthreads()  # l, m are written and the last Kj, Vj read by everyone before the next lines
            load_kv(Kj, Kh, K_strides, j * Bc, Nk, d)  # line 6
            load_kv(Vj, Vh, V_strides, j * Bc, Nk, dv)
            begin, end = query_blocks(j, Br, Bc, Nq, Nk, first, last)
            for i in range(begin, end):  # line 7
                cuda.syncthreads()  # everyone has read the last Qi, P before they change
                load_q(Qi, Qh, Q_strides, i * Br, Nq, d)  # line 8
                row = i * Br + r
                l_i, m_i = (lh[row], mh[row]) if row < Nq else (ZERO, NEG_INF)
                cuda.syncthreads()  # Qi, Kj, Vj are written before anyone reads them
                m_ij, l_ij = NEG_INF, ZERO
                for x in range(c, Bc, CG):  # lines 9 and 10: S, m~ = rowmax(S)
                    seen = row < Nq and sees(row, j * Bc + x, Nk, first, last)
                    s = dot_abt(Qi, r, Kj, x, d) * scale if seen else NEG_INF
                    P[r, x], m_ij = s, max(m_ij, s)
                m_ij = row_max(m_ij)
                for x in range(c, Bc, CG):  # line 10: P~ = e^(S - m~), l~ = rowsum(P~)
                    p = ZERO if m_ij == NEG_INF else exp(P[r, x] - m_ij)
                    P[r, x], l_ij = p, l_ij + p
                l_ij = row_sum(l_ij)
                cuda.syncwarp()  # a row of P is written by the lanes of one warp and read by them alone
                if l_ij > ZERO:
                    m_new = max(m_i, m_ij)  # line 11
                    alpha, beta = exp(m_i - m_new), exp(m_ij - m_new)
                    l_new = alpha * l_i + beta * l_ij
                    for x in range(c, dv, CG):  # line 12
                        o, pv = Oh[row * dv + x], dot_ab(P, r, Vj, x, Bc)
                        Oh[row * dv + x] = (l_i * alpha * o + beta * pv) / l_new
                    if c == 0:  # line 13
                        lh[row], mh[row] = l_new, m_new

        Oh_stored = global_view(O_stored, bh * Nq * dv, STORED)
        for row in range(r, Nq, Br):  # each thread's own elements: O in its dtype, and LSE where m was
            for x in range(c, dv, CG):
                Oh_stored[row * dv + x] = to_stored(Oh[row * dv + x])
            if c == 0:
                mh[row] += REAL(math.log(ONE if lh[row] == ZERO else lh[row]))

    return flash1_forward
