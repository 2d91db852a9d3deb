"""FlashAttention-2 backward on a CPU.        New here: turns, in which no two tasks add to the same rows.

Paper     Dao 2023, arXiv:2307.08691, Alg. 2, whose atomic adds to dQ the turns replace
Grid      turns, one after the other, of (B * Hk * visible pairs of the turn,) tasks in a prange: see turns.py
Shapes    dO (B, Hq, Nq, dv), Q, K, V, O, LSE as in the forward -> dQ, dK, dV like Q, K, V
On chip   Kj (Bc, d), Kt (d, Bc), Vt (dv, Bc), Qi (Br, d), dOi (Br, dv), S, dP (Br, Bc) and the products, in a core's
          cache; t: transposed, so that a lane is a key:   S = Qi Kt,   dP = dOi Vt
Invariant after a turn: dQ, dK, dV hold the sums over all pairs of blocks of the turns so far
Units     s, LSE in nats, scale applied; delta = rowsum(dO*O) - dLSE, because dLSE adds P * dLSE to dS
Edges     dS = 0 where s = -inf, whatever dP is there; a row with no visible key gives and gets nothing
Traffic   reads Q, dO Tc times and K, V Tr / RUN times, by visible pairs; adds to dQ Tc times, to dK, dV Tr times
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, prange

from numba_flash.cpu.compiling import compiled, inner, output, read_only, source_digest
from numba_flash.cpu.exponential import exp
from numba_flash.cpu.products import product
from numba_flash.cpu.registers import ROWS, VECTOR_BYTES
from numba_flash.cpu.scores import Scoring, bias_and_hide, cap, scale_and_modify, scoring_arguments, scoring_types
from numba_flash.cpu.tiles import BLOCK, add_rows, load_columns, load_rows, odd_vectors
from numba_flash.cpu.turns import RUN, list_pairs, turns
from numba_flash.tiling import cdiv


def flash2_backward(
    do: Any, q: Any, k: Any, v: Any, o: Any, lse: Any, *, dlse: Any = None, **scoring: Any
) -> tuple[Any, Any, Any]:
    """dQ, dK and dV of sum(dO*O) + sum(dLSE*LSE), by tiles, in O(N) memory, bitwise the same on any number of threads.

    Parameters
    ----------
    do, o : (B, Hq, Nq, dv) arrays of q's dtype
    lse, dlse : (B, Hq, Nq) arrays of q's dtype
        `lse` as `flash2_forward` returned it; without `dlse`, LSE counts as unused.
    q, k, v, **scoring
        As in `flash2_forward`.

    Returns
    -------
    dq, dk, dv : arrays like q, k, v, C-contiguous
    """
    dlse = np.broadcast_to(q.dtype.type(0), lse.shape) if dlse is None else dlse
    dq, dk, dv = (np.zeros(x.shape, x.dtype) for x in (q, k, v))
    run = backward_kernel(q.dtype)
    run(do, q, k, v, o, lse, dlse, *scoring_arguments(q, k, **scoring, differentiated=True), dq, dk, dv)
    return dq, dk, dv


@cache
def backward_kernel(dtype: np.dtype) -> Any:
    """The pass, compiled for a dtype."""
    real = from_dtype(dtype)
    inputs = [read_only(real, 4)] * 5 + [read_only(real, 3)] * 2
    return compiled(make_backward(source_digest()), *inputs, *scoring_types(real), *[output(real, 4)] * 3)


def make_backward(sources: int) -> Any:
    """The pass as a function that closes over the digest of its sources, and returns it."""

    def flash2_backward_kernel(
        dO, Q, K, V, O, LSE, dLSE, scale, softcap, first, last, q_offset, slopes, bias, mask, score_mod, mask_mod,
        dQ, dK, dV,
    ):  # fmt: skip
        (B, Hq, Nq, _), (_, Hk, Nk, _) = Q.shape, K.shape
        group = Hq // Hk
        delta = np.empty((B, Hq, Nq), Q.dtype)
        for bh in prange(B * Hq):
            b, h = bh // Hq, bh % Hq
            row_sums(dO[b, h], O[b, h], dLSE[b, h], delta[b, h])

        runs, keys = np.empty(cdiv(Nq, BLOCK), np.int64), np.empty(cdiv(Nq, BLOCK), np.int64)
        begin, end = turns(Nq, Nk, first, last)
        for turn in range(begin, end):
            pairs = list_pairs(runs, keys, turn, Nq, Nk, first, last)
            for task in prange(B * Hk * pairs):
                b, hk, pair = task // (Hk * pairs), task // pairs % Hk, task % pairs
                row, col = runs[pair] * RUN * BLOCK, keys[pair] * BLOCK
                tiles = load_keys(K[b, hk], V[b, hk], col)
                for h in range(hk * group, (hk + 1) * group):
                    head = Head(Q[b, h], dO[b, h], LSE[b, h], delta[b, h], dQ[b, h], dK[b, hk], dV[b, hk])
                    rules = Scoring(
                        scale, softcap, first, last, q_offset, slopes[b, h], bias[b, h], mask[b, h], score_mod,
                        mask_mod, b, h, Nq, Nk, 1,
                    )  # fmt: skip
                    add_run(head, rules, tiles, row, col)
        return sources

    return flash2_backward_kernel


class Head(NamedTuple):
    """One query head: what it is read from and what it adds to."""

    Q: Any  # (Nq, d)
    dO: Any  # (Nq, dv)
    LSE: Any  # (Nq,)
    delta: Any  # (Nq,)
    dQ: Any  # (Nq, d)
    dK: Any  # (Nk, d), of its KV head
    dV: Any  # (Nk, dv), of its KV head


class Tiles(NamedTuple):
    """A task's scratch."""

    Kj: Any  # (Bc, d)
    Kt: Any  # (d, Bc)
    Vt: Any  # (dv, Bc)
    Qi: Any  # (Br, d)
    dOi: Any  # (Br, dv)
    S: Any  # (Br, Bc)
    dP: Any  # (Br, Bc)
    dQi: Any  # (Br, d)
    dKj: Any  # (Bc, d)
    dVj: Any  # (Bc, dv)


@inner
def row_sums(dO, O, dLSE, delta):
    """delta = rowsum(dO*O) - dLSE."""
    for r in range(O.shape[0]):
        total = -dLSE[r]
        for x in range(O.shape[1]):
            total += dO[r, x] * O[r, x]
        delta[r] = total


@inner
def load_keys(K, V, col):
    """Scratch for a task, with the key block at `col` in it."""
    (Nk, d), dv, dtype = K.shape, V.shape[1], K.dtype
    lanes = VECTOR_BYTES // K.itemsize
    cols = min(BLOCK, Nk - col)
    Br, Bc, Bc_rows = BLOCK, max(cols, lanes), max(cols, ROWS)
    Kj, Kt, Vt = np.empty((Bc, odd_vectors(d, lanes)), dtype), np.empty((d, Bc), dtype), np.empty((dv, Bc), dtype)
    Qi, dOi = np.empty((Br, odd_vectors(d, lanes)), dtype), np.empty((Br, odd_vectors(dv, lanes)), dtype)
    S, dP = np.empty((Br, Bc), dtype), np.empty((Br, Bc), dtype)
    dQi, dKj = np.empty((Br, max(d, lanes)), dtype), np.empty((Bc_rows, max(d, lanes)), dtype)
    dVj = np.empty((Bc_rows, max(dv, lanes)), dtype)
    load_rows(Kj, K, col, cols)
    load_columns(Kt, K, col, cols)
    load_columns(Vt, V, col, cols)
    return Tiles(Kj, Kt, Vt, Qi, dOi, S, dP, dQi, dKj, dVj)


@inner
def add_run(head, scoring, tiles, start, col):
    """Add what a run of query blocks and the key block at `col` contribute, where they see one another."""
    Nq, cols = len(head.Q), min(BLOCK, len(head.dK) - col)
    for row in range(start, min(start + RUN * BLOCK, Nq), BLOCK):
        rows = min(BLOCK, Nq - row)
        if row + scoring.first < col + cols and col < row + rows + scoring.last:
            add_gradients(head, scoring, tiles, row, rows, col, cols)


@inner
def add_gradients(head, scoring, tiles, row, rows, col, cols):
    """Add what one pair of blocks contributes."""
    Kj, Kt, Vt, Qi, dOi, S, dP, dQi, dKj, dVj = tiles
    Br = max(rows, ROWS)
    load_rows(Qi, head.Q, row, rows)
    load_rows(dOi, head.dO, row, rows)
    product(S[:Br], Qi, Kt, len(Kt))  # S = Qi Kj^T
    product(dP[:Br], dOi, Vt, len(Vt))  # dP = dOi Vj^T
    softmax_gradient(S[:rows], dP[:rows], head, scoring, row, col, cols)
    P, dS = S, dP
    product(dVj, P.T, dOi, rows)  # dVj += P^T dOi
    add_rows(head.dV, col, cols, head.dV.dtype.type(1), dVj)
    product(dKj, dS.T, Qi, rows)  # dKj += scale dS^T Qi
    add_rows(head.dK, col, cols, scoring.scale, dKj)
    product(dQi[:Br], dS, Kj, cols)  # dQi += scale dS Kj
    add_rows(head.dQ, row, rows, scoring.scale, dQi)


@inner
def softmax_gradient(S, dP, head, scoring, row, col, cols):
    """From the products Q.K and dO.V, in place: P = e^(S - LSE) and dS = P * (dP - delta)."""
    LSE, delta = head.LSE[row : row + len(S)], head.delta[row : row + len(S)]
    keys_first = exchanged(scoring)
    subtract_delta(dP, delta)
    if scoring.score_mod != 0:
        derivative = np.empty_like(S)
        scale_and_modify(S, derivative, keys_first, col, row)
        dP *= derivative
    else:
        scale_and_modify(S, S, keys_first, col, row)
    cap(S, scoring.softcap)
    if scoring.softcap > 0:
        through_cap(dP, S, scoring.softcap)
    bias_and_hide(S, keys_first, col, row, cols)
    for r in range(S.shape[0]):
        lse = S.dtype.type(0) if LSE[r] == -np.inf else LSE[r]
        for c in range(S.shape[1]):
            S[r, c] -= lse
    p, ds, hidden = S.ravel(), dP.ravel(), S.dtype.type(0)
    for x in range(p.size):  # one long loop: rows are short
        s = p[x]
        p[x] = exp(s)
        ds[x] = hidden if p[x] == 0 else p[x] * ds[x]  # even where a derivative is infinite


@inner
def exchanged(scoring):
    """The rules seen from the keys' side, for tiles with a row per query and a lane per key."""
    first, last, q_offset = -scoring.last, -scoring.first, -scoring.q_offset
    return Scoring(
        scoring.scale, scoring.softcap, first, last, q_offset, scoring.slope, scoring.bias.T, scoring.mask.T,
        scoring.score_mod, scoring.mask_mod, scoring.b, scoring.h, scoring.Nq, scoring.Nk, scoring.rows,
    )  # fmt: skip


@inner
def subtract_delta(dP, delta):
    """dP becomes dP - delta."""
    for r in range(dP.shape[0]):
        for c in range(dP.shape[1]):
            dP[r, c] -= delta[r]


@inner
def through_cap(dP, S, softcap):
    """dP becomes dP * (1 - tanh^2), where the capped score is S = softcap * tanh."""
    for r in range(S.shape[0]):
        for c in range(S.shape[1]):
            t = S[r, c] / softcap
            dP[r, c] *= 1 - t * t
