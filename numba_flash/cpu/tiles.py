"""Tiles: blocks of global arrays of any strides, copied to contiguous scratch, as they are or transposed.

A tile has at least ROWS rows and one vector of columns, because products come in register tiles. What a tile holds
beyond the block is garbage: sums stop at the block's real size, so it is multiplied at most into other garbage.
"""

from __future__ import annotations

from numba import types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import lower_builtin, type_callable

from numba_flash.cpu.compiling import inner
from numba_flash.tiling import cdiv

# Queries, and keys, in a block: scores of (96, 96) and the tiles that they are made of stay in a second-level cache.
BLOCK = 96


@inner
def odd_vectors(n, lanes):
    """Columns for n elements, an odd number of vectors: rows an even number apart would share few cache sets."""
    return (cdiv(n, lanes) | 1) * lanes


def contiguous(row):
    """The 1-D array `row`, whose elements are adjacent, with a type that says so: only then does LLVM vectorise."""
    return row


@type_callable(contiguous)
def type_contiguous(context):
    return lambda row: row.copy(layout="C")


@lower_builtin(contiguous, types.Array)
def lower_contiguous(context, builder, signature, arguments):
    return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])


@inner
def load_rows(tile, X, start, count):
    """tile[r, x] = X[start + r, x] for r < count."""
    if X.strides[1] == X.itemsize:
        for r in range(count):
            row = contiguous(X[start + r])
            for x in range(X.shape[1]):
                tile[r, x] = row[x]
    else:
        for r in range(count):
            for x in range(X.shape[1]):
                tile[r, x] = X[start + r, x]


@inner
def load_columns(tile, X, start, count):
    """tile[x, r] = X[start + r, x] for r < count."""
    for r in range(count):
        for x in range(X.shape[1]):
            tile[x, r] = X[start + r, x]


@inner
def add_rows(X, start, count, factor, tile):
    """X[start + r, x] += factor * tile[r, x] for r < count."""
    for r in range(count):
        for x in range(X.shape[1]):
            X[start + r, x] += factor * tile[r, x]
