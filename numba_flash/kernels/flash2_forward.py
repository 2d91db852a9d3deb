"""FlashAttention-2 forward.        New here: the query loop becomes the grid, and one LSE replaces l and m.

Paper      Dao 2023, arXiv:2307.08691, Algorithm 1
Grid       (Tr * B*Hq,)     Threads RG * CG: thread (rg, cg) owns a `Piece` of S and one of O
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), any strides -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
On chip    | Qi D x Br | Kj D x Bc | Vj Bc x DV | P Bc x Br |   shared, in float32 (float64), rows padded by 16 bytes
           s TM x TN, acc TM x DV/CG, m, l, alpha TM     registers; where the tiles are `tight`, P lies in Kj's place
           Q, K and P lie transposed, so that both products are sums of outer products: see device/products.py
Invariant  after block j: m = max s, l = sum e^(s-m), acc = sum e^(s-m) v over the keys seen so far
Units      LSE in nats; s too, or products as they come where the scale is `folded` into `unit`; m in base 2
Edges      a row that sees no key: O = 0, LSE = -inf; blocks outside the band are skipped; of long sums in float32 a
           launch makes a part, and joins it to the O and LSE of those before: algorithms/monoid.py
Traffic    reads Q once, K and V once for each of Tr query blocks that sees them; writes O and LSE once: `traffic`
"""

from __future__ import annotations

import math
from functools import cache

from numba import cuda, int32
from numba.types import uint8

from numba_flash.config import Loads, Tiles, padded
from numba_flash.device.number import number
from numba_flash.device.products import in_fours, make_multiply_atb, make_place, make_rows_and_columns
from numba_flash.device.scores import make_hide, make_modify, make_slope
from numba_flash.device.softmax import make_join, make_online_softmax, make_row_sum
from numba_flash.device.tiles import (
    fill,
    head,
    make_join_rows,
    make_load_tile,
    make_load_transposed,
    make_pipeline,
    make_store_transposed,
    make_write_rows,
)
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import device, global_view, shared_tile
from numba_flash.rungs.flash2_forward import joins_sums, pieces
from numba_flash.tiling import all_visible, cdiv, key_blocks, longest_first


@cache
def make_flash2_forward(tiles: Tiles, dtype: str, loads: Loads, score: ScoreOptions, folded: bool):
    """The kernel for tile sizes, storage dtype, kind of loads and score options; `folded`: see `folds_scale`."""
    Br, Bc, D, DV, TM, CG = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.rows, tiles.CG
    scores, out = pieces(tiles)
    SCORES, OUT, TD = scores.size, out.size, out.TN
    n = number(dtype)
    STORED, REAL, ZERO, ONE, NEG_INF = n.stored, n.real, n.zero, n.one, n.neg_inf
    NAT, NATS = n.nat, n.one / n.nat
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored
    WIDTH = REAL.bitwidth // 8
    Q_SHAPE, K_SHAPE = (D, padded(Br, WIDTH)), (D, padded(Bc, WIDTH))
    V_SHAPE, P_SHAPE = (Bc, padded(DV, WIDTH)), (Bc, padded(Br, WIDTH))
    K_AT = D * Q_SHAPE[1] * WIDTH
    V_AT = K_AT + D * K_SHAPE[1] * WIDTH
    P_AT = K_AT if tiles.tight else V_AT + Bc * V_SHAPE[1] * WIDTH
    TIGHT, JOINS = tiles.tight, joins_sums(dtype)

    load_q, load_k = (make_load_transposed(dtype, rows, D, tiles.threads, loads) for rows in (Br, Bc))
    load_v = make_load_tile(dtype, Bc, DV, tiles.threads, loads)
    commit, wait = make_pipeline(loads)
    place = make_place(CG)
    multiply_qk = make_multiply_atb(scores, D, REAL, downwards=in_fours(TM, REAL))
    multiply_pv = make_multiply_atb(out, Bc, REAL)
    modify, hide = make_modify(scores, score, dtype), make_hide(scores, dtype)
    online_softmax, row_sum = make_online_softmax(scores, dtype), make_row_sum(CG, scores.apart)
    row_of, _ = make_rows_and_columns(scores)
    slope_of, store_p = make_slope(score, dtype), make_store_transposed(scores)
    write_o, join_o = (make(out, dtype, loads != "elements") for make in (make_write_rows, make_join_rows))
    join = make_join(dtype)

    @device
    def next_k(Kj, Kh, K_strides, j, end, Nk, d):
        if j < end:
            load_k(Kj, Kh, K_strides, j * Bc, 0, Nk, d)
        commit()

    @device
    def rescale(acc, alpha):
        for r in range(TM):
            for c in range(TD):
                acc[r * TD + c] *= alpha[r]

    @device
    def finish(acc, m, l, alpha, LSEh, rg, cg, row0, Nq, joins):  # lines 12 and 13: O = diag(l)^-1 O, L = m + log(l)
        for r in range(TM):
            row, total = row0 + row_of(rg, r), row_sum(l[r])
            lse = NEG_INF if total == ZERO else m[r] * NATS + REAL(math.log(total))
            l[r] = ZERO if total == ZERO else ONE / total
            if joins:  # alpha is then the share of the O that is there
                lse, alpha[r], share = join(LSEh[row] if row < Nq else NEG_INF, lse)
                l[r] *= share
                cuda.syncwarp()  # every lane of a row has read LSE before one of them writes it
            if cg == 0 and row < Nq:
                LSEh[row] = lse
        rescale(acc, l)

    def flash2_forward(
        Q, Q_strides, K, K_strides, V, V_strides, O, LSE,
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides, sizes, band, scale, softcap, one, together,
        part_begin, part_end,
    ):  # fmt: skip
        Hq, Hk, Nq, Nk, d, dv = sizes
        first, last, q_offset = band
        Qi, Kj = shared_tile(0, Q_SHAPE, REAL), shared_tile(K_AT, K_SHAPE, REAL)
        Vj, P = shared_tile(V_AT, V_SHAPE, REAL), shared_tile(P_AT, P_SHAPE, REAL)
        rg, cg = place()
        Tr = int32(cdiv(Nq, Br))
        i, bh = longest_first(int32(cuda.blockIdx.x), Tr, int32(cuda.gridDim.x) // Tr, int32(together))
        i, bh = int32(i), int32(bh)
        b, h = bh // Hq, bh % Hq
        hk = h // (Hq // Hk)
        Qh, Kh = global_view(Q, head(Q_strides, b, h), STORED), global_view(K, head(K_strides, b, hk), STORED)
        Vh, Oh = global_view(V, head(V_strides, b, hk), STORED), global_view(O, bh * Nq * dv, STORED)
        bias_h = global_view(bias, head(bias_strides, b, h), BIAS)
        mask_h = global_view(mask, head(mask_strides, b, h), uint8)
        slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
        s, derivative = cuda.local.array(SCORES, REAL), cuda.local.array(SCORES, REAL)
        acc = cuda.local.array(OUT, REAL)
        m, l, alpha = cuda.local.array(TM, REAL), cuda.local.array(TM, REAL), cuda.local.array(TM, REAL)
        unit = (scale if folded else ONE) * NAT
        fill(m, TM, NEG_INF)
        fill(l, TM, ZERO)
        fill(acc, OUT, ZERO)
        begin, end = key_blocks(i, Br, Bc, Nq, Nk, first, last)
        if JOINS:
            begin, end = max(begin, part_begin), min(end, part_end)
            if part_begin > 0 and begin >= end:
                return  # O and LSE stay as they are
        load_q(Qi, Qh, Q_strides, i * Br, 0, Nq, d)
        load_k(Kj, Kh, K_strides, begin * Bc, 0, Nk, d)
        commit()
        for j in range(begin, end):  # K and V come by turns: Vj while S is computed, the next Kj while O is
            wait(0)
            cuda.syncthreads()  # Qi, Kj are written; everyone has read the last Vj before it changes
            load_v(Vj, Vh, V_strides, j * Bc, 0, Nk, dv)
            commit()
            fill(s, SCORES, ZERO)
            multiply_qk(s, Qi, Kj, rg, cg)  # line 8: S = Qi Kj^T
            if TIGHT:
                cuda.syncthreads()  # everyone has read Kj before P takes its place
            if not folded:
                modify(
                    s, derivative, rg, cg, i * Br, j * Bc, Nq, Nk, scale, softcap, slope, q_offset,
                    bias_h, bias_strides, mask_h, mask_strides, b, h,
                )  # fmt: skip
            if not all_visible(i * Br, j * Bc, Br, Bc, Nk, first, last):
                hide(s, rg, cg, i * Br, j * Bc, Nk, first, last)
            online_softmax(s, m, l, alpha, unit)  # line 9: m, P~, l
            rescale(acc, alpha)  # line 10: O = diag(alpha) O + P~ Vj
            store_p(P, s, rg, cg)
            wait(0)
            cuda.syncthreads()  # P and Vj are written; everyone has read Kj before it changes
            if not TIGHT:
                next_k(Kj, Kh, K_strides, j + 1, end, Nk, d)
            multiply_pv(acc, P, Vj, rg, cg)
            if TIGHT:
                cuda.syncthreads()  # everyone has read P before Kj takes its place
                next_k(Kj, Kh, K_strides, j + 1, end, Nk, d)
        joins = JOINS and part_begin > 0
        finish(acc, m, l, alpha, global_view(LSE, bh * Nq, REAL), rg, cg, i * Br, Nq, joins)
        if joins:
            join_o(Oh, dv, acc, alpha, rg, cg, i * Br, Nq, dv)
        else:
            write_o(Oh, dv, acc, one, rg, cg, i * Br, Nq, dv)

    return flash2_forward
