"""FlashAttention: Dao et al. 2022, arXiv:2205.14135. Line numbers are those of its algorithms."""

from __future__ import annotations

import numpy as np

from numba_flash.algorithms.tiles import hide, load_tile
from numba_flash.reference import Array
from numba_flash.tiling import cdiv, query_blocks


def flash1_forward(
    Q: Array, K: Array, V: Array, Br: int, Bc: int, scale: float, first: int, last: int
) -> tuple[Array, Array]:
    """O (Nq, dv) and LSE (Nq,): Algorithm 1, with LSE for the l and m that it leaves."""
    (Nq, d), (Nk, dv) = Q.shape, V.shape
    # line 2
    O, l, m = np.zeros((Nq, dv), Q.dtype), np.zeros(Nq, Q.dtype), np.full(Nq, -np.inf, Q.dtype)
    # line 5
    for j in range(cdiv(Nk, Bc)):
        # line 6
        Kj, Vj = load_tile(K, j * Bc, 0, (Bc, d)), load_tile(V, j * Bc, 0, (Bc, dv))
        # line 7, without the blocks that see no key of this one
        for i in range(*query_blocks(j, Br, Bc, Nq, Nk, first, last)):
            rows = slice(i * Br, min((i + 1) * Br, Nq))
            # lines 8 and 9
            s = Q[rows] @ Kj.T * scale
            hide(s, i * Br, j * Bc, Nk, first, last)
            # line 10; a row that sees nothing of this tile takes 0 for m~, since -inf - -inf is NaN
            m_ij = s.max(axis=1)
            p = np.exp(s - np.where(np.isneginf(m_ij), 0, m_ij)[:, None])
            l_ij = p.sum(axis=1)
            # line 11
            m_new = np.maximum(m[rows], m_ij)
            pivot = np.where(np.isneginf(m_new), 0, m_new)
            alpha, beta = np.exp(m[rows] - pivot), np.exp(m_ij - pivot)
            l_new = alpha * l[rows] + beta * l_ij
            # line 12; a row that saw nothing yet keeps O = 0
            divisor = np.where(l_new == 0, 1, l_new)[:, None]
            O[rows] = ((l[rows] * alpha)[:, None] * O[rows] + beta[:, None] * (p @ Vj)) / divisor
            # line 13
            l[rows], m[rows] = l_new, m_new
    return O, m + np.log(np.where(l == 0, 1, l))


def flash1_backward(
    dO: Array, Q: Array, K: Array, V: Array, O: Array, LSE: Array,
    Br: int, Bc: int, scale: float, first: int, last: int, dLSE: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dQ, dK, dV: Algorithm 4 with m := LSE and l := 1."""
    (Nq, d), (Nk, dv) = Q.shape, V.shape
    # line 19, once for all; dLSE adds P*dLSE to dS
    D = (dO * O).sum(axis=1) - (0 if dLSE is None else dLSE)
    # line 5
    dQ, dK, dV = np.zeros_like(Q), np.empty_like(K), np.empty_like(V)
    # line 6
    for j in range(cdiv(Nk, Bc)):
        # line 7
        Kj, Vj = load_tile(K, j * Bc, 0, (Bc, d)), load_tile(V, j * Bc, 0, (Bc, dv))
        # line 8
        dKj, dVj = np.zeros_like(Kj), np.zeros_like(Vj)
        # line 9, without the blocks that see no key of this one
        for i in range(*query_blocks(j, Br, Bc, Nq, Nk, first, last)):
            # line 10
            rows = slice(i * Br, min((i + 1) * Br, Nq))
            Qi, dOi = Q[rows], dO[rows]
            # lines 11 and 12
            s = Qi @ Kj.T * scale
            hide(s, i * Br, j * Bc, Nk, first, last)
            # line 13; a row that saw no key has P = 0
            p = np.exp(s - np.where(np.isneginf(LSE[rows]), np.inf, LSE[rows])[:, None])
            # line 16
            dVj += p.T @ dOi
            # lines 17 to 20
            ds = p * (dOi @ Vj.T - D[rows, None])
            # line 21
            dQ[rows] += scale * (ds @ Kj)
            # line 22
            dKj += scale * (ds.T @ Qi)
        # line 24
        dK[j * Bc : (j + 1) * Bc] = dKj[: Nk - j * Bc]
        dV[j * Bc : (j + 1) * Bc] = dVj[: Nk - j * Bc]
    return dQ, dK, dV
