"""The integers of tiling against brute force over small sizes, in Python and compiled."""

import itertools

import numba
import numpy as np
import pytest

from numba_flash import reference, tiling

SIDES = (None, 0, 1, 2, 7)


def test_cdiv_and_round_up():
    for a, b in itertools.product(range(50), range(1, 12)):
        tiles = next(n for n in itertools.count() if n * b >= a)
        assert tiling.cdiv(a, b) == tiles
        assert tiling.round_up(a, b) == tiles * b


@pytest.mark.parametrize("Nq", range(7))
def test_band_is_what_the_definition_sees(Nq):
    i = np.arange(Nq)[:, None]
    for Nk, q_offset, causal in itertools.product(range(7), range(-8, 9), (False, True)):
        j = np.arange(Nk)
        for window in (None, *itertools.product(SIDES, SIDES)):
            first, last = tiling.band(Nq, Nk, causal, q_offset, window)
            keep = reference.visible(Nq, Nk, causal, q_offset, window)
            assert np.array_equal((i + first <= j) & (j <= i + last), keep), (Nk, q_offset, causal, window)
            assert -Nq - 1 <= first <= Nk + 1 and -Nq - 1 <= last <= Nk + 1


def test_keys_that_a_query_sees():
    for Nq, Nk in itertools.product(range(1, 5), range(5)):
        for first, last in bands(Nq, Nk):
            for i in range(Nq):
                seen = [j for j in range(Nk + 3) if j < Nk and i + first <= j <= i + last]
                assert [j for j in range(Nk + 3) if tiling.sees(i, j, Nk, first, last)] == seen
                assert list(range(*tiling.seen_keys(i, Nk, first, last))) == seen


@pytest.mark.parametrize("q_offset", [-(2**80), -(2**40), 2**40, 2**80])
def test_band_of_far_offsets(q_offset):
    for causal, window in itertools.product((False, True), (None, (0, 0), (2**90, 5), (None, 2**90))):
        first, last = tiling.band(3, 4, causal, q_offset, window)
        seen = [[i + first <= j <= i + last for j in range(4)] for i in range(3)]
        left, right = window or (None, None)
        expected = [
            [
                not (causal and j > i + q_offset)
                and (left is None or j >= i + q_offset - left)
                and (right is None or j <= i + q_offset + right)
                for j in range(4)
            ]
            for i in range(3)
        ]
        assert seen == expected
        assert abs(first) <= 5 and abs(last) <= 5


def bands(Nq, Nk):
    """Every band that `tiling.band` may give."""
    return [(f, l) for f, l in itertools.product(range(-Nq - 1, Nk + 2), repeat=2) if f <= l]


def block_range(seen):
    """[begin, end) of the blocks that are seen, which have no gaps; (0, 0) for none."""
    blocks = np.flatnonzero(seen)
    if len(blocks) == 0:
        return 0, 0
    assert len(blocks) == blocks[-1] - blocks[0] + 1
    return blocks[0], blocks[-1] + 1


@pytest.mark.parametrize("Nq", range(1, 7))
def test_blocks_are_those_with_a_visible_pair(Nq):
    i = np.arange(Nq)[:, None]
    for Nk in range(1, 7):
        j = np.arange(Nk)
        for first, last in bands(Nq, Nk):
            keep = (i + first <= j) & (j <= i + last)
            for Br, Bc in itertools.product((1, 2, 3, 4), repeat=2):
                tiles = np.add.reduceat(np.add.reduceat(keep, range(0, Nq, Br), axis=0), range(0, Nk, Bc), axis=1) > 0
                for block, seen in enumerate(tiles):
                    assert tiling.key_blocks(block, Br, Bc, Nq, Nk, first, last) == block_range(seen)
                for block, seen in enumerate(tiles.T):
                    assert tiling.query_blocks(block, Br, Bc, Nq, Nk, first, last) == block_range(seen)


def test_no_blocks_without_keys_or_queries():
    for first, last in bands(0, 4):
        assert tiling.query_blocks(0, 2, 2, 0, 4, first, last) == (0, 0)
    for first, last in bands(4, 0):
        assert tiling.key_blocks(0, 2, 2, 4, 0, first, last) == (0, 0)


def test_all_visible():
    for Br, Bc, Nk in itertools.product((1, 2, 3), (1, 2, 3), (1, 4, 5)):
        for row, col, (first, last) in itertools.product(range(5), range(Nk), bands(4, 3)):
            pairs = itertools.product(range(row, row + Br), range(col, col + Bc))
            expected = all(c < Nk and r + first <= c <= r + last for r, c in pairs)
            assert tiling.all_visible(row, col, Br, Bc, Nk, first, last) == expected


def tabulate(function, arguments):
    """A function's values, integers or pairs of them, for many argument lists."""
    return [tuple(np.atleast_1d(function(*row)).tolist()) for row in arguments]


@pytest.mark.parametrize("name", ["cdiv", "round_up", "key_blocks", "query_blocks", "all_visible"])
def test_compiled_functions_give_the_same_numbers(name):
    function = getattr(tiling, name)
    count = function.__code__.co_argcount
    rng = np.random.default_rng(count)
    if count == 2:
        arguments = np.stack([rng.integers(0, 10**12, 300), rng.integers(1, 999, 300)], axis=1).tolist()
    else:
        sizes, ends = rng.integers(1, 9, (500, count - 2)), rng.integers(-9, 9, (500, 2))
        arguments = np.concatenate([sizes, np.sort(ends, axis=1)], axis=1).tolist()
    compiled = numba.njit(caller(function, count))
    assert tabulate(compiled, arguments) == tabulate(function, arguments)


def caller(function, count):
    """A Python function that numba compiles and that calls `function`."""
    if count == 2:
        return lambda a, b: function(a, b)
    return lambda a, b, c, d, e, f, g: function(a, b, c, d, e, f, g)
