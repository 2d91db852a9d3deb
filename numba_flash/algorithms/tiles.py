"""Tiles in NumPy."""

from __future__ import annotations

import numpy as np

from numba_flash.reference import Array


def load_tile(X: Array, row: int, col: int, shape: tuple[int, int]) -> Array:
    """The tile of X at (row, col), zeros beyond its edges."""
    tile = np.zeros(shape, X.dtype)
    inside = X[row : row + shape[0], col : col + shape[1]]
    tile[: inside.shape[0], : inside.shape[1]] = inside
    return tile


def hide(s: Array, row: int, col: int, Nk: int, first: int, last: int) -> None:
    """-inf where the key is outside the band or beyond Nk; s is the tile of scores at (row, col)."""
    i, j = row + np.arange(s.shape[0])[:, None], col + np.arange(s.shape[1])
    s[(j >= Nk) | (j < i + first) | (j > i + last)] = -np.inf
