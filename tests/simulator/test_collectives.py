"""Exchanges within a warp and a block."""

import numpy as np
import pytest

from numba_flash import simulator


def collect(function, block):
    """What the function returns in every thread, in both orders."""
    results = []
    for seed in (None, 3):
        found = {}

        def kernel(found=found):
            thread = simulator.current()
            found[thread.index] = function(thread)

        with simulator.options(seed=seed):
            simulator.launch(kernel, 1, block, 0, ())
        results.append([found[i] for i in range(block)])
    assert results[0] == results[1]
    return results[0]


def test_all_lanes():
    first, second = list(range(32)), list(range(32, 64))
    assert collect(lambda t: list(simulator.exchange(t.index)), 64) == [first] * 32 + [second] * 32


def test_a_part_of_a_warp():
    assert collect(lambda t: list(simulator.exchange(t.lane)), 5) == [[0, 1, 2, 3, 4] + [None] * 27] * 5


def test_disjoint_masks_at_one_call():
    def halves(t):
        return [v for v in simulator.exchange(t.lane, 0xFFFF if t.lane < 16 else 0xFFFF0000) if v is not None]

    assert collect(halves, 32) == [list(range(16))] * 16 + [list(range(16, 32))] * 16


def test_lanes_outside_of_the_mask_stay_away():
    def odd(t):
        return sum(v or 0 for v in simulator.exchange(t.lane, 0xAAAAAAAA)) if t.lane % 2 else None

    assert collect(odd, 32) == [None, 256] * 16


@pytest.mark.parametrize("mask", [-1, np.int32(-1), np.uint32(0xFFFFFFFF)])
def test_full_masks(mask):
    assert collect(lambda t: list(simulator.exchange(t.lane, mask)), 64) == [list(range(32))] * 64


def test_returned_lanes_are_not_waited_for():
    def kernel(seen):
        thread = simulator.current()
        if thread.lane < 30:
            return
        seen.append(simulator.exchange(thread.lane))
        seen.append(simulator.exchange(-thread.lane))

    seen = []
    simulator.launch(kernel, 1, 32, 0, (seen,))
    assert seen == [[None] * 30 + [30, 31]] * 2 + [[None] * 30 + [-30, -31]] * 2


def test_combine_runs_once_when_all_are_there_and_before_any_goes_on():
    calls = []

    def kernel(memory):
        thread = simulator.current()
        memory[thread.index] = thread.index
        total = simulator.exchange(thread.index, combine=lambda values: calls.append(values) or memory.sum())
        memory[:] = -1
        assert total == sum(range(32))

    for seed in (None, 1):
        with simulator.options(seed=seed):
            simulator.launch(kernel, 1, 32, 0, (np.zeros(32),))
    assert len(calls) == 2


def test_a_block():
    assert collect(lambda t: list(simulator.exchange_block(t.index)), 70) == [list(range(70))] * 70


def test_names_show_in_errors():
    def kernel():
        if simulator.current().lane:
            simulator.exchange(1, name="mma")
        else:
            simulator.exchange_block(1, name="cluster")

    with pytest.raises(simulator.DivergentBarrier, match=r"thread 0 waits at cluster .*threads 1-31 wait at mma"):
        simulator.launch(kernel, 1, 32, 0, ())
