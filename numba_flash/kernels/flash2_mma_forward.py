"""FlashAttention-2 forward on tensor cores.        New here: P stays in registers, as the next product's operand.

Paper      Dao 2023, arXiv:2307.08691, Algorithm 1; a warp owns rows, so that softmax needs no other warp ("split Q")
Grid       (Tr * B*Hq,)     Threads 32 a warp: a warp owns 8*TM rows of S and O, its lanes `Fragments` of them
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), any strides -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
On chip    | Qi Br x D | Kj Bc x D | Vj Bc x DV |   shared, in 16 bits, rows swizzled
           s, acc in accumulator fragments of 16 x 8, p in fragments of 16 x 16, m, l, alpha TM     registers
Invariant  after block j: m = max s, l = sum e^(s-m), acc = sum e^(s-m) v over the keys seen so far
Units      LSE in nats; s too, or products as they come where the scale is `folded` into `unit`; m in base 2
           P rounded to 16 bits for its product alone
Edges      a row that sees no key: O = 0, LSE = -inf; blocks outside the band are skipped
Traffic    reads Q once, K and V once for each of Tr query blocks that sees them; writes O and LSE once: `traffic`
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, int32, int64, uint16, uint32
from numba.types import uint8

from numba_flash.config import Loads, Stores, Tiles
from numba_flash.device.fragments import (
    lane,
    make_multiply_ab_mma,
    make_multiply_abt_mma,
    make_round,
    make_write_chunks,
    make_write_fragments,
)
from numba_flash.device.number import number
from numba_flash.device.scores import make_hide, make_modify, make_slope
from numba_flash.device.softmax import make_finish, make_online_softmax, make_rescale
from numba_flash.device.swizzled import make_load_swizzled
from numba_flash.device.tiles import fill, head, make_pipeline
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import global_view, shared_tile
from numba_flash.rungs.flash2_mma_forward import pieces
from numba_flash.tiling import all_visible, cdiv, key_blocks, longest_first, quotient


@cache
def make_flash2_mma_forward(tiles: Tiles, dtype: str, loads: Loads, stores: Stores, score: ScoreOptions, folded: bool):
    """The kernel for tile sizes, dtype, kinds of loads and stores, and score options; `folded`: see `folds_scale`."""
    Br, Bc, D, DV, TM = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.rows
    scores, out = pieces(tiles)
    SCORES, OUT, P, HEIGHT = scores.size, out.size, scores.size // 2, 8 * TM
    n = number(dtype)
    ZERO, ONE, NEG_INF, NAT = n.zero, n.one, n.neg_inf, n.nat
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored
    TIGHT, CHUNKS = tiles.tight, stores == "chunks"
    HEAD = int32 if TIGHT else int64  # of a head's number: with the other one, ptxas runs out of registers
    Q_SHAPE, Q_WORDS, K_SHAPE, V_SHAPE = (Br, D), (Br, D // 2), (Bc, D), (Bc, DV)
    K_AT = 2 * Br * D
    V_AT = K_AT + 2 * Bc * D

    load_q, load_k, load_v = (
        make_load_swizzled(rows, columns, tiles.threads, loads) for rows, columns in ((Br, D), (Bc, D), (Bc, DV))
    )
    commit, wait = make_pipeline(loads)
    multiply_qk, multiply_pv = make_multiply_abt_mma(dtype, scores, D), make_multiply_ab_mma(dtype, out, Bc, DV)
    modify, hide, slope_of = make_modify(scores, score, dtype), make_hide(scores, dtype), make_slope(score, dtype)
    online_softmax, round_to = make_online_softmax(scores, dtype), make_round(dtype, scores)
    rescale, finish = make_rescale(out), make_finish(out, dtype)
    write_o = make_write_chunks(dtype, out, D) if CHUNKS else make_write_fragments(dtype, HEIGHT, DV, stores == "pairs")

    def flash2_mma_forward(
        Q, Q_strides, K, K_strides, V, V_strides, O, LSE,
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides, sizes, band, scale, softcap, one, together,
    ):  # fmt: skip
        Hq, Hk, Nq, Nk, d, dv = sizes
        first, last, q_offset = band
        Qi = shared_tile(0, Q_SHAPE, uint16)
        Kj, Vj = shared_tile(K_AT, K_SHAPE, uint16), shared_tile(V_AT, V_SHAPE, uint16)
        warp_row = (cuda.threadIdx.x >> 5) * HEIGHT
        rg, cg = int32(warp_row + lane() // 4), int32(lane() % 4)
        Tr = int32(cdiv(Nq, Br))
        i, bh = longest_first(int32(cuda.blockIdx.x), Tr, int32(quotient(cuda.gridDim.x, Tr)), int32(together))
        i, bh = int32(i), int32(bh)
        b = quotient(bh, Hq)
        h = HEAD(bh - b * Hq)
        hk = quotient(h, quotient(Hq, Hk))
        Qh, Kh = global_view(Q, head(Q_strides, b, h), uint16), global_view(K, head(K_strides, b, hk), uint16)
        Vh = global_view(V, head(V_strides, b, hk), uint16)
        bias_h = global_view(bias, head(bias_strides, b, h), BIAS)
        mask_h = global_view(mask, head(mask_strides, b, h), uint8)
        slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
        s, derivative = cuda.local.array(SCORES, float32), cuda.local.array(SCORES, float32)
        acc, p = cuda.local.array(OUT, float32), cuda.local.array(P, uint32)
        m, l, alpha = cuda.local.array(TM, float32), cuda.local.array(TM, float32), cuda.local.array(TM, float32)
        unit = (scale if folded else ONE) * NAT
        fill(m, TM, NEG_INF)
        fill(l, TM, ZERO)
        fill(acc, OUT, ZERO)
        begin, end = key_blocks(i, Br, Bc, Nq, Nk, first, last)
        load_q(Qi, 0, Qh, Q_strides, i * Br, 0, Nq, d)
        load_k(Kj, 0, Kh, K_strides, begin * Bc, 0, Nk, d)
        commit()
        for j in range(begin, end):  # K and V come by turns: Vj while S is computed, the next Kj while O is
            wait(0)
            cuda.syncthreads()  # Qi, Kj are written; everyone has read the last Vj before it changes
            load_v(Vj, 0, Vh, V_strides, j * Bc, 0, Nk, dv)
            commit()
            fill(s, SCORES, ZERO)
            multiply_qk(s, Qi, Kj, warp_row, 0)  # line 8: S = Qi Kj^T
            wait(0)
            cuda.syncthreads()  # Vj is written; everyone has read Kj before it changes
            if j + 1 < end:
                load_k(Kj, 0, Kh, K_strides, (j + 1) * Bc, 0, Nk, d)
            commit()
            if not folded:
                modify(
                    s, derivative, rg, cg, i * Br, j * Bc, Nq, Nk, scale, softcap, slope, q_offset,
                    bias_h, bias_strides, mask_h, mask_strides, b, h,
                )  # fmt: skip
            if not all_visible(i * Br, j * Bc, Br, Bc, Nk, first, last):
                hide(s, rg, cg, i * Br, j * Bc, Nk, first, last)
            online_softmax(s, m, l, alpha, unit)  # line 9: m, P~, l
            if j > begin or not TIGHT:  # at first there is no O; the branch itself is what `tight` asks for
                rescale(acc, alpha)  # line 10: O = diag(alpha) O + P~ Vj
            round_to(p, s)
            multiply_pv(acc, p, Vj, 0, 0)
        finish(acc, m, l, global_view(LSE, bh * Nq, float32), rg, cg, i * Br, Nq)  # lines 12 and 13
        row = i * Br + warp_row
        if CHUNKS:  # by way of the warp's own rows of Qi
            O_words = global_view(O, bh * Nq * dv // 2, uint32)
            write_o(O_words, dv, acc, shared_tile(0, Q_WORDS, uint32), warp_row, row, 0, Nq, dv)
        else:
            write_o(global_view(O, bh * Nq * dv, uint16), dv, acc, row, 0, Nq, dv)

    return flash2_mma_forward
