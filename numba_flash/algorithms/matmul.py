"""The matrix product, element by element and in tiles."""

from __future__ import annotations

import numpy as np

from numba_flash.algorithms.tiles import load_tile
from numba_flash.reference import Array


def matmul_naive(A: Array, B: Array) -> Array:
    """C (M, N) = A (M, K) @ B (K, N), a sum of products for each element."""
    (M, K), N = A.shape, B.shape[1]
    C = np.empty((M, N), A.dtype)
    # in the kernel, the threads
    for row, col in np.ndindex(M, N):
        acc = A.dtype.type(0)
        for x in range(K):
            acc += A[row, x] * B[x, col]
        C[row, col] = acc
    return C


def matmul_tiled(A: Array, B: Array, T: int) -> Array:
    """C (M, N) = A (M, K) @ B (K, N) in T x T tiles: Kirk & Hwu, Programming Massively Parallel Processors."""
    (M, K), N = A.shape, B.shape[1]
    C = np.empty((M, N), A.dtype)
    # in the kernel, the grid
    for row in range(0, M, T):
        for col in range(0, N, T):
            acc = np.zeros((T, T), A.dtype)
            for x in range(0, K, T):
                As, Bs = load_tile(A, row, x, (T, T)), load_tile(B, x, col, (T, T))
                acc += As @ Bs
            C[row : row + T, col : col + T] = acc[: M - row, : N - col]
    return C


def matmul_registers(A: Array, B: Array, BM: int, BN: int, BK: int, TM: int, TN: int) -> Array:
    """C = A @ B as sums of outer products in registers: Volkov & Demmel 2008, doi:10.1109/SC.2008.5214359.

    Thread (rg, cg) of a block owns TM x TN elements of the block's BM x BN tile: rows rg + RG*r and columns
    4*(cg + CG*h) + 0..3, so TN is a multiple of 4.
    """
    (M, K), N = A.shape, B.shape[1]
    RG, CG = BM // TM, BN // TN
    rows = np.arange(BM).reshape(TM, RG).T  # (RG, TM)
    columns = np.arange(BN).reshape(TN // 4, CG, 4).swapaxes(0, 1).reshape(CG, TN)
    C = np.empty((M, N), A.dtype)
    # in the kernel, the grid
    for row0 in range(0, M, BM):
        for col0 in range(0, N, BN):
            acc = np.zeros((RG, CG, TM, TN), A.dtype)  # of all threads
            for x in range(0, K, BK):
                As, Bs = load_tile(A, row0, x, (BM, BK)), load_tile(B, x, col0, (BK, BN))
                for y in range(BK):
                    # a thread reads TM + TN numbers for TM * TN products
                    a, b = As[rows, y], Bs[y, columns]
                    acc += a[:, None, :, None] * b[None, :, None, :]
            tile = np.empty((BM, BN), A.dtype)
            tile[rows[:, None, :, None], columns[None, :, None, :]] = acc
            C[row0 : row0 + BM, col0 : col0 + BN] = tile[: M - row0, : N - col0]
    return C
