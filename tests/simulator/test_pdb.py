"""A kernel can be stepped through: `next` over a barrier stays in its thread."""

import io
import pdb
import re
import sys

import numpy as np
import pytest
from numba import cuda

from numba_flash import simulator


def debugged(kernel, commands, block=8, **options):
    """What pdb prints when the kernel's thread 2 enters it, with these commands typed."""
    screen = io.StringIO()

    def breakpoint():
        return pdb.Pdb(stdin=io.StringIO("\n".join(commands) + "\n"), stdout=screen, nosigint=True, readrc=False)

    with simulator.options(**options):
        simulator.launch(kernel, 2, block, 0, (breakpoint,))
    return screen.getvalue()


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_next_over_barriers_and_shuffles(seed):
    def kernel(breakpoint):
        tile = cuda.shared.array(8, np.float32)
        x = cuda.threadIdx.x
        if x == 2 and cuda.blockIdx.x == 0:
            breakpoint().set_trace()
        tile[x] = 10 * x
        cuda.syncthreads()
        total = cuda.shfl_xor_sync(0xFF, x, 1)
        cuda.syncthreads()
        tile[x] = total

    enter = ["n"] * (sys.version_info >= (3, 13))  # which stops at set_trace itself
    script = ["n", "n", "p 'thread', x, float(tile[7]), cuda.threadIdx.x", "n", "p 'neighbour', total", "n", "c"]
    seen = debugged(kernel, enter + script, seed=seed)
    assert "('thread', 2, 70.0, 2)" in seen
    assert "('neighbour', 3)" in seen
    stops = re.findall(r"-> (.*)", seen)
    assert stops[len(enter) :] == [
        "tile[x] = 10 * x",
        "cuda.syncthreads()",
        "total = cuda.shfl_xor_sync(0xFF, x, 1)",
        "cuda.syncthreads()",
        "tile[x] = total",
    ]


def test_quitting_ends_the_launch():
    def kernel(breakpoint):
        cuda.syncthreads()
        if cuda.threadIdx.x == 2:
            breakpoint().set_trace()
        cuda.syncthreads()

    with pytest.raises(pdb.bdb.BdbQuit):
        debugged(kernel, ["n", "q"])
    simulator.launch(lambda: cuda.syncthreads(), 1, 8, 0, ())
