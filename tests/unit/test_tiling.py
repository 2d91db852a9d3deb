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


@pytest.mark.parametrize("Tr", range(1, 6))
@pytest.mark.parametrize("heads", range(1, 6))
@pytest.mark.parametrize("together", range(1, 7))
def test_longest_first(Tr, heads, together):
    """Every block once; a full group of heads at the end, and of a group the last query blocks before those above."""
    order = [tiling.longest_first(block, Tr, heads, together) for block in range(Tr * heads)]
    assert sorted(order) == list(itertools.product(range(Tr), range(heads)))
    assert order == sorted(order, key=lambda at: (-(at[1] // together), -at[0], -at[1]))


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


@pytest.mark.parametrize(("Br", "Bc"), [(1, 1), (2, 3), (4, 1), (4, 4)])
def test_key_blocks_around(Br, Bc):
    """Each block of `key_blocks` once, those with a pair that is not seen before all others."""
    for Nq, Nk in itertools.product((1, 5, 9), (0, 1, 7, 12)):
        for first, last in itertools.product(range(-Nq - 1, Nk + 2), repeat=2):
            for i in range(tiling.cdiv(Nq, Br)):
                sizes = i, Br, Bc, Nq, Nk, first, last
                count, edges, order = tiling.key_blocks_around(*sizes)
                met = [tiling.block_around(n, *order) for n in range(count)]
                assert sorted(met) == list(range(*tiling.key_blocks(*sizes)))
                rows = range(i * Br, min((i + 1) * Br, Nq))
                for n, j in enumerate(met):
                    keys = range(j * Bc, (j + 1) * Bc)
                    assert (n >= edges) == all(tiling.sees(r, k, Nk, first, last) for r in rows for k in keys)


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


@pytest.mark.parametrize(
    ("place", "elements", "shape"),
    [
        (tiling.a_place, 8, (16, 16)),
        (tiling.b_place, 4, (16, 8)),
        (tiling.accumulator_place, 4, (16, 8)),
        (tiling.a_place_tf32, 4, (16, 8)),
        (tiling.b_place_tf32, 2, (8, 8)),
    ],
)
def test_every_element_of_a_fragment_has_one_holder(place, elements, shape):
    found = tiling.holders(place, elements)
    assert sorted(found) == [*np.ndindex(shape)]
    assert sorted(found.values()) == [*np.ndindex(32, elements)]
    assert all(place(*holder) == at for at, holder in found.items())


def test_pairs_of_16_bits_are_neighbours():
    for lane, n in np.ndindex(32, 4):
        (r, c), (r1, c1) = tiling.a_place(lane, 2 * n), tiling.a_place(lane, 2 * n + 1)
        assert (r1, c1) == (r, c + 1) and c % 2 == 0
    for lane, n in np.ndindex(32, 2):
        assert tiling.b_place(lane, 2 * n + 1)[0] == tiling.b_place(lane, 2 * n)[0] + 1
        assert tiling.accumulator_place(lane, 2 * n + 1)[1] == tiling.accumulator_place(lane, 2 * n)[1] + 1


def test_an_accumulator_is_laid_out_as_half_of_the_next_product_s_a():
    """So P = softmax(S) never leaves its registers: two fragments of S side by side are one of P."""
    for lane, n in np.ndindex(32, 8):
        row, column = tiling.accumulator_place(lane, n % 4)
        assert tiling.a_place(lane, n) == (row, column + n // 4 * 8)


CHUNKS = (1, 2, 4, 8, 16, 32)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_swizzled_chunks_stay_in_their_row(chunks):
    for row in range(64):
        assert sorted(tiling.swizzle(row, chunk, chunks) for chunk in range(chunks)) == [*range(chunks)]


@pytest.mark.parametrize(
    ("addresses", "nbytes", "turns"),
    [
        ([4 * lane for lane in range(32)], 4, 1),
        ([8 * lane for lane in range(32)], 4, 2),
        ([128 * lane for lane in range(32)], 4, 32),
        ([0] * 32, 4, 1),
        ([132 * lane for lane in range(32)], 4, 1),
        ([8 * lane for lane in range(32)], 8, 2),
        ([16 * lane for lane in range(32)], 16, 4),
        ([16 * (lane % 2) for lane in range(32)], 16, 4),
        ([16 * lane for lane in range(8)], 16, 1),
    ],
)
def test_wavefronts(addresses, nbytes, turns):
    assert tiling.wavefronts(addresses, nbytes) == turns


def test_ldmatrix_places():
    """Lane 8*i + r names row r of matrix i; the four matrices are the quarters of 16 x 16."""
    for order, corners in (
        (tiling.down_then_right, [(0, 0), (8, 0), (0, 8), (8, 8)]),
        (tiling.right_then_down, [(0, 0), (0, 8), (8, 0), (8, 8)]),
    ):
        assert [order(lane) for lane in range(32)] == [(r + y, c) for r, c in corners for y in range(8)]


@pytest.mark.parametrize("group", [1, 2, 3, 8])
def test_grouped_tiles_are_all_tiles(group):
    for tiles_m, tiles_n in itertools.product(range(1, 9), range(1, 6)):
        order = [tiling.grouped(index, tiles_m, tiles_n, group) for index in range(tiles_m * tiles_n)]
        assert sorted(order) == [*np.ndindex(tiles_m, tiles_n)]
        strips = [row // group for row, _ in order]
        assert strips == sorted(strips)
        for strip in range(strips[-1] + 1):
            columns = [column for row, column in order if row // group == strip]
            assert columns == sorted(columns)


MAPS = ["accumulator_place", "swizzle", "grouped", "longest_first", "down_then_right", "right_then_down"]


@pytest.mark.parametrize("name", MAPS)
def test_compiled_maps_give_the_same_numbers(name):
    function = getattr(tiling, name)
    arguments = {
        "accumulator_place": [*itertools.product(range(32), range(4))],
        "swizzle": [(r, c, n) for n in CHUNKS for r in range(16) for c in range(n)],
        "longest_first": [(i, 5, 4, together) for i in range(20) for together in (1, 2, 3, 9)],
        "grouped": [(i, 5, 4, group) for i in range(20) for group in (1, 2, 3)],
    }.get(name, [(lane,) for lane in range(32)])
    names = ", ".join("abcd"[: len(arguments[0])])
    compiled = numba.njit(eval(f"lambda {names}: function({names})", {"function": function}))
    assert tabulate(compiled, arguments) == tabulate(function, arguments)
