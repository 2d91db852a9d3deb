"""FlashAttention-2 backward on tensor cores.        New here: S is computed transposed, so that P and dS are operands.

Paper      Dao 2023, arXiv:2307.08691, Algorithm 2: one kernel over key blocks, dQ a sum of atomic additions. The order
           of those varies; for deterministic=True a head's key blocks add to a query block one after another, the first
           keys first, always the same bits: `device.turns`
Grid       (Tc * B*Hk,)     Threads 32 a warp: warp (kg, qg) owns WM keys x WN queries of S, and the same keys x a
           share of the columns of dK and dV
Shapes     dO (B, Hq, Nq, dv), Q, K, V as in the forward, any strides; rows (B, Hq, Mq, 2): LSE and delta, contiguous
           -> dQ (B, Hq, Nq, d), dK (B, Hk, Nk, d), dV (B, Hk, Nk, dv), contiguous; dQ as sums: `passes.collect`
On chip    | Kj Bc x D | Vj Bc x DV | Q Br x D, dO Br x DV, rows Br x 2, each `stages` times | P, dS Bc x Br |
           shared, in 16 bits, rows swizzled; s, dp, dk, dv_, dq in accumulator fragments, p, ds in fragments of
           16 x 16: registers
Invariant  after a step, dV = sum P^T dO, dK = sum dS^T Q over the query blocks met so far
Units      LSE in base 2, s in products or nats; dK and dQ take the scale once, at the end
Edges      a row that sees no key (LSE = -inf): P = 0, so it gives and gets gradients of 0
Traffic    K, V once, Q, dO Tc times, dQ Tc times added to, once cleared and once collected: `traffic`
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, int32, uint16, uint32
from numba.types import uint8

from numba_flash.config import Adds, GradientTiles, Loads
from numba_flash.device.fragments import (
    lane,
    make_add_sums,
    make_multiply_ab_mma,
    make_multiply_abt_mma,
    make_multiply_tiles_mma,
    make_round,
    make_store_words,
    make_write_fragments,
)
from numba_flash.device.gradients import make_gradient_base2, make_hide_gradient, make_read_rows
from numba_flash.device.number import LOG2_E, number
from numba_flash.device.scores import make_modify, make_slope
from numba_flash.device.swizzled import make_load_swizzled, thread
from numba_flash.device.tiles import fill, head, make_pipeline
from numba_flash.device.turns import TURNS, make_number_of_block, make_turns
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import copy, device, global_view, shared_tile
from numba_flash.rungs.flash2_mma_backward import offsets, pieces
from numba_flash.tiling import all_visible, cdiv, key_blocks, longest_first, query_blocks, quotient


@cache
def make_flash2_mma_backward(
    tiles: GradientTiles, dtype: str, loads: Loads, pairs: bool, score: ScoreOptions, adds: Adds, ordered: bool
):
    """Algorithm 2 as it stands. A block owns one key block of one KV head; `ordered`: they add to dQ in their order."""
    Br, Bc, D, DV, STAGES, THREADS = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.stages, tiles.threads
    KG, QG, WM, WN, CG = tiles.KG, tiles.QG, tiles.WM, tiles.WN, tiles.D // tiles.dq_columns
    scores, products, keys, values, queries = pieces(tiles)
    SCORES, DK, DV_, DQ, P = scores.size, keys.size, values.size, queries.size, scores.size // 2
    DK_COLUMNS, DV_COLUMNS = D // QG, DV // QG
    DQ_ROWS, DQ_COLUMNS, DQ_STEP = tiles.dq_rows, tiles.dq_columns, tiles.dq_step
    MODIFIES, ROWS = score != ScoreOptions(), scores.TM
    ZERO, NEXT = number(dtype).zero, (STAGES - 1) * Br
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored
    V_AT, Q_AT, O_AT, ROWS_AT, P_AT, S_AT, END = offsets(tiles)
    K_SHAPE, V_SHAPE, Q_SHAPE, O_SHAPE = (Bc, D), (Bc, DV), (STAGES * Br, D), (STAGES * Br, DV)
    P_SHAPE, WORDS, ROWS_SHAPE = (Bc, Br), (Bc, Br // 2), (2 * STAGES * Br,)

    load_k, load_v, load_q, load_do = (
        make_load_swizzled(rows, columns, THREADS, loads) for rows, columns in ((Bc, D), (Bc, DV), (Br, D), (Br, DV))
    )
    commit, wait = make_pipeline("copies")  # LSE and delta are copied however the tiles are loaded
    multiply_kqt, multiply_vdot = (make_multiply_abt_mma(dtype, products, depth) for depth in (D, DV))
    own_ptdo, own_dstq = make_multiply_ab_mma(dtype, values, WN, DV), make_multiply_ab_mma(dtype, keys, WN, D)
    other_ptdo = make_multiply_tiles_mma(dtype, values, WN, Br, DV, False)
    other_dstq = make_multiply_tiles_mma(dtype, keys, WN, Br, D, False)
    multiply_dsk = make_multiply_tiles_mma(dtype, queries, Bc, Br, D, True)
    modify, hide = make_modify(scores, score, dtype, differentiated=True), make_hide_gradient(scores)
    gradient, read_rows = make_gradient_base2(scores, score), make_read_rows(ROWS)
    slope_of = make_slope(score, dtype)
    round_to, store_words = make_round(dtype, products), make_store_words(WM, WN, Br)
    add_dq, (take_turns, end_last_turn) = make_add_sums(DQ, THREADS, adds), make_turns(ordered, tiles.warps)
    number_of_block = make_number_of_block(ordered, END)
    write_dk, write_dv = (make_write_fragments(dtype, WM, columns, pairs) for columns in (DK_COLUMNS, DV_COLUMNS))

    @device
    def fetch(Qs, dOs, rows, top, Qh, Q_strides, dOh, dO_strides, rows_h, i, Nq, d, dv):
        load_q(Qs, top, Qh, Q_strides, i * Br, 0, Nq, d)
        load_do(dOs, top, dOh, dO_strides, i * Br, 0, Nq, dv)
        x = 2 * thread()
        if x < Br:
            copy(rows, 2 * (top + x), rows_h, 2 * (i * Br + x), 4, True)  # those of two rows

    def flash2_mma_backward(
        dO, dO_strides, Q, Q_strides, K, K_strides, V, V_strides, rows, dQ, turns, dK, dV,
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides, sizes, band, scale, softcap, one, together,
    ):  # fmt: skip
        Hq, Hk, Nq, Nk, d, dv = sizes
        first, last, q_offset = band
        Kj, Vj = shared_tile(0, K_SHAPE, uint16), shared_tile(V_AT, V_SHAPE, uint16)
        Qs, dOs = shared_tile(Q_AT, Q_SHAPE, uint16), shared_tile(O_AT, O_SHAPE, uint16)
        P_t, dS_t = shared_tile(P_AT, P_SHAPE, uint16), shared_tile(S_AT, P_SHAPE, uint16)
        P_words, dS_words = shared_tile(P_AT, WORDS, uint32), shared_tile(S_AT, WORDS, uint32)
        rows_s = shared_tile(ROWS_AT, ROWS_SHAPE, float32)
        warp = thread() >> 5
        kg, qg = warp % KG, warp // KG
        key, query = kg * WM, qg * WN  # the first ones of this warp in the tile
        rg, cg = lane() % 4, key + lane() // 4
        Tc, Tr = int32(cdiv(Nk, Bc)), int32(cdiv(Nq, Br))
        heads = int32(quotient(cuda.gridDim.x, Tc))
        behind, bh = longest_first(number_of_block(turns), Tc, heads, int32(together))
        j, bh = int32(Tc - 1 - behind), int32(bh)  # causal: the first keys meet most rows
        b, turns = int32(quotient(bh, Hk)), global_view(turns, 0, int32)
        hk, group = int32(bh - b * Hk), int32(Hq // Hk)
        s, dp = cuda.local.array(SCORES, float32), cuda.local.array(SCORES, float32)
        derivative = cuda.local.array(SCORES, float32)
        lse, delta = cuda.local.array(ROWS, float32), cuda.local.array(ROWS, float32)
        p, ds = cuda.local.array(P, uint32), cuda.local.array(P, uint32)
        dk, dv_, dq = cuda.local.array(DK, float32), cuda.local.array(DV_, float32), cuda.local.array(DQ, float32)
        fill(dk, DK, ZERO)
        fill(dv_, DV_, ZERO)
        load_k(Kj, 0, global_view(K, head(K_strides, b, hk), uint16), K_strides, j * Bc, 0, Nk, d)
        load_v(Vj, 0, global_view(V, head(V_strides, b, hk), uint16), V_strides, j * Bc, 0, Nk, dv)
        factor = LOG2_E if MODIFIES else scale * LOG2_E

        begin, end = query_blocks(j, Br, Bc, Nq, Nk, first, last)
        top, owed = 0, int32(-1)
        for h in range(int32(hk * group), int32((hk + 1) * group)):  # GQA: every query head that reads this KV head
            Qh, dOh = global_view(Q, head(Q_strides, b, h), uint16), global_view(dO, head(dO_strides, b, h), uint16)
            first_block = int32((b * Hq + h) * Tr)
            rows_h = global_view(rows, first_block * Br * 2, float32)
            bias_h = global_view(bias, head(bias_strides, b, h), BIAS)
            mask_h = global_view(mask, head(mask_strides, b, h), uint8)
            slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
            fetch(Qs, dOs, rows_s, top, Qh, Q_strides, dOh, dO_strides, rows_h, max(end - 1, 0), Nq, d, dv)
            commit()
            for n in range(end - begin):  # from the last one: the first keys, which start first, meet it
                i = end - 1 - n
                wait(0)
                cuda.syncthreads()  # Q, dO at `top` are written; the others, P and dS are read before they change
                following = NEXT & ~top
                if STAGES > 1 and i > begin:
                    fetch(Qs, dOs, rows_s, following, Qh, Q_strides, dOh, dO_strides, rows_h, i - 1, Nq, d, dv)
                commit()
                before, _ = key_blocks(i, Br, Bc, Nq, Nk, first, last)
                turn = int32(TURNS + first_block + i)
                take_turns(turns, owed, turn, int32(j - before), warp)
                owed = turn
                fill(s, SCORES, ZERO)
                multiply_kqt(s, Kj, Qs, key, top + query)  # line 10: S^T = Kj Qi^T
                if MODIFIES:
                    modify(
                        s, derivative, rg, cg, i * Br + query, j * Bc, Nq, Nk, scale, softcap, slope, q_offset,
                        bias_h, bias_strides, mask_h, mask_strides, b, h,
                    )  # fmt: skip
                if MODIFIES:
                    cuda.syncwarp()  # no hazard: it only keeps the next loads from taking registers earlier
                fill(dp, SCORES, ZERO)
                multiply_vdot(dp, Vj, dOs, key, top + query)  # line 13: dP^T = Vj dOi^T
                cuda.syncwarp()  # no hazard: the same
                read_rows(lse, delta, rows_s, top + query + 2 * rg)
                gradient(s, dp, derivative, factor, lse, delta)  # lines 11 and 14: P, dS
                if not all_visible(i * Br, j * Bc, Br, Bc, Nk, first, last):
                    hide(s, dp, rg, cg, i * Br + query, j * Bc, Nk, first, last)
                round_to(p, s)
                round_to(ds, dp)
                store_words(P_words, p, key, query)
                store_words(dS_words, ds, key, query)
                own_ptdo(dv_, p, dOs, top + query, qg * DV_COLUMNS)  # line 12: dVj += P^T dOi, for the warp's queries
                own_dstq(dk, ds, Qs, top + query, qg * DK_COLUMNS)  # line 16: dKj += dS^T Qi
                cuda.syncthreads()  # P and dS are written before other warps read them
                for step in range(1, QG):
                    other = (qg + step) % QG * WN
                    other_ptdo(dv_, P_t, dOs, key, other, top + other, qg * DV_COLUMNS)
                    other_dstq(dk, dS_t, Qs, key, other, top + other, qg * DK_COLUMNS)
                for x in range(0, DQ_COLUMNS, DQ_STEP):
                    fill(dq, DQ, ZERO)
                    multiply_dsk(dq, dS_t, Kj, warp // CG * DQ_ROWS, 0, 0, warp % CG * DQ_COLUMNS + x)
                    add_dq(global_view(dQ, (first_block + i) * (Br * D), float32), x // DQ_STEP * DQ, dq)  # line 15
                if STAGES == 1:
                    cuda.syncthreads()  # everyone has read Q, dO, LSE and delta before they change
                    if i > begin:
                        fetch(Qs, dOs, rows_s, 0, Qh, Q_strides, dOh, dO_strides, rows_h, i - 1, Nq, d, dv)
                    commit()
                top = following
        end_last_turn(turns, owed, warp)
        for n in range(DK):
            dk[n] *= scale
        write_dk(global_view(dK, bh * Nk * d, uint16), d, dk, j * Bc + key, qg * DK_COLUMNS, Nk, d)
        write_dv(global_view(dV, bh * Nk * dv, uint16), dv, dv_, j * Bc + key, qg * DV_COLUMNS, Nk, dv)

    return flash2_mma_backward
