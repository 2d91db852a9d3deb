"""FlashAttention-3: Shah et al. 2024, arXiv:2407.08608. Line numbers are those of its Algorithm 2."""

from __future__ import annotations

import numpy as np

from numba_flash.algorithms.tiles import hide, load_tile
from numba_flash.reference import Array
from numba_flash.tiling import block_around, cdiv, key_blocks_around

SLACK = 8 * np.log(2)  # by which m may lag behind


def flash3_forward(
    Q: Array, K: Array, V: Array, Br: int, Bc: int, scale: float, first: int, last: int
) -> tuple[Array, Array]:
    """O (Nq, dv) and LSE (Nq,): what a warpgroup does. S of a key block is computed before P V of the one before it.

    The two products do not depend on each other, so they can run at the same time as the softmax between them. Key
    blocks with hidden pairs come first. m follows the maximum of s only where that has moved by more than `SLACK`:
    alpha is 1 nearly always, and O need not be rescaled.
    """
    (Nq, d), (Nk, dv) = Q.shape, V.shape
    O, LSE = np.empty((Nq, dv), Q.dtype), np.empty(Nq, Q.dtype)
    for i in range(cdiv(Nq, Br)):
        # line 1: O, here acc, l and m
        Qi = load_tile(Q, i * Br, 0, (Br, d))
        m, l, acc = np.full(Br, -np.inf, Q.dtype), np.zeros(Br, Q.dtype), np.zeros((Br, dv), Q.dtype)
        p = Vj = None
        count, edges, order = key_blocks_around(i, Br, Bc, Nq, Nk, first, last)
        for n in range(count):
            j = block_around(n, *order)
            # lines 3 and 8: S_next = Qi Kj^T; in the kernel it is only started, as is line 10
            s = Qi @ load_tile(K, j * Bc, 0, (Bc, d)).T * scale  # (Br, Bc)
            if n < edges:
                hide(s, i * Br, j * Bc, Nk, first, last)
            # line 10: O = O + P~_cur V of the block before
            if p is not None:
                acc = acc + p @ Vj
            # lines 5 and 12: m, P~_next, l; a row that saw nothing yet takes 0 for m, since -inf - -inf is NaN
            largest = s.max(axis=1)
            m_new = np.where(largest > m + SLACK, largest, m)
            pivot = np.where(np.isneginf(m_new), 0, m_new)
            alpha, p = np.exp(m - pivot), np.exp(s - pivot[:, None])
            m, l = m_new, alpha * l + p.sum(axis=1)
            # line 13: rescale O, to which P V of the block before has been added
            acc = alpha[:, None] * acc
            Vj = load_tile(V, j * Bc, 0, (Bc, dv))
        # line 18: the last P~ V
        if p is not None:
            acc = acc + p @ Vj
        # line 19: where l = 0 no key was seen, and O = acc = 0, LSE = m = -inf
        l[l == 0] = 1
        O[i * Br : (i + 1) * Br] = (acc / l[:, None])[: Nq - i * Br]
        LSE[i * Br : (i + 1) * Br] = (m + np.log(l))[: Nq - i * Br]
    return O, LSE
