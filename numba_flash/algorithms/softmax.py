"""Softmax of rows in three passes and in two: Milakov & Gimelshein 2018, arXiv:1805.02867.

Equation numbers are those of the derivation that leads to FlashAttention; l is called d there.
"""

from __future__ import annotations

import numpy as np

from numba_flash.algorithms.monoid import State, identity, merge
from numba_flash.reference import Array


def softmax_safe(X: Array) -> Array:
    """Y (M, N) = softmax(X) in three passes over each row."""
    Y = np.empty_like(X)
    # in the kernel, the grid
    for row, x in enumerate(X):
        m, l = X.dtype.type(-np.inf), X.dtype.type(0)
        # (1)
        for x_i in x:
            m = max(m, x_i)
        pivot = m if m > -np.inf else X.dtype.type(0)
        # (2)
        for x_i in x:
            l += np.exp(x_i - pivot)
        # (3); a row of -inf has l = 0 and nothing above it
        for i, x_i in enumerate(x):
            Y[row, i] = np.exp(x_i - pivot) / (l or 1)
    return Y


def softmax_online(X: Array, T: int) -> Array:
    """Y (M, N) = softmax(X) in two passes over each row, by T threads, a power of 2."""
    M, N = X.shape
    Y = np.empty_like(X)
    # in the kernel, the grid
    for row in range(M):
        state = identity((T,), 0, X.dtype)  # of each thread: m and l, and no values
        # (4): thread t merges x[t], x[t + T]..., of which each has the state (x, 1)
        for i in range(0, N, T):
            x = np.full(T, -np.inf, X.dtype)
            x[: N - i] = X[row, i : i + T]
            state = merge(state, State(x, np.ones_like(x), state.O))
        # the upper half of the threads' states into the lower half
        while len(state.m) > 1:
            half = len(state.m) // 2
            state = merge(State(*(s[:half] for s in state)), State(*(s[half:] for s in state)))
        (m,), (l,), _ = state
        pivot = m if m > -np.inf else X.dtype.type(0)
        # (5)
        Y[row] = np.exp(X[row] - pivot) / (l or 1)
    return Y
