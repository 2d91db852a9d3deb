"""The backward's last pass on tensor cores.        New here: sums that lie as the registers lay that they came from.

Paper      none
Grid       (Tr * B*Hq,)     Threads those of flash2_mma_backward: thread t takes up what threads t of its blocks added
Shapes     X (splits, B, Hq, Tr, Br * D) float32 -> dQ (B, Hq, Nq, d), contiguous
On chip    a thread's fragments of dQ in registers
Invariant  dQ = scale * sum X, from the first split to the last, in dQ's dtype, to nearest, ties to even
Units      those of dS K; the scale is applied here
Edges      rows beyond Nq and columns beyond d are left out
Traffic    reads X once, writes dQ once
"""

from __future__ import annotations

from functools import cache

from numba import cuda, float32, uint16

from numba_flash.config import LANES, Adds, GradientTiles
from numba_flash.device.fragments import make_place_of_sums, make_write_fragments
from numba_flash.device.number import number
from numba_flash.device.tiles import fill
from numba_flash.ptx import global_view
from numba_flash.tiling import cdiv


@cache
def make_collect(tiles: GradientTiles, dtype: str, pairs: bool, adds: Adds):
    """The kernel for the tile sizes and the kind of additions that made the sums; `pairs`: d is even."""
    Br, D, ROWS, COLUMNS, STEP = tiles.Br, tiles.D, tiles.dq_rows, tiles.dq_columns, tiles.dq_step
    CG, COUNT, ZERO = D // COLUMNS, ROWS * STEP // LANES, number(dtype).zero
    place, write_dq = make_place_of_sums(tiles.threads, adds), make_write_fragments(dtype, ROWS, STEP, pairs)

    def collect(X, dQ, Nq, d, splits, apart, scale):
        Tr, warp = cdiv(Nq, Br), cuda.threadIdx.x >> 5
        i, bh = cuda.blockIdx.x % Tr, cuda.blockIdx.x // Tr
        x = global_view(X, cuda.blockIdx.x * (Br * D), float32)
        dq = cuda.local.array(COUNT, float32)
        row, col = i * Br + warp // CG * ROWS, warp % CG * COLUMNS
        for step in range(COLUMNS // STEP):
            fill(dq, COUNT, ZERO)
            for split in range(splits):
                for n in range(COUNT):
                    dq[n] += x[split * apart + place(step * COUNT + n)]
            for n in range(COUNT):
                dq[n] *= scale
            write_dq(global_view(dQ, bh * Nq * d, uint16), d, dq, row, col + step * STEP, Nq, d)

    return collect
