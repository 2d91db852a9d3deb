"""Attention from its formula to one pass over the keys: Ye 2023, From Online Softmax to FlashAttention.

`l` is what that text calls d'.
"""

from __future__ import annotations

import numpy as np

from numba_flash.algorithms.tiles import hide
from numba_flash.reference import Array
from numba_flash.tiling import seen_keys


def attention_naive(Q: Array, K: Array, V: Array, scale: float, first: int, last: int) -> tuple[Array, Array]:
    """O (Nq, dv) and LSE (Nq,): Dao et al. 2022, arXiv:2205.14135, Algorithm 0."""
    # line 1
    S = Q @ K.T * scale
    hide(S, 0, 0, len(K), first, last)
    # line 2; a row that sees nothing takes 0 for m, since -inf - -inf is NaN, and 1 for l
    m = S.max(axis=1, initial=-np.inf)
    P = np.exp(S - np.where(np.isneginf(m), 0, m)[:, None])
    l = P.sum(axis=1)
    l[l == 0] = 1
    P /= l[:, None]
    # line 3
    return P @ V, m + np.log(l)


def attention_two_pass(Q: Array, K: Array, V: Array, scale: float, first: int, last: int) -> tuple[Array, Array]:
    """The same without S: m and l first, then O; a score is computed twice."""
    O, LSE = np.zeros((len(Q), V.shape[1]), Q.dtype), np.empty(len(Q), Q.dtype)
    # in the kernel, the grid
    for i, q in enumerate(Q):
        begin, end = seen_keys(i, len(K), first, last)
        m, l = Q.dtype.type(-np.inf), Q.dtype.type(0)
        for j in range(begin, end):
            x = q @ K[j] * scale
            m_new = max(m, x)
            l = l * np.exp(m - m_new) + np.exp(x - m_new)
            m = m_new
        for j in range(begin, end):
            x = q @ K[j] * scale
            # equation 6
            a = np.exp(x - m) / l
            # equation 7
            O[i] += a * V[j]
        LSE[i] = m + np.log(l) if l > 0 else m
    return O, LSE


def attention_one_pass(Q: Array, K: Array, V: Array, scale: float, first: int, last: int) -> tuple[Array, Array]:
    """The same with o', which is the attention over the keys met so far."""
    O, LSE = np.zeros((len(Q), V.shape[1]), Q.dtype), np.empty(len(Q), Q.dtype)
    # in the kernel, the grid
    for i, q in enumerate(Q):
        begin, end = seen_keys(i, len(K), first, last)
        m, l = Q.dtype.type(-np.inf), Q.dtype.type(0)
        for j in range(begin, end):
            x = q @ K[j] * scale
            m_new = max(m, x)
            l_old, p = l * np.exp(m - m_new), np.exp(x - m_new)
            m, l = m_new, l_old + p
            # the recurrence of o'
            O[i] = O[i] * (l_old / l) + p / l * V[j]
        LSE[i] = m + np.log(l) if l > 0 else m
    return O, LSE
