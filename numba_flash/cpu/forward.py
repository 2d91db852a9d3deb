"""FlashAttention-2 forward on a CPU.        New here: a SIMD lane plays the part of a CUDA thread, one query per lane.

Paper     Dao 2023, arXiv:2307.08691, Alg. 1
Grid      (B * Hq * Tr,) tasks in a prange; first and last query blocks alternate, so that equal shares of the tasks are
          equal work under a causal mask too
Shapes    Q (B, Hq, Nq, d), K (B, Hk, Nk, d), V (B, Hk, Nk, dv) -> O (B, Hq, Nq, dv), LSE (B, Hq, Nq)
On chip   Qt (d, Br), Kj (Bc, d), Vj (Bc, dv), St (Bc, Br), Ot and its increment (dv, Br), in a core's cache.
          t: transposed, so that a row holds one number of each query and softmax needs no sum across lanes:
              St = Kj Qt,   Ot = Vj^T Pt
Invariant after block j: m = max s, l = sum e^(s-m), Ot = sum e^(s-m) v over the keys so far
Units     s, m, LSE in nats, scale applied
Edges     row with no visible key: O = 0, LSE = -inf; m starts at the lowest finite number, so that -inf - m is -inf
Traffic   reads K, V Tr times, by visible blocks; writes O once
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, prange

from numba_flash.cpu.compiling import compiled, inner, output, read_only, source_digest
from numba_flash.cpu.exponential import exp
from numba_flash.cpu.products import product
from numba_flash.cpu.registers import ROWS, VECTOR_BYTES
from numba_flash.cpu.scores import Scoring, bias_and_hide, cap, scale_and_modify, scoring_arguments, scoring_types
from numba_flash.cpu.tiles import BLOCK, load_columns, load_rows
from numba_flash.tiling import cdiv


def flash2_forward(q: Any, k: Any, v: Any, **scoring: Any) -> tuple[Any, Any]:
    """O = softmax(S) V and LSE = logsumexp(S), by tiles, in O(N) memory, on all of numba's threads.

    Parameters
    ----------
    q, k, v : (B, Hq, Nq, d), (B, Hk, Nk, d), (B, Hk, Nk, dv) NumPy arrays of float32 or float64
        Any strides. Query head h reads KV head h // (Hq // Hk).
    scale : float
        s = scale * q.k, before everything else.
    first, last : int
        The band of diagonals that is visible: i + first <= j <= i + last.
    q_offset : int
        Position of query 0, for ALiBi only.
    softcap : float, optional
        s = softcap * tanh(s / softcap).
    alibi_slopes : (B, Hq) array, optional
        s = s - slope * |i + q_offset - j|.
    bias, mask : (B, Hq, Nq, Nk) arrays, of q's dtype and of bool, optional
        s = s + bias; s = -inf where mask is False.
    score_mod, mask_mod : Mod, optional
        s = score_mod(s, b, h, i, j), before the softcap; s = -inf where mask_mod is False.

    Returns
    -------
    o : (B, Hq, Nq, dv) in q's dtype; 0 where a row sees no key
    lse : (B, Hq, Nq) in q's dtype, natural logarithm; -inf where a row sees no key
    """
    o = np.empty(q.shape[:3] + v.shape[3:], q.dtype)
    lse = np.empty(q.shape[:3], q.dtype)
    forward_kernel(q.dtype)(q, k, v, *scoring_arguments(q, k, **scoring), o, lse)
    return o, lse


@cache
def forward_kernel(dtype: np.dtype) -> Any:
    """The pass, compiled for a dtype."""
    real = from_dtype(dtype)
    inputs = [read_only(real, 4)] * 3
    return compiled(make_forward(source_digest()), *inputs, *scoring_types(real), output(real, 4), output(real, 3))


def make_forward(sources: int) -> Any:
    """The pass as a function that closes over the digest of its sources, and returns it."""

    def flash2_forward_kernel(
        Q, K, V, scale, softcap, first, last, q_offset, slopes, bias, mask, score_mod, mask_mod, O, LSE
    ):
        (B, Hq, Nq, _), Nk = Q.shape, K.shape[2]
        group = Hq // K.shape[1]
        Tr = cdiv(Nq, BLOCK)
        for task in prange(B * Hq * Tr):
            b, h, n = task // (Hq * Tr), task // Tr % Hq, task % Tr
            i = n // 2 if n % 2 == 0 else Tr - 1 - n // 2
            rules = Scoring(
                scale, softcap, first, last, q_offset, slopes[b, h], bias[b, h], mask[b, h], score_mod, mask_mod,
                b, h, Nq, Nk, 0,
            )  # fmt: skip
            attend(Q[b, h], K[b, h // group], V[b, h // group], rules, i * BLOCK, O[b, h], LSE[b, h])
        return sources

    return flash2_forward_kernel


@inner
def attend(Q, K, V, scoring, row, O, LSE):
    """O and LSE of one head's query block at `row`."""
    (Nq, d), (Nk, dv), dtype = Q.shape, V.shape, Q.dtype
    rows = min(BLOCK, Nq - row)
    begin, end = max(0, row + scoring.first), min(Nk, row + rows + scoring.last)
    Br, Bc, dv_rows = max(rows, VECTOR_BYTES // Q.itemsize), min(BLOCK, max(Nk, ROWS)), max(dv, ROWS)
    Qt, Kj, Vj = np.empty((d, Br), dtype), np.empty((Bc, d), dtype), np.empty((Bc, dv_rows), dtype)
    St, Ot, PVt = np.empty((Bc, Br), dtype), np.zeros((dv_rows, Br), dtype), np.empty((dv_rows, Br), dtype)
    m, l, alpha, p_sum = np.empty(Br, dtype), np.zeros(Br, dtype), np.empty(Br, dtype), np.empty(Br, dtype)
    m[:] = np.finfo(dtype).min

    load_columns(Qt, Q, row, rows)
    for col in range(begin, end, Bc):
        cols = min(Bc, end - col)
        load_rows(Kj, K, col, cols)
        load_rows(Vj, V, col, cols)
        product(St[: max(cols, ROWS)], Kj, Qt, d)  # S = Qi Kj^T
        S = St[:cols]
        scale_and_modify(S, S, scoring, row, col)
        cap(S, scoring.softcap)
        bias_and_hide(S, scoring, row, col, rows)
        online_softmax(S, m, l, alpha, p_sum)
        product(PVt, Vj.T, S, cols)  # O = diag(alpha) O + P Vj
        rescale_and_add(Ot, alpha, PVt)
    store(O, LSE, row, rows, Ot, m, l)


@inner
def online_softmax(St, m, l, alpha, p_sum):
    """Move the running maximum on: s becomes p = e^(s - m), l = alpha l + sum p, alpha = e^(m_old - m)."""
    Bc, Br = St.shape
    for r in range(Br):
        alpha[r] = m[r]
        p_sum[r] = 0
    for c in range(Bc):
        for r in range(Br):
            m[r] = np.maximum(m[r], St[c, r])
    for r in range(Br):
        alpha[r] = exp(alpha[r] - m[r])
    for c in range(Bc):
        for r in range(Br):
            St[c, r] -= m[r]
    p = St.ravel()
    for x in range(p.size):  # one long loop: rows are short
        p[x] = exp(p[x])
    for c in range(Bc):
        for r in range(Br):
            p_sum[r] += St[c, r]
    for r in range(Br):
        l[r] = alpha[r] * l[r] + p_sum[r]


@inner
def rescale_and_add(Ot, alpha, PVt):
    """O = diag(alpha) O + P V."""
    for x in range(Ot.shape[0]):
        for r in range(Ot.shape[1]):
            Ot[x, r] = alpha[r] * Ot[x, r] + PVt[x, r]


@inner
def store(O, LSE, row, rows, Ot, m, l):
    """O = O / l and LSE = m + log(l), or 0 and -inf where l = 0: no key was visible."""
    nothing = O.dtype.type(0)
    for r in range(rows):
        for x in range(O.shape[1]):
            O[row + r, x] = nothing if l[r] == 0 else Ot[x, r] / l[r]
        LSE[row + r] = m[r] + np.log(l[r])
