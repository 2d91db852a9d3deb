"""Swizzled tiles of 16-bit numbers: what is loaded where, with zeros beyond the edges."""

import itertools

import numpy as np
import pytest
from numba import cuda, types

from numba_flash import simulator
from numba_flash.device.swizzled import make_load_swizzled
from numba_flash.ptx import commit_copies, global_view, shared_tile, wait_copies
from numba_flash.tiling import swizzled

from .helpers import in_simulator
from .test_pieces import part

pytestmark = in_simulator

ARRAY = np.random.default_rng(0).integers(1, 2**16, (20, 40), np.uint16)
LAYOUTS = {
    "copies": np.pad(ARRAY, ((0, 0), (0, 8)), constant_values=99)[:, :40],
    "parts": np.pad(ARRAY, ((0, 0), (0, 8)), constant_values=99)[:, :40],
    "elements": np.repeat(ARRAY[::-1], 2, axis=-1)[::-1, ::2],
}


@pytest.mark.parametrize("landing", ["late", "early"])
@pytest.mark.parametrize("loads", LAYOUTS)
@pytest.mark.parametrize(("rows", "columns", "threads"), [(8, 16, 32), (16, 32, 32), (12, 16, 64), (8, 64, 4)])
def test_rows_of_a_stage(rows, columns, threads, loads, landing):
    """Tiles that begin at the first row and column, at later ones and behind the last, in the second of two stages."""
    x = LAYOUTS[loads]
    strides, top = (0, 0, *(n // 2 for n in x.strides)), 16
    load = make_load_swizzled(rows, columns, threads, loads)
    widths = {"copies": (8, 16, 40), "parts": (4, 12, 36), "elements": (1, 15, 40)}[loads]

    def body(X, row, col, N, width, seen):
        tile = shared_tile(0, (2 * top, columns), types.uint16)
        load(tile, top, global_view(X, 0, types.uint16), strides, row, col, N, width)
        commit_copies()
        wait_copies(0)
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            seen.append(np.array(tile))

    where = np.array([[swizzled(r, c, columns) for c in range(columns)] for r in range(rows)])
    for row, col, N, width in itertools.product((0, 8, 24), (0, 16, 48), (1, 7, 20), widths):
        seen = []
        with simulator.options(landing=landing):
            arguments = simulator.Pointer(x[:N, :width], writable=False), row, col, N, width, seen
            simulator.launch(body, 1, threads, 4 * top * columns, arguments)
        (tile,) = seen
        loaded = np.take_along_axis(tile[top : top + rows], where, axis=1)
        assert np.array_equal(loaded, part(x, rows, columns, row, col, N, width))
        assert (tile[:top] == 0xFFFF).all() and (tile[top + rows :] == 0xFFFF).all()
