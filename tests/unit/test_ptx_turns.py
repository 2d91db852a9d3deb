"""Turns of blocks at something in global memory: the same in the simulator, in any order of blocks, and on a GPU."""

import numpy as np
import pytest
from numba import cuda, types
from properties.for_all import simulated

from numba_flash.arrays import read
from numba_flash.ptx import await_turn, end_turn, fetch_add, global_view
from numba_flash.runtime import Kernel, Launch, Written, launch

BLOCKS = 40


def fold(turns, y):
    """Each block in the order in which it started, and in it each thread its own element: y = 3 y + number."""
    counters, tid = global_view(turns, 0, types.int32), cuda.threadIdx.x
    number = cuda.shared.array(1, types.int32)
    if tid == 0:
        number[0] = fetch_add(counters, 0, 1)
    cuda.syncthreads()
    await_turn(counters, 1, number[0])
    out = global_view(y, 0, types.uint32)
    out[tid] = types.uint32(3) * out[tid] + types.uint32(number[0])
    cuda.syncthreads()
    end_turn(counters, 1, tid == 0)


@pytest.mark.parametrize("seed", range(3))
def test_turns_are_taken_in_order(kernels, seed):
    turns, y = (kernels.to_device(np.zeros(n, np.float32)) for n in (2, 64))
    with simulated(seed=seed, blocks=1 + 2 * seed):
        launch(Launch(Kernel.of(fold, 64), BLOCKS, (Written(read(turns)), Written(read(y)))))
    expected = 0
    for number in range(BLOCKS):
        expected = (3 * expected + number) % 2**32
    assert (kernels.to_numpy(y).view(np.uint32) == expected).all()
    assert kernels.to_numpy(turns).view(np.int32).tolist() == [BLOCKS, BLOCKS]
