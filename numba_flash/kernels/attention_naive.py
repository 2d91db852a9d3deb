"""Attention by its formula.        New here: nothing is saved; S, then P, then O in global memory, a launch for each.

Paper      Dao et al. 2022, arXiv:2205.14135, Algorithm 0: S = scale Q K^T; P = softmax(S); O = P V
           softmax in three passes: m = max s (1); l = sum e^(s - m) (2); p = e^(s - m) / l (3)
Grid       S: a thread an element; P: a warp a row; O: a thread an element     Threads 128
Shapes     Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv), any strides -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
           S (B, Hq, Nq, Nk), scratch in float32 (float64); P takes its place
On chip    one number a thread: nothing is shared, so what two threads need is read twice
Invariant  in the product's loop, o = sum of p v over the keys < j
Units      s, m, LSE in nats, scale applied
Edges      a key outside the band: s = -inf, p = 0, and its V is not read; a row that sees no key: O = 0, LSE = -inf
Traffic    reads 2 d + dv numbers of Q, K, V for each visible pair; S: Nq*Nk numbers a head are written twice and read
           three times, those of visible pairs dv times more; writes O and LSE once
"""

from __future__ import annotations

import math
from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.device.softmax import make_row_max, make_row_sum
from numba_flash.device.tiles import head
from numba_flash.ptx import global_view
from numba_flash.tiling import seen_keys, sees


@cache
def make_attention_naive_scores(dtype: str, threads: int):
    """S = scale Q K^T, -inf outside the band."""
    n = number(dtype)
    STORED, REAL, ZERO, NEG_INF, to_real = n.stored, n.real, n.zero, n.neg_inf, n.to_real

    def attention_naive_scores(Q, Q_strides, K, K_strides, S, sizes, band, scale):
        B, Hq, Hk, Nq, Nk, d, dv = sizes
        first, last = band
        element = cuda.blockIdx.x * threads + cuda.threadIdx.x
        bh, i, j = element // Nk // Nq, element // Nk % Nq, element % Nk
        b, h = bh // Hq, bh % Hq
        if b < B:
            q = global_view(Q, head(Q_strides, b, h) + i * Q_strides[2], STORED)
            k = global_view(K, head(K_strides, b, h // (Hq // Hk)) + j * K_strides[2], STORED)
            s = NEG_INF
            if sees(i, j, Nk, first, last):
                s = ZERO
                for x in range(d):
                    s += to_real(q[x * Q_strides[3]]) * to_real(k[x * K_strides[3]])
                s *= scale
            global_view(S, 0, REAL)[element] = s

    return attention_naive_scores


@cache
def make_attention_naive_softmax(dtype: str, rows: int, lanes: int):
    """P = softmax(S) in the place of S, and LSE."""
    n = number(dtype)
    REAL, ZERO, ONE, NEG_INF, exp = n.real, n.zero, n.one, n.neg_inf, n.exp
    row_max, row_sum = make_row_max(lanes), make_row_sum(lanes)

    def attention_naive_softmax(S, LSE, sizes):
        B, Hq, Hk, Nq, Nk, d, dv = sizes
        lane, row = cuda.threadIdx.x % lanes, cuda.blockIdx.x * rows + cuda.threadIdx.x // lanes
        if row < B * Hq * Nq:
            s = global_view(S, row * Nk, REAL)
            m = NEG_INF
            for j in range(lane, Nk, lanes):  # (1)
                m = max(m, s[j])
            m = row_max(m)
            pivot = ZERO if m == NEG_INF else m  # a row that sees nothing: e^(-inf - 0) = 0, not NaN
            l = ZERO
            for j in range(lane, Nk, lanes):  # (2)
                l += exp(s[j] - pivot)
            l = row_sum(l)
            divisor = ONE if l == ZERO else l
            for j in range(lane, Nk, lanes):  # (3)
                s[j] = exp(s[j] - pivot) / divisor
            if lane == 0:
                global_view(LSE, 0, REAL)[row] = m + REAL(math.log(divisor))

    return attention_naive_softmax


@cache
def make_attention_naive_product(dtype: str, threads: int):
    """O = P V."""
    n = number(dtype)
    STORED, REAL, ZERO, to_real, to_stored = n.stored, n.real, n.zero, n.to_real, n.to_stored

    def attention_naive_product(P, V, V_strides, O, sizes, band):
        B, Hq, Hk, Nq, Nk, d, dv = sizes
        first, last = band
        element = cuda.blockIdx.x * threads + cuda.threadIdx.x
        row, c = element // dv, element % dv
        bh, i = row // Nq, row % Nq
        b, h = bh // Hq, bh % Hq
        if b < B:
            p = global_view(P, row * Nk, REAL)
            v = global_view(V, head(V_strides, b, h // (Hq // Hk)) + c * V_strides[3], STORED)
            o = ZERO
            begin, end = seen_keys(i, Nk, first, last)
            for j in range(begin, end):
                o += p[j] * to_real(v[j * V_strides[2]])
            global_view(O, 0, STORED)[element] = to_stored(o)

    return attention_naive_product
