"""Bank conflicts of a whole tile of 16-bit elements, however it is laid out in shared memory.

A layout is a function that gives the byte address of element (row, column). Tensor-core kernels move 16 bytes a lane;
that takes 32 lanes four turns (`tiling.wavefronts`), and more where they meet bank conflicts.
"""

from __future__ import annotations

from collections.abc import Callable

from numba_flash.tiling import down_then_right, right_then_down, wavefronts

CHUNK = 8  # elements of 16 bytes
WARP = 32

Layout = Callable[[int, int], int]


def turns_to_load(layout: Layout, rows: int, columns: int) -> int:
    """The most turns that ldmatrix.x4, transposed or not, takes for a 16 x 16 matrix at a multiple of 8 in the tile.

    A tile of fewer than 16 rows or columns has no such matrix: 0.
    """
    places = [(r, c) for r in range(0, rows - 15, CHUNK) for c in range(0, columns - 15, CHUNK)]
    orders = [[order(lane) for lane in range(WARP)] for order in (down_then_right, right_then_down)]
    loads = [[layout(row + r, column + c) for r, c in order] for row, column in places for order in orders]
    return max((wavefronts(addresses, 2 * CHUNK) for addresses in loads), default=0)


def turns_to_store(layout: Layout, rows: int, columns: int) -> int:
    """The most turns that a warp takes to fill the tile, lane after lane the next 16 bytes, row after row."""
    chunks = [layout(r, c) for r in range(rows) for c in range(0, columns, CHUNK)]
    return max(wavefronts(chunks[first : first + WARP], 2 * CHUNK) for first in range(0, len(chunks), WARP))
