"""FlashAttention backward.        New here: P is not read but recomputed, tile by tile, from Q, K and LSE.

Paper      Dao et al. 2022, arXiv:2205.14135, Algorithm 4 with m := LSE and l := 1, since e^(s - m) / l = e^(s - LSE)
Grid       (B*Hk,)     Threads Br * CG: thread (r, c) owns row r of a tile and its columns c, c + CG, c + 2 CG...
Shapes     dO (B, Hq, Nq, dv), Q, K, V, LSE as in the forward, any strides; delta (B, Hq, Nq) contiguous
           -> dQ (B, Hq, Nq, d), dK (B, Hk, Nk, d), dV (B, Hk, Nk, dv), contiguous
           dQ grows in global memory in float32 (float64), in its own place or in scratch
On chip    | Kj Bc x D | Vj Bc x D | dKj Bc x D | dVj Bc x D | Qi Br x D | dOi Br x D | P Br x Bc | dS Br x Bc |
           shared, in float32 (float64), rows padded by one element
Invariant  after tile (i, j): dKj, dVj hold the sums over the query blocks met so far, rows i of dQ over the key blocks
Units      s, LSE in nats, scale applied
Edges      a pair that is not seen: P = dS = 0; a block owns all query heads of a KV head: no atomics, equal bits
Traffic    K, V, dK, dV once; Q, dO, LSE, delta once for each of Tc key blocks, dQ twice: read and written
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.config import Tiles
from numba_flash.device.number import number
from numba_flash.device.plain import make_dots, make_load
from numba_flash.device.tiles import head
from numba_flash.ptx import global_view
from numba_flash.tiling import cdiv, query_blocks, sees


@cache
def make_flash1_backward(tiles: Tiles, dtype: str):
    """The kernel for one set of tile sizes and one storage dtype."""
    Br, Bc, D, CG, THREADS = tiles.Br, tiles.Bc, tiles.D, tiles.CG, tiles.threads
    Q_SHAPE, KV_SHAPE, P_SHAPE = (Br, D + 1), (Bc, D + 1), (Br, Bc + 1)
    n = number(dtype)
    STORED, REAL, ZERO, exp, to_stored = n.stored, n.real, n.zero, n.exp, n.to_stored
    load_q, load_kv = make_load(dtype, Br, D, THREADS), make_load(dtype, Bc, D, THREADS)
    dot_abt, dot_ab, dot_atb = make_dots(dtype)

    def flash1_backward(
        dO, dO_strides, Q, Q_strides, K, K_strides, V, V_strides, LSE, LSE_strides, delta,
        dQ, dQ_stored, dK, dV, sizes, band, scale,
    ):  # fmt: skip
        B, Hq, Hk, Nq, Nk, d, dv = sizes
        first, last = band
        Kj, Vj = cuda.shared.array(KV_SHAPE, REAL), cuda.shared.array(KV_SHAPE, REAL)
        dKj, dVj = cuda.shared.array(KV_SHAPE, REAL), cuda.shared.array(KV_SHAPE, REAL)
        Qi, dOi = cuda.shared.array(Q_SHAPE, REAL), cuda.shared.array(Q_SHAPE, REAL)
        P, dS = cuda.shared.array(P_SHAPE, REAL), cuda.shared.array(P_SHAPE, REAL)
        r, c = cuda.threadIdx.x // CG, cuda.threadIdx.x % CG
        b, hk = cuda.blockIdx.x // Hk, cuda.blockIdx.x % Hk
        group = Hq // Hk
        dQ_size = group * Nq * d  # the query heads of a KV head are neighbours
        dQ_group = global_view(dQ, cuda.blockIdx.x * dQ_size, REAL)
        for x in range(cuda.threadIdx.x, dQ_size, THREADS):  # line 5
            dQ_group[x] = ZERO

        for j in range(cdiv(Nk, Bc)):  # line 6
            cuda.syncthreads()  # dQ is zero and the last Kj, Vj read by everyone before the next lines
            load_kv(Kj, global_view(K, head(K_strides, b, hk), STORED), K_strides, j * Bc, Nk, d)  # line 7
            load_kv(Vj, global_view(V, head(V_strides, b, hk), STORED), V_strides, j * Bc, Nk, dv)
            for y in range(r, Bc, Br):  # line 8
                for x in range(c, D, CG):
                    dKj[y, x], dVj[y, x] = ZERO, ZERO
            keys = min(Bc, Nk - j * Bc)
            begin, end = query_blocks(j, Br, Bc, Nq, Nk, first, last)
            for h in range(hk * group, (hk + 1) * group):  # GQA: every query head that reads this KV head, in order
                Qh, dOh = global_view(Q, head(Q_strides, b, h), STORED), global_view(dO, head(dO_strides, b, h), STORED)
                for i in range(begin, end):  # line 9
                    cuda.syncthreads()  # everyone has read the last Qi, dOi, P, dS before they change
                    load_q(Qi, Qh, Q_strides, i * Br, Nq, d)  # line 10
                    load_q(dOi, dOh, dO_strides, i * Br, Nq, dv)
                    row, rows = i * Br + r, min(Br, Nq - i * Br)
                    lse, delta_row = ZERO, ZERO
                    if row < Nq:
                        lse = global_view(LSE, head(LSE_strides, b, h) + row * LSE_strides[2], REAL)[0]
                        delta_row = global_view(delta, (b * Hq + h) * Nq + row, REAL)[0]
                    cuda.syncthreads()  # Qi, dOi, Kj, Vj are written before anyone reads them
                    for x in range(c, Bc, CG):
                        p, ds = ZERO, ZERO
                        if row < Nq and sees(row, j * Bc + x, Nk, first, last):
                            p = exp(dot_abt(Qi, r, Kj, x, d) * scale - lse)  # lines 11 to 13
                            ds = p * (dot_abt(dOi, r, Vj, x, dv) - delta_row)  # lines 17 to 20; delta is the paper's D
                        P[r, x], dS[r, x] = p, ds
                    cuda.syncthreads()  # P, dS are written before other threads read them
                    if row < Nq:
                        dq = global_view(dQ, ((b * Hq + h) * Nq + row) * d, REAL)
                        for x in range(c, d, CG):  # line 21
                            dq[x] += scale * dot_ab(dS, r, Kj, x, keys)
                    for y in range(r, Bc, Br):
                        for x in range(c, dv, CG):  # line 16
                            dVj[y, x] += dot_atb(P, y, dOi, x, rows)
                        for x in range(c, d, CG):  # line 22
                            dKj[y, x] += scale * dot_atb(dS, y, Qi, x, rows)
            dKh = global_view(dK, cuda.blockIdx.x * Nk * d, STORED)
            dVh = global_view(dV, cuda.blockIdx.x * Nk * dv, STORED)
            for y in range(r, keys, Br):  # line 24: each thread's own elements
                key = j * Bc + y
                for x in range(c, dv, CG):
                    dVh[key * dv + x] = to_stored(dVj[y, x])
                for x in range(c, d, CG):
                    dKh[key * d + x] = to_stored(dKj[y, x])

        cuda.syncthreads()  # dQ is complete before other threads give it its dtype
        dQ_stored_group = global_view(dQ_stored, cuda.blockIdx.x * dQ_size, STORED)
        for x in range(cuda.threadIdx.x, dQ_size, THREADS):
            dQ_stored_group[x] = to_stored(dQ_group[x])

    return flash1_backward
