"""Bank conflicts of layouts of tiles, all places in all tiles that kernels use."""

from collections import Counter

import pytest

from numba_flash.testing.banks import turns_to_load, turns_to_store
from numba_flash.tiling import swizzled

COLUMNS = (8, 16, 32, 64, 128, 256)
ROWS = 64


def row_major(columns):
    return lambda r, c: 2 * (r * columns + c)


def padded(columns):
    """16 bytes more to each row."""
    return lambda r, c: 2 * (r * (columns + 8) + c)


def swizzle(columns):
    return lambda r, c: 2 * (r * columns + swizzled(r, c, columns))


@pytest.mark.parametrize("layout", [padded, swizzle])
@pytest.mark.parametrize("columns", COLUMNS[1:])
def test_no_load_of_matrices_meets_a_conflict(layout, columns):
    assert turns_to_load(layout(columns), ROWS, columns) == 4


@pytest.mark.parametrize(("columns", "turns"), [(16, 8), (32, 16), (64, 32), (128, 32), (256, 32)])
def test_in_plain_rows_they_do(columns, turns):
    assert turns_to_load(row_major(columns), ROWS, columns) == turns


@pytest.mark.parametrize("layout", [row_major, swizzle])
@pytest.mark.parametrize("columns", COLUMNS)
def test_no_store_of_whole_rows_meets_a_conflict(layout, columns):
    assert turns_to_store(layout(columns), ROWS, columns) == 4


def test_another_swizzle_does():
    """Chunks turned by the row instead of exchanged, but by too little: by one for every two rows."""
    layout = lambda r, c: 2 * (64 * r + (c // 8 + r // 2) % 8 * 8 + c % 8)  # noqa: E731
    assert turns_to_load(layout, ROWS, 64) == 8


@pytest.mark.parametrize("rows, columns", [(15, 64), (64, 8)])
def test_a_tile_without_a_matrix(rows, columns):
    assert turns_to_load(row_major(columns), rows, columns) == 0


@pytest.mark.parametrize("layout", [row_major, padded, swizzle])
@pytest.mark.parametrize("columns", COLUMNS[1:])
def test_turns_are_those_of_the_busiest_bank(layout, columns):
    """The eight rows of each 8 x 8 matrix are served together: the same, bank by bank."""
    address, worst = layout(columns), 0
    for row in range(0, ROWS - 15, 8):
        for column in range(0, columns - 15, 8):
            turns = 0
            for y, x in ((0, 0), (8, 0), (0, 8), (8, 8)):
                words = {address(row + y + r, column + x) // 4 + n for r in range(8) for n in range(4)}
                turns += max(Counter(word % 32 for word in words).values())
            worst = max(worst, turns)
    assert turns_to_load(address, ROWS, columns) == worst
