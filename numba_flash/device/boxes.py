"""Boxes of matrices between global and shared memory, and what a block needs before it copies any: maps and barriers.

In shared memory a matrix is one or more panels, one behind the other: rows of 128 bytes, swizzled, 64 numbers of 16
bits or 32 of 32. A matrix of a tensor is named by its place along the tensor's outer axes, a tuple.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cuda, int32, uint64

from numba_flash.arrays import ITEMSIZE
from numba_flash.config import BARRIER_BYTES, LANES, MAP_WORDS, PANEL, ROW_BYTES, WARPGROUP
from numba_flash.device.fragments import PAIR, lane
from numba_flash.ptx import (
    barrier_sync,
    commit_stores,
    device,
    fence_shared,
    load_box,
    map_address,
    mbarrier_init,
    store2,
    store_box,
    wait_stores,
)
from numba_flash.tiling import accumulator_place, cdiv


@device
def write_map(maps, n, words, pointer):
    """Write map number n of a block: that of the tensor at a pointer."""
    at = MAP_WORDS * n
    for x in range(0, MAP_WORDS, 2):
        store2(maps, at + x, (words[x], words[x + 1]))
    map_address(maps, at, pointer)


@device
def init_mbarriers(first, count, arrivals):
    """Make `count` barriers, one behind the other, for so many arrivals each."""
    for n in range(count):
        mbarrier_init(first + BARRIER_BYTES * n, arrivals)


@cache
def make_load_panels(length: int, depth: int, across: bool):
    """Make load_panels(address, maps, n, first, x, matrix, barrier): `length` rows or columns, `depth` deep.

    Of a tensor that lies `across` it is the length that is contiguous in memory and that panels cut, otherwise the
    depth.
    """
    PANELS = cdiv(length if across else depth, PANEL)
    PANEL_BYTES = (depth if across else length) * ROW_BYTES

    @device
    def load_across(address, maps, n, first, x, matrix, barrier):
        for panel in range(PANELS):
            load_box(address + panel * PANEL_BYTES, maps, MAP_WORDS * n, (first + panel * PANEL, x) + matrix, barrier)

    @device
    def load_along(address, maps, n, first, x, matrix, barrier):
        for panel in range(PANELS):
            load_box(address + panel * PANEL_BYTES, maps, MAP_WORDS * n, (x + panel * PANEL, first) + matrix, barrier)

    return load_across if across else load_along


@device
def row_of_thread():
    """The first row that this thread holds of its warpgroup's accumulators; the other is 8 rows further."""
    return int32(cuda.threadIdx.x % WARPGROUP // LANES * 16 + lane() // 4)


@cache
def make_write_panel(dtype: str, columns: int):
    """Make write_panel(words, top, left, acc, panel): a panel of a warpgroup's accumulator to words[top : top + 64].

    `words` is shared memory in rows of 128 bytes: 32 uint32 or, of float32, those. The last panel may be narrower; it
    is written from chunk `left` of 16 bytes on.
    """
    ITEM = ITEMSIZE[dtype]
    FRAGMENTS, ALL = ROW_BYTES // ITEM // 8, columns // 8
    pair: Any = PAIR.get(dtype)

    @device
    def write_pair(words, row, column, x, y):
        words[uint64(row), uint64(column)] = pair(x, y)

    @device
    def write_numbers(words, row, column, x, y):
        store2(words, (uint64(row), uint64(column)), (x, y))

    write = write_pair if pair else write_numbers

    @device
    def write_panel(words, top, left, acc, panel):
        r, c = accumulator_place(lane(), 0)  # of 8 rows, one to a swizzled place of 16 bytes
        row = top + row_of_thread()
        for n in range(min(FRAGMENTS, ALL - panel * FRAGMENTS)):
            first = (8 * n + c) * ITEM // 4
            column = (left + first // 4 ^ r) * 4 + first % 4
            for half in range(2):
                x = 4 * (panel * FRAGMENTS + n) + 2 * half
                write(words, row + 8 * half, column, acc[x], acc[x + 1])

    return write_panel


@cache
def make_store_rows(dtype: str, columns: int, apart: int):
    """Make store_rows(words, top, address, acc, maps, n, row, col, matrix, barrier): an accumulator to row, col of C.

    As `make_store_panels`, at once: there is a place for every panel, which no copy reads any more.
    """
    WIDTH = ROW_BYTES // ITEMSIZE[dtype]
    PANELS = cdiv(columns, WIDTH)
    write_panel = make_write_panel(dtype, columns)

    @device
    def store_rows(words, top, address, acc, maps, n, row, col, matrix, barrier):
        for panel in range(PANELS):
            write_panel(words, top + panel * apart, 0, acc, panel)
        fence_shared()
        barrier_sync(barrier, WARPGROUP)  # all rows are written
        if cuda.threadIdx.x % WARPGROUP == 0:
            for panel in range(PANELS):
                place = address + panel * apart * ROW_BYTES
                store_box(place, maps, MAP_WORDS * n, (col + panel * WIDTH, row) + matrix)
            commit_stores()

    return store_rows


@cache
def make_store_panels(dtype: str, columns: int, places: int, apart: int):
    """Make store_panels(words, top, address, acc, maps, n, row, col, matrix, barrier): an accumulator to row, col of C.

    A warpgroup's 64 rows and so many columns go by way of shared memory that is its own: `places` for a panel, by
    turns, so many rows `apart` from words[top : top + 64], which is at an address. Its first thread copies, and must
    wait for its last copies (`wait_stores`) before it ends; the warpgroup meets at a named barrier of its own.
    """
    WIDTH, PENDING = ROW_BYTES // ITEMSIZE[dtype], places - 1
    PANELS = cdiv(columns, WIDTH)
    write_panel = make_write_panel(dtype, columns)

    @device
    def store_panels(words, top, address, acc, maps, n, row, col, matrix, barrier):
        copies = cuda.threadIdx.x % WARPGROUP == 0
        for panel in range(PANELS):
            down = panel % places * apart
            if copies and panel == 0:
                wait_stores(0)
            elif copies:
                wait_stores(PENDING)
            barrier_sync(barrier, WARPGROUP)  # what was in this place before has left it
            write_panel(words, top + down, 0, acc, panel)
            fence_shared()
            barrier_sync(barrier, WARPGROUP)  # the panel is written
            if copies:
                store_box(address + down * ROW_BYTES, maps, MAP_WORDS * n, (col + panel * WIDTH, row) + matrix)
                commit_stores()

    return store_panels
