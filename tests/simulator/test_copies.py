"""Asynchronous copies land as late or as early as hardware may, so that a race is a wrong number."""

import numpy as np
import pytest
from numba import cuda

from numba_flash import simulator

WAYS = [(landing, seed) for landing in ("late", "early") for seed in (None, 1)]


def pipeline(A, B, wait, free):
    """B = A tile by tile through a ring of two stages; every thread copies one element and reads its neighbour's."""
    ring = cuda.shared.array((2, 32), np.float32)
    x, copies = cuda.threadIdx.x, simulator.current().copies
    tiles = A.shape[0]

    def start(j):
        if j < tiles:
            copies.issue(lambda: ring.__setitem__((j % 2, x), A[j, x]))
        copies.commit()

    start(0)
    for j in range(tiles):
        start(j + 1)
        if wait:
            copies.wait(1)
        cuda.syncthreads()  # stage j has landed for all
        B[j, x] = ring[j % 2, (x + 1) % 32]
        if free:
            cuda.syncthreads()  # stage j may be overwritten


def correct(landing, seed, **mistakes):
    A = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    B = np.full_like(A, np.nan)
    with simulator.options(landing=landing, seed=seed):
        simulator.launch(pipeline, 1, 32, 0, (A, B, *({"wait": True, "free": True} | mistakes).values()))
    return np.array_equal(B, np.roll(A, -1, axis=1))


@pytest.mark.parametrize(("landing", "seed"), WAYS)
def test_a_correct_pipeline_is_correct_in_every_way(landing, seed):
    assert correct(landing, seed)


@pytest.mark.parametrize("seed", [None, 1])
def test_late_landing_shows_a_missing_wait(seed):
    assert not correct("late", seed, wait=False)
    assert correct("early", seed, wait=False)


@pytest.mark.parametrize("seed", [None, 1])
def test_early_landing_shows_a_missing_free_barrier(seed):
    assert not correct("early", seed, free=False)


def log(landing, script):
    """Which copies have landed after each step of a thread's script."""
    landed, states = [], []

    def kernel():
        copies = simulator.current().copies
        for step in script:
            if isinstance(step, str):
                copies.issue(lambda name=step: landed.append(name))
            elif step is None:
                copies.commit()
            else:
                copies.wait(step)
            states.append("".join(landed))

    with simulator.options(landing=landing):
        simulator.launch(kernel, 1, 1, 0, ())
    return states


def test_groups_land_in_order_at_the_wait_that_covers_them():
    script = ["a", "b", None, "c", None, None, "d", 3, 2, 1, 0, None, 0]
    assert log("late", script) == ["", "", "", "", "", "", "", "", "ab", "abc", "abc", "abc", "abcd"]
    assert log("early", script) == ["a", "ab", "ab", "abc", "abc", "abc"] + ["abcd"] * 7


def test_a_late_copy_reads_its_source_when_it_lands():
    seen = []

    def kernel():
        copies, source = simulator.current().copies, [1]
        copies.issue(lambda: seen.append(source[0]))
        copies.commit()
        source[0] = 2
        copies.wait(0)

    simulator.launch(kernel, 1, 1, 0, ())
    assert seen == [2]
