"""The product of two tiles in scratch memory, one register tile of the result at a time."""

from __future__ import annotations

from numba_flash.cpu.compiling import inner
from numba_flash.cpu.registers import ROWS, VECTOR_BYTES, add_outer, store_tile, zero_tile


@inner
def product(C, A, B, count):
    """C = A[:, :count] B[:count], where C is at least one register tile and A has any strides.

    The last register tile of a row or column slides back over results that are there already and writes them again.
    """
    lanes = VECTOR_BYTES // C.itemsize
    for c in range(0, C.shape[1], lanes):
        left = min(c, C.shape[1] - lanes)
        for r in range(0, C.shape[0], ROWS):
            top = min(r, C.shape[0] - ROWS)
            tile = zero_tile(C)
            for k in range(count):
                tile = add_outer(tile, A, top, B, left, k)
            store_tile(C, top, left, tile)
