"""The same values laid out differently in memory; whatever lies between them is NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_flash.reference import Array

ALL = slice(None)


def inside(x: Array, shape: tuple[int, ...], rows: slice, columns: slice) -> Array:
    """A copy of x as a part of a larger array, which is NaN elsewhere."""
    base = np.full(shape, np.nan, x.dtype)
    view = base[..., rows, columns]
    view[...] = x
    return view


def contiguous(x: Array) -> Array:
    """As NumPy allocates it."""
    return np.ascontiguousarray(x)


def transposed(x: Array) -> Array:
    """(B, H, N, d) over memory (B, N, H, d), as models produce it."""
    return np.ascontiguousarray(x.swapaxes(-2, -3)).swapaxes(-2, -3)


def columns(x: Array) -> Array:
    """Columns, not rows, lie together."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


def padded(x: Array) -> Array:
    """Rows that start on 16 bytes, with NaN after every row and behind the last one."""
    *lead, N, d = x.shape
    return inside(x, (*lead, N + 3, d + 8 + -d % 8), slice(N), slice(d))


def misaligned(x: Array) -> Array:
    """Every row starts one element behind a multiple of 16 bytes, or elsewhere."""
    *lead, N, d = x.shape
    return inside(x, (*lead, N, d + 1), ALL, slice(1, None))


def strided(x: Array) -> Array:
    """Every second element of a row."""
    return inside(x, (*x.shape[:-1], 2 * x.shape[-1]), ALL, slice(None, None, 2))


def backward(x: Array) -> Array:
    """Negative strides: the last row and the last column come first in memory."""
    return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]


def broadcast(x: Array) -> Array:
    """A batch stride of 0: every entry is the first one."""
    return np.broadcast_to(x[:1], x.shape)


LAYOUTS: dict[str, Any] = {
    layout.__name__: layout
    for layout in (contiguous, transposed, columns, padded, misaligned, strided, backward, broadcast)
}
