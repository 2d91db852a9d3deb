"""FlashAttention-2: Dao 2023, arXiv:2307.08691. Line numbers are those of its algorithms."""

from __future__ import annotations

import numpy as np

from numba_flash.algorithms.tiles import hide, load_tile
from numba_flash.reference import Array
from numba_flash.tiling import all_visible, cdiv, key_blocks, query_blocks


def flash2_forward(
    Q: Array, K: Array, V: Array, Br: int, Bc: int, scale: float, first: int, last: int
) -> tuple[Array, Array]:
    """O (Nq, dv) and LSE (Nq,): Dao 2023, arXiv:2307.08691, Algorithm 1."""
    (Nq, d), (Nk, dv) = Q.shape, V.shape
    O, LSE = np.empty((Nq, dv), Q.dtype), np.empty(Nq, Q.dtype)
    # line 3: in the kernel, the grid
    for i in range(cdiv(Nq, Br)):
        # line 4
        Qi = load_tile(Q, i * Br, 0, (Br, d))
        # line 5
        m, l, acc = np.full(Br, -np.inf, Q.dtype), np.zeros(Br, Q.dtype), np.zeros((Br, dv), Q.dtype)
        # line 6, without the blocks that no row sees
        for j in range(*key_blocks(i, Br, Bc, Nq, Nk, first, last)):
            # line 7
            Kj, Vj = load_tile(K, j * Bc, 0, (Bc, d)), load_tile(V, j * Bc, 0, (Bc, dv))
            # line 8
            s = Qi @ Kj.T * scale  # (Br, Bc)
            if not all_visible(i * Br, j * Bc, Br, Bc, Nk, first, last):
                hide(s, i * Br, j * Bc, Nk, first, last)
            # line 9: P~ is e^(s - m); a row that saw nothing yet takes 0 for m, since -inf - -inf is NaN
            m_new = np.maximum(m, s.max(axis=1))
            pivot = np.where(np.isneginf(m_new), 0, m_new)
            alpha, p = np.exp(m - pivot), np.exp(s - pivot[:, None])
            m, l = m_new, alpha * l + p.sum(axis=1)
            # line 10, whose printed diag(alpha)^-1 is a slip
            acc = alpha[:, None] * acc + p @ Vj
        # lines 12 to 15: where l = 0 no key was seen, and O = acc = 0, LSE = m = -inf
        l[l == 0] = 1
        O[i * Br : (i + 1) * Br] = (acc / l[:, None])[: Nq - i * Br]
        LSE[i * Br : (i + 1) * Br] = (m + np.log(l))[: Nq - i * Br]
    return O, LSE


def flash2_backward(
    dO: Array, Q: Array, K: Array, V: Array, O: Array, LSE: Array,
    Br: int, Bc: int, scale: float, first: int, last: int,
    dLSE: Array | None = None, deterministic: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """dQ, dK, dV: Algorithm 2 of the same paper; deterministic, dQ is a pass of its own, summed in one place."""
    tiles = (Br, Bc, scale, first, last)
    D = delta(dO, O, dLSE)
    dQ, dK, dV = flash2_backward_keys(dO, Q, K, V, LSE, D, *tiles)
    return flash2_backward_queries(dO, Q, K, V, LSE, D, *tiles) if deterministic else dQ, dK, dV


def delta(dO: Array, O: Array, dLSE: Array | None = None) -> Array:
    """(Nq,), the paper's D: with P = softmax(S), rowsum(P*dP) is rowsum(dO*O); dLSE adds P*dLSE to dS."""
    # line 4
    D = (dO * O).sum(axis=1)
    return D if dLSE is None else D - dLSE


def flash2_backward_keys(
    dO: Array, Q: Array, K: Array, V: Array, LSE: Array, delta: Array,
    Br: int, Bc: int, scale: float, first: int, last: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Algorithm 2 as it stands."""
    (Nq, d), (Nk, dv) = Q.shape, V.shape
    dQ, dK, dV = np.zeros_like(Q), np.empty_like(K), np.empty_like(V)
    # line 5: in the kernel, the grid
    for j in range(cdiv(Nk, Bc)):
        # lines 6 and 7
        Kj, Vj = load_tile(K, j * Bc, 0, (Bc, d)), load_tile(V, j * Bc, 0, (Bc, dv))
        dk, dv_ = np.zeros_like(Kj), np.zeros_like(Vj)
        # line 8, without the blocks that see no key of this one
        for i in range(*query_blocks(j, Br, Bc, Nq, Nk, first, last)):
            # line 9
            Qi, dOi = load_tile(Q, i * Br, 0, (Br, d)), load_tile(dO, i * Br, 0, (Br, dv))
            p, ds = gradient(Qi, Kj, Vj, dOi, LSE, delta, i * Br, j * Bc, Nk, scale, first, last)
            # line 12
            dv_ += p.T @ dOi
            # line 16
            dk += ds.T @ Qi
            # line 15: in the kernel, an atomic addition, since the blocks of all j meet here
            dQ[i * Br : (i + 1) * Br] += (scale * ds @ Kj)[: Nq - i * Br]
        # line 18; S = scale Q K^T passes its scale on
        dK[j * Bc : (j + 1) * Bc] = (scale * dk)[: Nk - j * Bc]
        dV[j * Bc : (j + 1) * Bc] = dv_[: Nk - j * Bc]
    return dQ, dK, dV


def flash2_backward_queries(
    dO: Array, Q: Array, K: Array, V: Array, LSE: Array, delta: Array,
    Br: int, Bc: int, scale: float, first: int, last: int,
) -> Array:  # fmt: skip
    """dQ: Algorithm 2 turned inside out, which sums line 15 in one place."""
    (Nq, d), (Nk, dv) = Q.shape, V.shape
    dQ = np.empty_like(Q)
    for i in range(cdiv(Nq, Br)):
        Qi, dOi = load_tile(Q, i * Br, 0, (Br, d)), load_tile(dO, i * Br, 0, (Br, dv))
        dq = np.zeros_like(Qi)
        for j in range(*key_blocks(i, Br, Bc, Nq, Nk, first, last)):
            Kj, Vj = load_tile(K, j * Bc, 0, (Bc, d)), load_tile(V, j * Bc, 0, (Bc, dv))
            _, ds = gradient(Qi, Kj, Vj, dOi, LSE, delta, i * Br, j * Bc, Nk, scale, first, last)
            # line 15
            dq += ds @ Kj
        dQ[i * Br : (i + 1) * Br] = (scale * dq)[: Nq - i * Br]
    return dQ


def gradient(
    Qi: Array, Kj: Array, Vj: Array, dOi: Array, LSE: Array, delta: Array,
    row: int, col: int, Nk: int, scale: float, first: int, last: int,
) -> tuple[Array, Array]:  # fmt: skip
    """P and dS (Br, Bc) of the tile at (row, col), from LSE and delta alone: Algorithm 2's lines 10, 11, 13, 14."""
    Br, Bc = len(Qi), len(Kj)
    LSEi, delta_i = load_tile(LSE[:, None], row, 0, (Br, 1)), load_tile(delta[:, None], row, 0, (Br, 1))
    # line 10
    s = Qi @ Kj.T * scale
    if not all_visible(row, col, Br, Bc, Nk, first, last):
        hide(s, row, col, Nk, first, last)
    # line 11; a row that saw no key has P = 0
    p = np.exp(s - np.where(np.isneginf(LSEi), np.inf, LSEi))
    # lines 13 and 14
    dp = dOi @ Vj.T
    return p, p * (dp - delta_i)
