"""Named barriers: some warps of a block wait for one another, or tell the others that they are done and go on.

A block has 16, numbered from 0; 0 is the one of `cuda.syncthreads`, so a kernel that calls that takes others. All
lanes of a warp execute these instructions together.
"""

from __future__ import annotations

from typing import Any

from numba.types import int32

from numba_flash import simulator
from numba_flash.ptx.codegen import instruction


@instruction("bar.sync $0, $1;", reads=[int32, int32], memory=True, convergent=True)
def barrier_sync(number: Any, threads: Any) -> None:
    """Arrive at a barrier, and wait until so many threads have, by this instruction or by `barrier_arrive`.

    `threads` is a multiple of 32, since warps arrive as a whole, and the same for everyone. Then those who waited see
    what all the others wrote before they arrived, and the barrier is free to be used again.
    """
    simulator.park(simulator.arrive(number, threads, name="bar.sync"))


@instruction("bar.arrive $0, $1;", reads=[int32, int32], memory=True, convergent=True)
def barrier_arrive(number: Any, threads: Any) -> None:
    """Arrive at a barrier as by `barrier_sync`, and go on without waiting."""
    simulator.arrive(number, threads, name="bar.arrive")
