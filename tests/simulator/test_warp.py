"""numba's warp operations against a NumPy model."""

import numpy as np
import pytest
from numba import cuda

from numba_flash import simulator

FULL = 0xFFFFFFFF
LANES = np.arange(32)


def run(operation, values, block=32, seed=None):
    """The operation's result in every lane."""
    found = {}

    def kernel():
        found[cuda.threadIdx.x] = operation(values[cuda.threadIdx.x])

    with simulator.options(seed=seed):
        simulator.launch(kernel, 1, block, 0, ())
    return [found[i] for i in range(block)]


@pytest.fixture(params=[np.float32, np.int64])
def values(request):
    return np.random.default_rng(0).normal(scale=100, size=32).astype(request.param)


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("n", [0, 1, 5, 16, 31, 32, 40])
def test_shuffles(values, n, seed):
    def shuffled(operation):
        result = run(lambda v: operation(FULL, v, n), values, seed=seed)
        assert {type(v) for v in result} == {type(values[0])}
        return np.array(result)

    up, down = LANES - n, LANES + n
    np.testing.assert_array_equal(shuffled(cuda.shfl_sync), values[[n % 32] * 32])
    np.testing.assert_array_equal(shuffled(cuda.shfl_up_sync), values[np.where(up < 0, LANES, up)])
    np.testing.assert_array_equal(shuffled(cuda.shfl_down_sync), values[np.where(down > 31, LANES, down % 32)])
    if n < 32:
        np.testing.assert_array_equal(shuffled(cuda.shfl_xor_sync), values[LANES ^ n])


def test_a_value_that_no_lane_brings_is_garbage():
    result = run(lambda v: cuda.shfl_down_sync(FULL, v, 1), np.arange(20, dtype=np.float32), block=20)
    np.testing.assert_array_equal(result, [*range(1, 20), np.nan])
    assert run(lambda v: cuda.shfl_sync(0x3, v, 2), np.arange(2), block=2) == [-1, -1]


def test_a_warp_sum(values):
    def butterfly(v):
        for step in (16, 8, 4, 2, 1):
            v += cuda.shfl_xor_sync(FULL, v, step)
        return v

    result = run(butterfly, values)
    np.testing.assert_allclose(result, [values.sum(dtype=np.float64)] * 32, rtol=1e-5)


@pytest.mark.parametrize("predicates", [np.zeros(32), np.ones(32), LANES % 3 == 0])
def test_votes(predicates):
    ballot = sum(1 << lane for lane in range(32) if predicates[lane])
    assert run(lambda p: cuda.ballot_sync(FULL, p), predicates) == [ballot] * 32
    assert run(lambda p: cuda.all_sync(FULL, p), predicates) == [bool(predicates.all())] * 32
    assert run(lambda p: cuda.any_sync(FULL, p), predicates) == [bool(predicates.any())] * 32
    assert run(lambda p: cuda.eq_sync(FULL, p), predicates) == [len(set(predicates)) == 1] * 32


def test_votes_of_a_small_block():
    assert run(lambda p: cuda.all_sync(FULL, p), np.ones(7), block=7) == [True] * 7
    assert run(lambda p: cuda.ballot_sync(FULL, p), np.ones(7), block=7) == [0x7F] * 7


def test_matches():
    values = LANES % 3
    expected = [sum(1 << lane for lane in range(32) if values[lane] == v) for v in values]
    assert run(lambda v: cuda.match_any_sync(FULL, v), values) == expected
    assert run(lambda v: cuda.match_all_sync(FULL, v), values) == [(0, False)] * 32
    assert run(lambda v: cuda.match_all_sync(FULL, v), np.full(32, np.nan)) == [(FULL, True)] * 32


def test_activemask_is_who_comes_together():
    def kernel(seen):
        if cuda.laneid % 2:
            seen.append((cuda.laneid, cuda.activemask()))

    seen = []
    simulator.launch(kernel, 1, 64, 0, (seen,))
    assert seen == [(lane, 0xAAAAAAAA) for lane in range(1, 32, 2)] * 2


def test_lanemask_and_warpsize():
    assert run(lambda v: cuda.lanemask_lt(), LANES) == [(1 << lane) - 1 for lane in range(32)]
    assert cuda.warpsize == 32


def test_syncwarp_orders_a_warp():
    def kernel(out):
        tile = cuda.shared.array(64, np.float32)
        x = cuda.threadIdx.x
        tile[x] = x
        cuda.syncwarp()
        out[x] = tile[x ^ 31]

    for seed in (None, 1):
        out = np.zeros(64, np.float32)
        with simulator.options(seed=seed):
            simulator.launch(kernel, 1, 64, 0, (out,))
        np.testing.assert_array_equal(out, np.arange(64) ^ 31)


@pytest.mark.parametrize("trues", [0, 3, 40])
def test_barriers_that_count(trues):
    def barriers(p):
        return cuda.syncthreads_count(p), cuda.syncthreads_and(p), cuda.syncthreads_or(p)

    predicates = np.arange(40) < trues
    assert run(barriers, predicates, block=40) == [(trues, int(trues == 40), int(trues > 0))] * 40
