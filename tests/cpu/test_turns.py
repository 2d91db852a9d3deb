"""The backward's schedule: every visible pair of blocks once, and no two tasks of a turn on the same rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_flash.cpu.tiles import BLOCK
from numba_flash.cpu.turns import RUN, list_pairs, longer_side, turns

LENGTHS = st.integers(1, 9 * BLOCK)
DIAGONALS = st.integers(-10 * BLOCK, 10 * BLOCK)


def schedule(Nq, Nk, first, last):
    """The pairs (I, j) of each turn."""
    runs, keys = np.empty(Nq, np.int64), np.empty(Nq, np.int64)
    for turn in range(*turns(Nq, Nk, first, last)):
        count = list_pairs(runs, keys, turn, Nq, Nk, first, last)
        yield list(zip(runs[:count].tolist(), keys[:count].tolist(), strict=True))


def visible_pairs(Nq, Nk, first, last):
    """The pairs with a query and a key that see one another."""
    for I in range(-(-Nq // (RUN * BLOCK))):
        rows = np.arange(I * RUN * BLOCK, min((I + 1) * RUN * BLOCK, Nq))
        for j in range(-(-Nk // BLOCK)):
            low, high = j * BLOCK, min((j + 1) * BLOCK, Nk)
            if ((rows + first < high) & (rows + last >= low) & (first <= last)).any():
                yield I, j


@given(LENGTHS, LENGTHS, DIAGONALS, DIAGONALS)
def test_each_visible_pair_has_its_turn(Nq, Nk, first, last):
    listed = [pair for turn in schedule(Nq, Nk, first, last) for pair in turn]
    assert len(set(listed)) == len(listed)
    assert set(listed) >= set(visible_pairs(Nq, Nk, first, last))


@given(LENGTHS, LENGTHS, DIAGONALS, DIAGONALS)
def test_a_turn_touches_no_row_twice(Nq, Nk, first, last):
    for turn in schedule(Nq, Nk, first, last):
        assert len({I for I, _ in turn}) == len({j for _, j in turn}) == len(turn)


@pytest.mark.parametrize("window", [0, 10, BLOCK])
def test_a_narrow_band_has_few_turns(window):
    begin, end = turns(100 * BLOCK, 100 * BLOCK, -window, 0)
    assert end - begin <= RUN + 2 < longer_side(100 * BLOCK, 100 * BLOCK)
