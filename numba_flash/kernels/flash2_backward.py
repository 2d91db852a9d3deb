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

from numba_flash.arrays import ITEMSIZE, Array, empty
from numba_flash.config import Device, Tiles, padded
from numba_flash.device.number import number
from numba_flash.device.products import Piece, make_multiply_ab, make_multiply_abt, make_multiply_atb, make_place
from numba_flash.device.scores import make_gradient, make_hide, make_modify, make_slope
from numba_flash.device.tiles import (
    Adds,
    Loads,
    fill,
    head,
    make_add_rows,
    make_load_tile,
    make_pipeline,
    make_store_piece,
    make_write_rows,
)
from numba_flash.kernels.arguments import (
    choose_tiles,
    kind_of_loads,
    option_bytes,
    read_columns,
    reasons_against,
    score_arguments,
)
from numba_flash.kernels.passes import convert as convert_pass
from numba_flash.kernels.passes import delta as delta_pass
from numba_flash.problem import AttentionProblem, Operands, ScoreOptions
from numba_flash.ptx import global_view, shared_tile
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import all_visible, cdiv, count_key_blocks, count_query_blocks, key_blocks, query_blocks
from numba_flash.traffic import Traffic

# As in flash2_forward. A thread's piece of dK and dV is 4*n rows high, so Bc is a multiple of 4*RG in the first table.
KEY_CONFIGS = {
    (4, 32): [
        Tiles(64, 64, 32, 32, 4, 8),
    ],
    (4, 64): [
        Tiles(64, 64, 64, 64, 4, 8, 2),
        Tiles(32, 64, 64, 64, 2, 8),
    ],
    (4, 128): [
        Tiles(64, 64, 128, 128, 4, 16),
        Tiles(32, 32, 128, 128, 4, 16),
        Tiles(16, 32, 128, 128, 2, 16),
    ],
    (4, 256): [
        Tiles(32, 64, 256, 256, 2, 16),
        Tiles(16, 32, 256, 256, 2, 16),
        Tiles(8, 16, 256, 256, 2, 16),
    ],
    (8, 32): [
        Tiles(32, 64, 32, 32, 2, 8),
        Tiles(16, 64, 32, 32, 1, 8),
    ],
    (8, 64): [
        Tiles(64, 64, 64, 64, 4, 16),
        Tiles(32, 64, 64, 64, 2, 16),
        Tiles(16, 32, 64, 64, 2, 16),
    ],
    (8, 128): [
        Tiles(32, 64, 128, 128, 2, 16),
        Tiles(16, 32, 128, 128, 2, 16),
        Tiles(8, 16, 128, 128, 2, 16),
    ],
    (8, 256): [
        Tiles(16, 32, 256, 256, 2, 32),
        Tiles(8, 16, 256, 256, 2, 16),
    ],
}
QUERY_CONFIGS = {
    (4, 32): [
        Tiles(64, 64, 32, 32, 4, 8),
    ],
    (4, 64): [
        Tiles(64, 64, 64, 64, 4, 8),
        Tiles(64, 32, 64, 64, 4, 8),
    ],
    (4, 128): [
        Tiles(64, 64, 128, 128, 4, 16),
        Tiles(32, 32, 128, 128, 4, 16),
        Tiles(16, 32, 128, 128, 2, 16),
    ],
    (4, 256): [
        Tiles(64, 32, 256, 256, 4, 16),
        Tiles(32, 32, 256, 256, 4, 16),
        Tiles(16, 16, 256, 256, 2, 16),
        Tiles(8, 16, 256, 256, 1, 16),
    ],
    (8, 32): [
        Tiles(64, 32, 32, 32, 4, 8),
        Tiles(32, 32, 32, 32, 2, 8),
    ],
    (8, 64): [
        Tiles(64, 64, 64, 64, 4, 16),
        Tiles(64, 32, 64, 64, 4, 8),
        Tiles(16, 32, 64, 64, 2, 16),
    ],
    (8, 128): [
        Tiles(64, 32, 128, 128, 4, 16),
        Tiles(32, 32, 128, 128, 4, 16),
        Tiles(16, 16, 128, 128, 2, 16),
        Tiles(8, 16, 128, 128, 1, 16),
    ],
    (8, 256): [
        Tiles(32, 16, 256, 256, 4, 16),
        Tiles(16, 16, 256, 256, 2, 16),
        Tiles(8, 16, 256, 256, 1, 16),
    ],
}


def shared_bytes(t: Tiles, itemsize: int) -> int:
    """Kj, Vj, Qi, dOi, and one tile for P or dS; of either kernel."""
    rows = (t.Br + t.Bc) * (padded(t.D, itemsize) + padded(t.DV, itemsize))
    return (rows + t.Br * padded(t.Bc, itemsize)) * itemsize


def pieces(t: Tiles) -> tuple[Piece, Piece, Piece, Piece]:
    """A thread's pieces of S (and dP), dQ, dK and dV."""
    RG, CG = t.RG, t.CG
    keys, values = (Piece(RG, CG, t.Bc // RG, width // CG, U=4, V=4) for width in (t.D, t.DV))
    return Piece(RG, CG, t.rows, t.Bc // CG), Piece(RG, CG, t.rows, t.D // CG, V=4), keys, values


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why these kernels cannot solve the problem on the device; empty if they can."""
    keys = reasons_against(KEY_CONFIGS, shared_bytes, problem, device)
    return keys or reasons_against(QUERY_CONFIGS, shared_bytes, problem, device)


@cache
def make_flash2_backward_keys(tiles: Tiles, dtype: str, loads: Loads, score: ScoreOptions, adds: Adds | None) -> Kernel:
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
    modify, hide = make_modify(scores, score, dtype), make_hide(scores, dtype)
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
                    bias_h, bias_strides, mask_h, mask_strides,
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

    return Kernel(flash2_backward_keys, tiles.threads, shared_bytes(tiles, WIDTH), tiles.blocks)


@cache
def make_flash2_backward_queries(tiles: Tiles, dtype: str, loads: Loads, score: ScoreOptions) -> Kernel:
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
    modify, hide = make_modify(scores, score, dtype), make_hide(scores, dtype)
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
        bias_h, mask_h = (
            global_view(bias, head(bias_strides, b, h), BIAS),
            global_view(mask, head(mask_strides, b, h), uint8),
        )
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
                bias_h, bias_strides, mask_h, mask_strides,
            )  # fmt: skip
            if not all_visible(i * Br, j * Bc, Br, Bc, Nk, first, last):
                hide(s, rg, cg, i * Br, j * Bc, Nk, first, last)
            gradient(s, dp, derivative, rg, i * Br, Nq, LSEh, LSE_strides, delta_h)
            store_piece(dS, dp, rg, cg)
            cuda.syncwarp()  # a row of dS is written by the lanes of one warp and read by them alone
            multiply_dsk(dq, dS, Kj, rg, cg)  # line 15: dQi += dS Kj
        write_dq(global_view(dQ, bh * Nq * d, STORED), d, dq, scale, rg, cg, i * Br, Nq, d)

    return Kernel(flash2_backward_queries, tiles.threads, shared_bytes(tiles, WIDTH), tiles.blocks)


def kind_of_adds(problem: AttentionProblem, device: Device) -> Adds | None:
    """How dQ is summed up in global memory; None where a second kernel computes it."""
    if problem.deterministic:
        return None
    vectors = problem.real == "float32" and problem.d % 4 == 0 and device.compute_capability >= (9, 0)
    return "vectors" if vectors else "scalars"


def launches(problem: AttentionProblem, device: Device, x: Operands, dq: Array, dk: Array, dv: Array) -> list[Launch]:
    """The launches that write dq, dk and dv, contiguous, and their scratch: delta, and dq's sum for 16-bit floats."""
    assert x.do is not None and x.lse is not None
    delta = empty(x.q, (problem.B, problem.Hq, problem.Nq), problem.real)
    key_tiles = choose_tiles(KEY_CONFIGS, shared_bytes, problem, device)
    assert key_tiles is not None  # why_not found some
    variant, adds = (problem.dtype, kind_of_loads(problem, device), problem.score), kind_of_adds(problem, device)
    inputs = (
        x.do, x.do.strides, x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides, x.lse, (*x.lse.strides, 0), delta,
    )  # fmt: skip
    tail = score_arguments(problem, x)
    dq_sum = None
    if adds is not None:
        dq_sum = dq if problem.dtype == problem.real else empty(dq, dq.shape, problem.real)
        dq_sum.fill(0)
    keys = Launch(
        make_flash2_backward_keys(key_tiles, *variant, adds),
        cdiv(problem.Nk, key_tiles.Bc) * problem.B * problem.Hk,
        (*inputs, dq_sum and Written(dq_sum), Written(dk), Written(dv), *tail),
    )
    before = [*delta_pass.launches(problem, x, delta), keys]
    if dq_sum is not None:
        return before if dq_sum is dq else [*before, *convert_pass.launches(dq_sum, dq)]
    query_tiles = choose_tiles(QUERY_CONFIGS, shared_bytes, problem, device)
    assert query_tiles is not None
    queries = Launch(
        make_flash2_backward_queries(query_tiles, *variant),
        cdiv(problem.Nq, query_tiles.Br) * problem.B * problem.Hq,
        (*inputs, Written(dq), *tail),
    )
    return [*before, queries]


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads of the launches move, without a gradient of LSE. An addition to dQ reads it and writes it."""
    both = delta_pass.traffic(problem) + key_traffic(problem, device)
    if problem.deterministic:
        return both + query_traffic(problem, device)
    return both if problem.dtype == problem.real else both + convert_pass.traffic(problem)


def key_traffic(p: AttentionProblem, device: Device) -> Traffic:
    """What the blocks that own keys move: K and V once, Q, dO, LSE and delta in every step, and dQ if it is summed."""
    t = choose_tiles(KEY_CONFIGS, shared_bytes, p, device)
    assert t is not None
    stored, real, group = ITEMSIZE[p.dtype], ITEMSIZE[p.real], p.Hq // p.Hk
    scores, queries, keys, values = pieces(t)
    blocks = p.B * p.Hk * cdiv(p.Nk, t.Bc)
    steps = p.B * p.Hq * count_query_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    slopes, pairs = option_bytes(p.score)
    read = (blocks * t.Bc + steps * t.Br) * sum(read_columns(p, t, device)) * stored
    rows = steps * 2 * t.Br * t.CG * real  # LSE and delta, by every lane of a row
    products = scores.reads(t.D + t.DV) + keys.reads(t.Br) + values.reads(t.Br)
    added = 0
    if not p.deterministic:
        products += queries.reads(t.Bc)
        added = steps * t.Br * p.d * real
    return Traffic(
        global_read=read + rows + blocks * group * t.threads * slopes + steps * t.Br * t.Bc * pairs + added,
        global_written=p.B * p.Hk * p.Nk * (p.d + p.dv) * stored + added,
        shared_read=steps * t.threads * products * real,
        shared_written=((blocks * t.Bc + steps * t.Br) * (t.D + t.DV) + steps * 2 * t.Br * t.Bc) * real,
    )


def query_traffic(p: AttentionProblem, device: Device) -> Traffic:
    """What the blocks that own queries move: Q and dO once, K, V, LSE and delta in every step."""
    t = choose_tiles(QUERY_CONFIGS, shared_bytes, p, device)
    assert t is not None
    stored, real, heads = ITEMSIZE[p.dtype], ITEMSIZE[p.real], p.B * p.Hq
    scores, queries, _, _ = pieces(t)
    blocks = heads * cdiv(p.Nq, t.Br)
    steps = heads * count_key_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    slopes, pairs = option_bytes(p.score)
    read = (blocks * t.Br + steps * t.Bc) * sum(read_columns(p, t, device)) * stored
    rows = steps * 2 * t.Br * t.CG * real
    return Traffic(
        global_read=read + rows + blocks * t.threads * slopes + steps * t.Br * t.Bc * pairs,
        global_written=heads * p.Nq * p.d * stored,
        shared_read=steps * t.threads * (scores.reads(t.D + t.DV) + queries.reads(t.Bc)) * real,
        shared_written=((blocks * t.Br + steps * t.Bc) * (t.D + t.DV) + steps * t.Br * t.Bc) * real,
    )
