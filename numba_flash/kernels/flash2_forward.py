"""FlashAttention-2 forward.        New here: the query loop becomes the grid, and one LSE replaces l and m.

Paper      Dao 2023, arXiv:2307.08691, Algorithm 1
Grid       (Tr * B*Hq,)     Threads RG * CG: thread (rg, cg) owns rows rg + RG*r, columns cg + CG*c of S
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), any strides -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
On chip    | Qi Br x D | Kj Bc x D | Vj Bc x DV | P Br x Bc |   shared, in float32 (float64), rows padded by 16 bytes
           s TM x TN, acc TM x DV/CG, m, l, alpha TM     registers
Invariant  after block j: m = max s, l = sum e^(s-m), acc = sum e^(s-m) v over the keys seen so far
Units      s, m, LSE in nats, scale applied
Edges      a row that sees no key: O = 0, LSE = -inf; blocks outside the band are never read
Traffic    reads Q once, K and V once for each of Tr query blocks that sees them; writes O and LSE once: `traffic`
"""

from __future__ import annotations

import math
from functools import cache

from numba import cuda
from numba.types import uint8

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device, Tiles, padded
from numba_flash.device.number import number
from numba_flash.device.products import ab_reads, abt_reads, make_multiply_ab, make_multiply_abt
from numba_flash.device.scores import make_hide, make_modify, make_slope
from numba_flash.device.softmax import make_online_softmax, make_row_sum
from numba_flash.device.tiles import fill, head, make_load_tile, make_store_piece, make_write_rows
from numba_flash.kernels.arguments import choose_tiles, option_bytes, reasons_against, score_arguments
from numba_flash.problem import AttentionProblem, Operands, ScoreOptions
from numba_flash.ptx import device, global_view, shared_tile
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import all_visible, cdiv, count_key_blocks, key_blocks
from numba_flash.traffic import Traffic

# For each width of arithmetic (4 or 8 bytes) and padded head dimension: tile sizes, fastest first, then ones that
# need less shared memory.
CONFIGS = {
    (4, 32): [Tiles(128, 32, 32, 32, 8, 8), Tiles(64, 32, 32, 32, 8, 8)],
    (4, 64): [Tiles(128, 32, 64, 64, 8, 8), Tiles(64, 32, 64, 64, 8, 8)],
    (4, 128): [Tiles(128, 32, 128, 128, 8, 16), Tiles(32, 16, 128, 128, 4, 16)],
    (4, 256): [Tiles(64, 32, 256, 256, 8, 32), Tiles(16, 16, 256, 256, 4, 16)],
    (8, 32): [Tiles(64, 32, 32, 32, 4, 8), Tiles(32, 32, 32, 32, 4, 8)],
    (8, 64): [Tiles(64, 32, 64, 64, 4, 16), Tiles(32, 16, 64, 64, 4, 8)],
    (8, 128): [Tiles(32, 32, 128, 128, 2, 16), Tiles(16, 16, 128, 128, 2, 16)],
    (8, 256): [Tiles(32, 32, 256, 256, 4, 32), Tiles(8, 8, 256, 256, 1, 8)],
}


def shared_bytes(t: Tiles, itemsize: int) -> int:
    """Qi, Kj, Vj and P."""
    wide, wide_v, keys = padded(t.D, itemsize), padded(t.DV, itemsize), padded(t.Bc, itemsize)
    return (t.Br * wide + t.Bc * wide + t.Bc * wide_v + t.Br * keys) * itemsize


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return reasons_against(CONFIGS, shared_bytes, problem, device)


@cache
def make_flash2_forward(tiles: Tiles, dtype: str, vector: bool, score: ScoreOptions) -> Kernel:
    """The kernel for one set of tile sizes, storage dtype, kind of loads and score options."""
    Br, Bc, D, DV, TM, RG, CG = tiles.Br, tiles.Bc, tiles.D, tiles.DV, tiles.rows, tiles.RG, tiles.CG
    TN, TD = Bc // CG, DV // CG
    SCORES, OUT = TM * TN, TM * TD
    n = number(dtype)
    STORED, REAL, ZERO, ONE, NEG_INF = n.stored, n.real, n.zero, n.one, n.neg_inf
    BIAS, SLOPE = number(score.bias or dtype).stored, number(score.alibi or dtype).stored
    WIDTH = REAL.bitwidth // 8
    Q_SHAPE, K_SHAPE = (Br, padded(D, WIDTH)), (Bc, padded(D, WIDTH))
    V_SHAPE, P_SHAPE = (Bc, padded(DV, WIDTH)), (Br, padded(Bc, WIDTH))
    K_AT = Br * Q_SHAPE[1] * WIDTH
    V_AT = K_AT + Bc * K_SHAPE[1] * WIDTH
    P_AT = V_AT + Bc * V_SHAPE[1] * WIDTH

    load_q = make_load_tile(dtype, Br, D, tiles.threads, vector)
    load_k = make_load_tile(dtype, Bc, D, tiles.threads, vector)
    load_v = make_load_tile(dtype, Bc, DV, tiles.threads, vector)
    multiply_qk, multiply_pv = make_multiply_abt(RG, CG, TM, TN, D), make_multiply_ab(RG, CG, TM, TD, Bc, REAL)
    modify, hide = make_modify(RG, CG, TM, TN, score, dtype), make_hide(RG, CG, TM, TN, dtype)
    online_softmax, row_sum = make_online_softmax(CG, TM, TN, dtype), make_row_sum(CG)
    slope_of, store_p = make_slope(score, dtype), make_store_piece(RG, CG, TM, TN)
    write_o = make_write_rows(RG, CG, TM, TD, dtype, vector)

    @device
    def rescale(acc, alpha):
        for r in range(TM):
            for c in range(TD):
                acc[r * TD + c] *= alpha[r]

    @device
    def finish(acc, m, l, LSEh, rg, cg, row0, Nq):  # Algorithm 1, lines 12 and 13: O = diag(l)^-1 O, L = m + log(l)
        for r in range(TM):
            row, total = row0 + rg + RG * r, row_sum(l[r])
            l[r] = ZERO if total == ZERO else ONE / total
            if cg == 0 and row < Nq:
                LSEh[row] = NEG_INF if total == ZERO else m[r] + REAL(math.log(total))
        rescale(acc, l)

    def flash2_forward(
        Q, Q_strides, K, K_strides, V, V_strides, O, LSE,
        bias, bias_strides, mask, mask_strides, slopes, slopes_strides, sizes, band, scale, softcap,
    ):  # fmt: skip
        Hq, Hk, Nq, Nk, d, dv = sizes
        first, last, q_offset = band
        Qi, Kj = shared_tile(0, Q_SHAPE, REAL), shared_tile(K_AT, K_SHAPE, REAL)
        Vj, P = shared_tile(V_AT, V_SHAPE, REAL), shared_tile(P_AT, P_SHAPE, REAL)
        rg, cg = cuda.threadIdx.x // CG, cuda.threadIdx.x % CG
        Tr = cdiv(Nq, Br)
        i, bh = Tr - 1 - cuda.blockIdx.x % Tr, cuda.blockIdx.x // Tr  # causal: the longest rows start first
        b, h = bh // Hq, bh % Hq
        hk = h // (Hq // Hk)
        Qh, Kh = global_view(Q, head(Q_strides, b, h), STORED), global_view(K, head(K_strides, b, hk), STORED)
        Vh, Oh = global_view(V, head(V_strides, b, hk), STORED), global_view(O, bh * Nq * dv, STORED)
        bias_h, mask_h = (
            global_view(bias, head(bias_strides, b, h), BIAS),
            global_view(mask, head(mask_strides, b, h), uint8),
        )
        slope = slope_of(global_view(slopes, head(slopes_strides, b, h), SLOPE), 0)
        s, derivative = cuda.local.array(SCORES, REAL), cuda.local.array(SCORES, REAL)
        acc = cuda.local.array(OUT, REAL)
        m, l, alpha = cuda.local.array(TM, REAL), cuda.local.array(TM, REAL), cuda.local.array(TM, REAL)
        fill(m, TM, NEG_INF)
        fill(l, TM, ZERO)
        fill(acc, OUT, ZERO)
        load_q(Qi, Qh, Q_strides, i * Br, Nq, d)

        begin, end = key_blocks(i, Br, Bc, Nq, Nk, first, last)
        for j in range(begin, end):
            cuda.syncthreads()  # all warps have read the last Kj, Vj before they change
            load_k(Kj, Kh, K_strides, j * Bc, Nk, d)
            load_v(Vj, Vh, V_strides, j * Bc, Nk, dv)
            cuda.syncthreads()  # Qi, Kj, Vj are written before anyone reads them
            fill(s, SCORES, ZERO)
            multiply_qk(s, Qi, Kj, rg, cg)  # line 8: S = Qi Kj^T
            modify(
                s, derivative, rg, cg, i * Br, j * Bc, Nq, Nk, scale, softcap, slope, q_offset,
                bias_h, bias_strides, mask_h, mask_strides,
            )  # fmt: skip
            if not all_visible(i * Br, j * Bc, Br, Bc, Nk, first, last):
                hide(s, rg, cg, i * Br, j * Bc, Nk, first, last)
            online_softmax(s, m, l, alpha)  # line 9: m, P~, l
            rescale(acc, alpha)  # line 10: O = diag(alpha) O + P~ Vj
            store_p(P, s, rg, cg)
            cuda.syncwarp()  # a row of P is written by the lanes of one warp and read by them alone
            multiply_pv(acc, P, Vj, rg, cg)
        finish(acc, m, l, global_view(LSE, bh * Nq, REAL), rg, cg, i * Br, Nq)
        write_o(Oh, dv, acc, rg, cg, i * Br, Nq, dv)

    return Kernel(flash2_forward, tiles.threads, shared_bytes(tiles, WIDTH), tiles.blocks)


def launches(problem: AttentionProblem, device: Device, x: Operands, o: Array, lse: Array) -> list[Launch]:
    """The launches that write o (B, Hq, Nq, dv) and lse (B, Hq, Nq), both contiguous."""
    tiles = choose_tiles(CONFIGS, shared_bytes, problem, device)
    assert tiles is not None  # why_not found some
    kernel = make_flash2_forward(tiles, problem.dtype, problem.vector, problem.score)
    inputs = (x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides)
    grid = cdiv(problem.Nq, tiles.Br) * problem.B * problem.Hq
    return [Launch(kernel, grid, (*inputs, Written(o), Written(lse), *score_arguments(problem, x)))]


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads move. Tiles are read whole: beyond N, d and dv, element 0 in place of the missing ones."""
    t = choose_tiles(CONFIGS, shared_bytes, problem, device)
    assert t is not None
    stored, real, heads = ITEMSIZE[problem.dtype], ITEMSIZE[problem.real], problem.B * problem.Hq
    blocks = heads * cdiv(problem.Nq, t.Br)
    steps = heads * count_key_blocks(t.Br, t.Bc, problem.Nq, problem.Nk, problem.first, problem.last)
    Q, KV, P, TD = t.Br * t.D, t.Bc * (t.D + t.DV), t.Br * t.Bc, t.DV // t.CG
    slopes, pairs = option_bytes(problem.score)
    products = t.threads * (abt_reads(t.rows, t.Bc // t.CG, t.D) + ab_reads(t.rows, TD, t.Bc))
    return Traffic(
        global_read=(blocks * Q + steps * KV) * stored + blocks * t.threads * slopes + steps * P * pairs,
        global_written=heads * problem.Nq * (problem.dv * stored + real),
        shared_read=steps * products * real,
        shared_written=(blocks * Q + steps * (KV + P)) * real,
    )
