"""Turns: in order, or shuffled by a seed, and the same every time."""

from itertools import product

import numpy as np
import pytest
from numba import cuda

from numba_flash import simulator
from numba_flash.ptx import await_turn, end_turn


def trace(rounds, threads, **options):
    """Which (block, thread) ran when, over several barriers."""
    seen = []

    def kernel():
        for _ in range(rounds):
            seen.append((cuda.blockIdx.x, cuda.threadIdx.x))
            cuda.syncthreads()

    with simulator.options(**options):
        simulator.launch(kernel, 3, threads, 0, ())
    return seen


def test_in_order_as_numbered():
    assert trace(2, 4) == [(b, t) for b, _, t in product(range(3), range(2), range(4))]


def test_x_is_fastest_in_blocks_and_grids():
    seen = []

    def kernel():
        thread = simulator.current()
        seen.append((thread.blockIdx, thread.threadIdx, thread.index))

    simulator.launch(kernel, (2, 2, 2), (2, 3, 2), 0, ())
    corners = list(product(range(2), range(2), range(2)))
    threads = list(product(range(2), range(3), range(2)))
    expected = [((x, y, z), (c, b, a), i) for z, y, x in corners for i, (a, b, c) in enumerate(threads)]
    assert seen == expected


def test_threads_released_together_run_as_they_are_numbered():
    """Warp 1 begins to gather before warp 0 does; both are complete in the same round."""
    order = []

    def kernel():
        if cuda.threadIdx.x < 32 or cuda.laneid == 31:
            cuda.nanosleep(1)
        cuda.syncwarp()
        order.append(cuda.threadIdx.x)

    simulator.launch(kernel, 1, 64, 0, ())
    assert order == list(range(64))


def test_a_seed_shuffles_blocks_and_every_round():
    seen = trace(3, 16, seed=5)
    assert seen == trace(3, 16, seed=5)
    assert seen != trace(3, 16, seed=6)
    rounds = [seen[i : i + 16] for i in range(0, len(seen), 16)]
    orders = [tuple(thread for _, thread in turn) for turn in rounds]
    assert len(set(orders)) == len(orders) == 9
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert [turn[0][0] for turn in rounds] == [b for b in dict.fromkeys(b for b, _ in seen) for _ in range(3)]
    assert {tuple(dict.fromkeys(b for b, _ in trace(1, 1, seed=s))) for s in range(20)} > {(0, 1, 2)}


def test_launches_of_one_options_block_start_alike():
    with simulator.options(seed=1):
        assert trace(2, 8, seed=2) == trace(2, 8, seed=2)
        assert trace(2, 8) == trace(2, 8, seed=None)


def stencil(A, B, barrier):
    """Two steps of B[x] = A[x] + A[x + 1] in one shared buffer; the second barrier guards the reuse of the buffer."""
    tile = cuda.shared.array(32, np.float32)
    x = cuda.threadIdx.x
    value = A[x]
    for _ in range(2):
        tile[x] = value
        cuda.syncthreads()
        value = tile[x] + tile[(x + 1) % 32]
        if barrier:
            cuda.syncthreads()
    B[x] = value


@pytest.mark.parametrize("barrier", [True, False])
def test_a_missing_barrier_is_a_wrong_number(barrier):
    A = np.arange(32, dtype=np.float32) ** 2
    expected = A + 2 * np.roll(A, -1) + np.roll(A, -2)
    right = []
    for seed in (None, *range(4)):
        B = np.full_like(A, np.nan)
        with simulator.options(seed=seed):
            simulator.launch(stencil, 1, 32, 0, (A, B, barrier))
        right.append(np.array_equal(B, expected))
    assert all(right) if barrier else not all(right)


def test_a_missing_first_barrier_reads_nan():
    def reverse(B):
        tile = cuda.shared.array(64, np.float32)
        tile[cuda.threadIdx.x] = 1
        B[cuda.threadIdx.x] = tile[63 - cuda.threadIdx.x]

    B = np.zeros(64, np.float32)
    simulator.launch(reverse, 1, 64, 0, (B,))
    assert np.isnan(B).sum() == 32


def progress(**options):
    """(warp, step) of two warps, each with nine steps of its own before a barrier and one after it."""
    order = []

    def kernel():
        for step in range(10):
            cuda.syncwarp()
            if step == 9:
                cuda.syncthreads()
            if cuda.laneid == 0:
                order.append((cuda.threadIdx.x // 32, step))

    with simulator.options(**options):
        simulator.launch(kernel, 1, 64, 0, ())
    return order


def test_a_warp_runs_ahead_until_a_barrier():
    """So what another warp writes without a barrier between them is not there yet."""
    assert progress() == [*product((0, 1), range(9)), (0, 9), (1, 9)]


def test_a_seed_says_which_warp_runs_ahead():
    order = progress(seed=1)
    assert order == progress(seed=1) != progress(seed=2)
    assert sorted(order[:18]) == [*product((0, 1), range(9))]
    assert order[:18] != sorted(order[:18])


@pytest.mark.parametrize("blocks", [1, 2])
def test_blocks_take_turns(blocks):
    """Round by round, as many as there are at a time; the next one has the threads of one that is done."""
    order = []

    def kernel():
        for step in range(2):
            cuda.syncthreads()
            if cuda.threadIdx.x == 0:
                order.append((cuda.blockIdx.x, step))

    with simulator.options(blocks=blocks):
        simulator.launch(kernel, 4, 32, 0, ())
    together = [range(first, first + blocks) for first in range(0, 4, blocks)]
    assert order == [(block, step) for blocks in together for step in range(2) for block in blocks]


def wait_for_next(pointer):
    """Every block waits for the one behind it."""
    block, turns = cuda.blockIdx.x, pointer.view(np.int32)
    if block + 1 < cuda.gridDim.x:
        await_turn(turns, block + 1, 1)
    end_turn(turns, block, cuda.threadIdx.x == 0)


def test_a_block_waits_for_another():
    turns = np.zeros(3, np.int32)
    with simulator.options(blocks=3):
        simulator.launch(wait_for_next, 3, 32, 0, (simulator.Pointer(turns, writable=True),))
    assert turns.tolist() == [1, 1, 1]


def test_a_block_that_has_not_started_is_not_waited_for():
    turns = np.zeros(3, np.int32)
    with simulator.options(blocks=2), pytest.raises(simulator.Deadlock, match="element 1 of .* that is not 1 yet"):
        simulator.launch(wait_for_next, 3, 32, 0, (simulator.Pointer(turns, writable=True),))


def test_at_least_one_block():
    with pytest.raises(ValueError, match="blocks=0"), simulator.options(blocks=0):
        pass
