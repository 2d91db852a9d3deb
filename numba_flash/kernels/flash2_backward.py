"""FlashAttention-2 backward.        New here: P is recomputed from LSE; a block owns key rows and adds to dQ.

Paper      Dao 2023, arXiv:2307.08691, Algorithm 2: one kernel over key blocks, dQ a sum of atomic additions. The order
           of those varies; deterministic=True leaves dQ to a second kernel over query blocks, always the same bits
Grid       keys: (Tc * B*Hk,); queries: (Tr * B*Hq,)     Threads RG * CG: each owns a `Piece` of S and of each gradient
Shapes     dO (B, Hq, Nq, dv), Q, K, V, LSE as in the forward, any strides; delta (B, Hq, Nq) contiguous
           -> dQ (B, Hq, Nq, d), dK (B, Hk, Nk, d), dV (B, Hk, Nk, dv), contiguous
On chip    keys:    | Kj Bc x D | Vj Bc x DV | Qi Br x D | dOi Br x DV | P, then dS Br x Bc |   shared
           queries: | Qi Br x D | dOi Br x DV | Kj Bc x D | Vj Bc x DV | dS Br x Bc |   rows padded by 16 bytes
           s, dp TM x TN, and the block's own gradients: registers
Invariant  after a step, dV = sum P^T dO, dK = sum dS^T Q (dQ = sum dS K) over the blocks met so far
Units      s, LSE in nats, scale applied; dK takes the scale once, at the end, and so does dQ; summed, at each addition
Edges      a row that sees no key (LSE = -inf): P = 0, so it gives and gets gradients of 0
Traffic    K, V once, Q, dO Tc times, dQ Tc times added to; deterministic: Q, dO once, K, V Tr times more, and the five
           products become seven: `traffic`
"""

from __future__ import annotations

from functools import cache

from numba import cuda
from numba.types import uint8

from numba_flash.config import Adds, Loads, Tiles, padded
from numba_flash.device.number import number
from numba_flash.device.products import make_multiply_ab, make_multiply_abt, make_multiply_atb, make_place
from numba_flash.device.scores import make_gradient, make_hide, make_modify, make_slope
from numba_flash.device.tiles import (
    fill,
    head,
    make_add_rows,
    make_load_tile,
    make_pipeline,
    make_store_piece,
    make_write_rows,
)
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import global_view, shared_tile
from numba_flash.rungs.flash2_backward import pieces
from numba_flash.tiling import all_visible, cdiv, key_blocks, query_blocks


@cache
def make_flash2_backward_keys(tiles: Tiles, dtype: str, loads: Loads, score: ScoreOptions, adds: Adds | None):
    """Algorithm 2 as it stands; without `adds`, less its dQ. A block owns one key block of one KV head."""
    Br, Bc, D, DV, CG = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.CG
    scores, queries, keys, values = pieces(tiles)
    SCORES, DK, DV_, DQ = scores.size, keys.size, values.size, queries.size
    ADDS_DQ = adds is not None
    n = number(dtype)
    STORED, REAL, ZERO = n.stored, n.real, n.zero
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored
    WIDTH = REAL.bitwidth // 8
    K_SHAPE, V_SHAPE = (Bc, padded(D, WIDTH)), (Bc, padded(DV, WIDTH))
    Q_SHAPE, O_SHAPE, P_SHAPE = (Br, padded(D, WIDTH)), (Br, padded(DV, WIDTH)), (Br, padded(Bc, WIDTH))
    V_AT = Bc * K_SHAPE[1] * WIDTH
    Q_AT = V_AT + Bc * V_SHAPE[1] * WIDTH
    O_AT = Q_AT + Br * Q_SHAPE[1] * WIDTH
    P_AT = O_AT + Br * O_SHAPE[1] * WIDTH

    load_k, load_v, load_q, load_do = (
        make_load_tile(dtype, rows, columns, tiles.threads, loads)
        for rows, columns in ((Bc, D), (Bc, DV), (Br, D), (Br, DV))
    )
    commit, wait = make_pipeline(loads)
    place = make_place(CG)
    multiply_qk, multiply_dov = make_multiply_abt(scores, D, REAL), make_multiply_abt(scores, DV, REAL)
    multiply_ptdo = make_multiply_atb(values, Br, REAL)
    multiply_dstq, multiply_dsk = make_multiply_atb(keys, Br, REAL), make_multiply_ab(queries, Bc, REAL)
    modify, hide = make_modify(scores, score, dtype, differentiated=True), make_hide(scores, dtype)
    gradient, slope_of = make_gradient(scores, score, dtype), make_slope(score, dtype)
    store_piece = make_store_piece(scores)
    write_dk = make_write_rows(keys, dtype, loads != "elements")
    write_dv = make_write_rows(values, dtype, loads != "elements")
    add_dq = make_add_rows(queries, adds or "scalars")

    def flash2_backward_keys(
        dO, dO_strides, Q, Q_strides, K, K_strides, V, V_strides, LSE, LSE_strides, delta, dQ, dK, dV,
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides, sizes, band, scale, softcap, one,
    ):  # fmt: skip
        Hq, Hk, Nq, Nk, d, dv = sizes
        first, last, q_offset = band
        Kj, Vj = shared_tile(0, K_SHAPE, REAL), shared_tile(V_AT, V_SHAPE, REAL)
        Qi, dOi = shared_tile(Q_AT, Q_SHAPE, REAL), shared_tile(O_AT, O_SHAPE, REAL)
        P = dS = shared_tile(P_AT, P_SHAPE, REAL)  # by turns
        rg, cg = place()
        Tc = cdiv(Nk, Bc)
        j, bh = cuda.blockIdx.x % Tc, cuda.blockIdx.x // Tc  # causal: the first keys meet most rows and start first
        b, hk = bh // Hk, bh % Hk
        group = Hq // Hk
        s, dp = cuda.local.array(SCORES, REAL), cuda.local.array(SCORES, REAL)
        derivative = cuda.local.array(SCORES, REAL)
        dk, dv_, dq = cuda.local.array(DK, REAL), cuda.local.array(DV_, REAL), cuda.local.array(DQ, REAL)
        fill(dk, DK, ZERO)
        fill(dv_, DV_, ZERO)
        load_k(Kj, global_view(K, head(K_strides, b, hk), STORED), K_strides, j * Bc, 0, Nk, d)
        load_v(Vj, global_view(V, head(V_strides, b, hk), STORED), V_strides, j * Bc, 0, Nk, dv)

        begin, end = query_blocks(j, Br, Bc, Nq, Nk, first, last)
        for h in range(hk * group, (hk + 1) * group):  # GQA: every query head that reads this KV head, in order
            Qh, dOh = global_view(Q, head(Q_strides, b, h), STORED), global_view(dO, head(dO_strides, b, h), STORED)
            LSEh, delta_h = global_view(LSE, head(LSE_strides, b, h), REAL), global_view(delta, (b * Hq + h) * Nq, REAL)
            bias_h = global_view(bias, head(bias_strides, b, h), BIAS)
            mask_h = global_view(mask, head(mask_strides, b, h), uint8)
            slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
            load_do(dOi, dOh, dO_strides, begin * Br, 0, Nq, dv)
            commit()
            for i in range(begin, end):  # dO and Q come by turns: Qi while dP is computed, the next dOi while dK is
                wait(0)
                cuda.syncthreads()  # Kj, Vj, dOi are written; everyone has read the last Qi, dS before they change
                load_q(Qi, Qh, Q_strides, i * Br, 0, Nq, d)
                commit()
                fill(dp, SCORES, ZERO)
                multiply_dov(dp, dOi, Vj, rg, cg)  # line 13: dP = dOi Vj^T
                wait(0)
                cuda.syncthreads()  # Qi is written before anyone reads it
                fill(s, SCORES, ZERO)
                multiply_qk(s, Qi, Kj, rg, cg)  # line 10: S = Qi Kj^T
                modify(
                    s, derivative, rg, cg, i * Br, j * Bc, Nq, Nk, scale, softcap, slope, q_offset,
                    bias_h, bias_strides, mask_h, mask_strides, b, h,
                )  # fmt: skip
                if not all_visible(i * Br, j * Bc, Br, Bc, Nk, first, last):
                    hide(s, rg, cg, i * Br, j * Bc, Nk, first, last)
                gradient(s, dp, derivative, rg, i * Br, Nq, LSEh, LSE_strides, delta_h)  # lines 11 and 14: P, dS
                store_piece(P, s, rg, cg)
                cuda.syncthreads()  # P is written before other warps read it
                multiply_ptdo(dv_, P, dOi, rg, cg)  # line 12: dVj += P^T dOi
                cuda.syncthreads()  # everyone has read dOi and P before they change
                if i + 1 < end:
                    load_do(dOi, dOh, dO_strides, (i + 1) * Br, 0, Nq, dv)
                commit()
                store_piece(dS, dp, rg, cg)
                cuda.syncthreads()  # dS is written before other warps read it
                multiply_dstq(dk, dS, Qi, rg, cg)  # line 16: dKj += dS^T Qi
                if ADDS_DQ:
                    fill(dq, DQ, ZERO)
                    multiply_dsk(dq, dS, Kj, rg, cg)  # line 15: dQi += dS Kj, in global memory
                    add_dq(global_view(dQ, (b * Hq + h) * Nq * d, REAL), d, dq, scale, rg, cg, i * Br, Nq, d)
        write_dk(global_view(dK, bh * Nk * d, STORED), d, dk, scale, rg, cg, j * Bc, Nk, d)
        write_dv(global_view(dV, bh * Nk * dv, STORED), dv, dv_, one, rg, cg, j * Bc, Nk, dv)

    return flash2_backward_keys


@cache
def make_flash2_backward_queries(tiles: Tiles, dtype: str, loads: Loads, score: ScoreOptions):
    """dQ: the same loop turned inside out, so that no two blocks write the same rows. A block owns one query block."""
    Br, Bc, D, DV, CG = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.CG
    scores, queries, _, _ = pieces(tiles)
    SCORES, DQ = scores.size, queries.size
    n = number(dtype)
    STORED, REAL, ZERO = n.stored, n.real, n.zero
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored
    WIDTH = REAL.bitwidth // 8
    Q_SHAPE, O_SHAPE, S_SHAPE = (Br, padded(D, WIDTH)), (Br, padded(DV, WIDTH)), (Br, padded(Bc, WIDTH))
    K_SHAPE, V_SHAPE = (Bc, padded(D, WIDTH)), (Bc, padded(DV, WIDTH))
    O_AT = Br * Q_SHAPE[1] * WIDTH
    K_AT = O_AT + Br * O_SHAPE[1] * WIDTH
    V_AT = K_AT + Bc * K_SHAPE[1] * WIDTH
    S_AT = V_AT + Bc * V_SHAPE[1] * WIDTH

    load_q, load_do, load_k, load_v = (
        make_load_tile(dtype, rows, columns, tiles.threads, loads)
        for rows, columns in ((Br, D), (Br, DV), (Bc, D), (Bc, DV))
    )
    commit, wait = make_pipeline(loads)
    place = make_place(CG)
    multiply_qk, multiply_dov = make_multiply_abt(scores, D, REAL), make_multiply_abt(scores, DV, REAL)
    multiply_dsk = make_multiply_ab(queries, Bc, REAL)
    modify, hide = make_modify(scores, score, dtype, differentiated=True), make_hide(scores, dtype)
    gradient, slope_of = make_gradient(scores, score, dtype), make_slope(score, dtype)
    store_piece = make_store_piece(scores)
    write_dq = make_write_rows(queries, dtype, loads != "elements")

    def flash2_backward_queries(
        dO, dO_strides, Q, Q_strides, K, K_strides, V, V_strides, LSE, LSE_strides, delta, dQ,
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides, sizes, band, scale, softcap, one,
    ):  # fmt: skip
        Hq, Hk, Nq, Nk, d, dv = sizes
        first, last, q_offset = band
        Qi, dOi = shared_tile(0, Q_SHAPE, REAL), shared_tile(O_AT, O_SHAPE, REAL)
        Kj, Vj = shared_tile(K_AT, K_SHAPE, REAL), shared_tile(V_AT, V_SHAPE, REAL)
        dS = shared_tile(S_AT, S_SHAPE, REAL)
        rg, cg = place()
        Tr = cdiv(Nq, Br)
        i, bh = Tr - 1 - cuda.blockIdx.x % Tr, cuda.blockIdx.x // Tr  # causal: the longest rows start first
        b, h = bh // Hq, bh % Hq
        hk = h // (Hq // Hk)
        Kh, Vh = global_view(K, head(K_strides, b, hk), STORED), global_view(V, head(V_strides, b, hk), STORED)
        LSEh, delta_h = global_view(LSE, head(LSE_strides, b, h), REAL), global_view(delta, bh * Nq, REAL)
        bias_h = global_view(bias, head(bias_strides, b, h), BIAS)
        mask_h = global_view(mask, head(mask_strides, b, h), uint8)
        slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
        s, dp = cuda.local.array(SCORES, REAL), cuda.local.array(SCORES, REAL)
        derivative = cuda.local.array(SCORES, REAL)
        dq = cuda.local.array(DQ, REAL)
        fill(dq, DQ, ZERO)
        begin, end = key_blocks(i, Br, Bc, Nq, Nk, first, last)
        load_q(Qi, global_view(Q, head(Q_strides, b, h), STORED), Q_strides, i * Br, 0, Nq, d)
        load_do(dOi, global_view(dO, head(dO_strides, b, h), STORED), dO_strides, i * Br, 0, Nq, dv)
        load_v(Vj, Vh, V_strides, begin * Bc, 0, Nk, dv)
        commit()
        for j in range(begin, end):  # V and K come by turns: Kj while dP is computed, the next Vj while dQ is
            wait(0)
            cuda.syncthreads()  # Qi, dOi, Vj are written; everyone has read the last Kj before it changes
            load_k(Kj, Kh, K_strides, j * Bc, 0, Nk, d)
            commit()
            fill(dp, SCORES, ZERO)
            multiply_dov(dp, dOi, Vj, rg, cg)
            cuda.syncthreads()  # everyone has read Vj before it changes
            if j + 1 < end:
                load_v(Vj, Vh, V_strides, (j + 1) * Bc, 0, Nk, dv)
            commit()
            wait(1)
            cuda.syncthreads()  # Kj is written before anyone reads it
            fill(s, SCORES, ZERO)
            multiply_qk(s, Qi, Kj, rg, cg)
            modify(
                s, derivative, rg, cg, i * Br, j * Bc, Nq, Nk, scale, softcap, slope, q_offset,
                bias_h, bias_strides, mask_h, mask_strides, b, h,
            )  # fmt: skip
            if not all_visible(i * Br, j * Bc, Br, Bc, Nk, first, last):
                hide(s, rg, cg, i * Br, j * Bc, Nk, first, last)
            gradient(s, dp, derivative, rg, i * Br, Nq, LSEh, LSE_strides, delta_h)
            store_piece(dS, dp, rg, cg)
            cuda.syncwarp()  # a row of dS is written by the lanes of one warp and read by them alone
            multiply_dsk(dq, dS, Kj, rg, cg)  # line 15: dQi += dS Kj
        write_dq(global_view(dQ, bh * Nq * d, STORED), d, dq, scale, rg, cg, i * Br, Nq, d)

    return flash2_backward_queries
