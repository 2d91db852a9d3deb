"""The backward's last pass on tensor cores.        New here: sums that lie as the registers lay that they came from.

Paper      none
Grid       (Tr * B*Hq,)     Threads those that added in the kernel before: each takes up its own numbers
Shapes     X (B, Hq, Tr, Br * D) float32 -> dQ (B, Hq, Nq, d), contiguous
On chip    a thread's fragments of dQ in registers; on their way out, a warp's rows in shared memory
Invariant  dQ = scale * X, in dQ's dtype, to nearest, ties to even
Units      those of dS K; the scale is applied here
Edges      rows beyond Nq and columns beyond d are left out
Traffic    reads X once, writes dQ once
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, uint16, uint32

from numba_flash.config import (
    LANES,
    WARPGROUP_ROWS,
    WARPS,
    Adds,
    Fragments,
    GradientTiles,
    Stores,
    WarpgroupGradientTiles,
)
from numba_flash.device.fragments import make_place_of_sums, make_write_chunks, make_write_fragments
from numba_flash.ptx import device, global_view, load4, shared_tile
from numba_flash.tiling import cdiv


@cache
def make_collect(tiles: GradientTiles | WarpgroupGradientTiles, dtype: str, stores: Stores, adds: Adds):
    """The kernel for the tile sizes and the kind of additions that made the sums."""
    Br, D, ROWS, COLUMNS, STEP = tiles.Br, tiles.D, tiles.dq_rows, tiles.dq_columns, tiles.dq_step
    CHUNKS, TILE = stores == "chunks", (tiles.adders // LANES * ROWS, STEP // 2)
    CG, COUNT, BLOCKS = D // COLUMNS, ROWS * STEP // LANES, cdiv(Br, WARPGROUP_ROWS)
    place, write_dq = make_place_of_sums(tiles.adders, adds), make_write_fragments(dtype, ROWS, STEP, stores == "pairs")
    write_chunks = make_write_chunks(dtype, Fragments(ROWS, ROWS // 8, STEP // 4), STEP)

    @device
    def take_four(dq, n, x, first):
        dq[n], dq[n + 1], dq[n + 2], dq[n + 3] = load4(x, place(first + n))

    @device
    def take_each(dq, n, x, first):
        for k in range(4):
            dq[n + k] = x[place(first + n + k)]

    take = take_four if adds == "vectors" else take_each

    @device
    def place_of_warp(warp):  # the first row and column of dQ that a warp owns
        return warp // CG * ROWS, warp % CG * COLUMNS

    @device
    def place_in_warpgroup(warp):
        group = warp // WARPS
        return group % BLOCKS * WARPGROUP_ROWS + warp % WARPS * ROWS, group // BLOCKS * COLUMNS

    place_of = place_in_warpgroup if isinstance(tiles, WarpgroupGradientTiles) else place_of_warp

    def collect(X, dQ, Nq, d, scale):
        Tr, warp = cdiv(Nq, Br), cuda.threadIdx.x >> 5
        i, bh = cuda.blockIdx.x % Tr, cuda.blockIdx.x // Tr
        dq = cuda.local.array(COUNT, float32)
        down, col = place_of(warp)
        row = i * Br + down
        for step in range(COLUMNS // STEP):
            x = global_view(X, cuda.blockIdx.x * (Br * D), float32)
            for n in range(0, COUNT, 4):
                take(dq, n, x, step * COUNT)
            for n in range(COUNT):
                dq[n] *= scale
            first = col + step * STEP
            if CHUNKS:
                words, dq_h = shared_tile(0, TILE, uint32), global_view(dQ, bh * Nq * d // 2, uint32)
                cuda.syncwarp()  # the rows before have been read
                write_chunks(dq_h, d, dq, words, warp * ROWS, row, first, Nq, d)
            else:
                write_dq(global_view(dQ, bh * Nq * d, uint16), d, dq, row, first, Nq, d)

    return collect
