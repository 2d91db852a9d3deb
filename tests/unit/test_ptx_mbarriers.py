"""Barriers that count arrivals and bytes, phase after phase, in the simulator."""

import pytest
from numba import cuda, types

from numba_flash import simulator
from numba_flash.ptx import (
    mbarrier_arrive,
    mbarrier_expect,
    mbarrier_init,
    mbarrier_wait,
    shared_address,
    shared_tile,
)

from .helpers import in_simulator
from .warpgroup_kernels import in_block


class TestBarriers:
    """Phases of barriers."""

    pytestmark = in_simulator

    @pytest.mark.parametrize("seed", [None, 0, 1])
    def test_phases_go_round(self, seed):
        """Half of the threads write what the others read, five times through one place."""
        turns, seen = 5, []

        def body():
            tid, full, free = cuda.threadIdx.x, shared_address(128), shared_address(136)
            tile = shared_tile(0, (32,), types.float32)
            if tid == 0:
                mbarrier_init(full, 32)
                mbarrier_init(free, 32)
            cuda.syncthreads()
            for turn in range(turns):
                if tid < 32:
                    mbarrier_wait(free, turn & 1 ^ 1)
                    tile[tid] = 32 * turn + tid
                    mbarrier_arrive(full)
                else:
                    mbarrier_wait(full, turn & 1)
                    seen.append(tile[63 - tid])
                    mbarrier_arrive(free)

        in_block(body, threads=64, seed=seed)
        assert sorted(seen) == list(range(32 * turns))

    @staticmethod
    def alone(body, **how):
        in_block(body, threads=1, **how)

    def test_what_nobody_brings_is_a_deadlock(self):
        def body():
            barrier = shared_address(0)
            mbarrier_init(barrier, 1)
            mbarrier_expect(barrier, 64)
            mbarrier_wait(barrier, 0)

        with pytest.raises(simulator.Deadlock, match="mbarrier at byte 0 in phase 0 .*64 bytes missing"):
            self.alone(body)

    def test_one_arrival_too_many(self):
        def body():
            barrier = shared_address(8)
            mbarrier_init(barrier, 1)
            mbarrier_expect(barrier, 64)
            mbarrier_arrive(barrier)

        with pytest.raises(simulator.MemoryFault, match="arrives at the mbarrier at byte 8 .* all of its 1 arrivals"):
            self.alone(body)

    @pytest.mark.parametrize("offset", [4, 4096, -8])
    def test_where_none_can_be(self, offset):
        with pytest.raises(simulator.MemoryFault, match="no mbarrier can lie"):
            self.alone(lambda: mbarrier_init(shared_address(offset), 1))

    def test_none_has_been_made(self):
        with pytest.raises(simulator.MemoryFault, match="no mbarrier has been made at byte 16"):
            self.alone(lambda: mbarrier_wait(shared_address(16), 1))

    def test_impossible_numbers(self):
        with pytest.raises(ValueError, match="for 0 arrivals"):
            self.alone(lambda: mbarrier_init(shared_address(0), 0))

        def body():
            mbarrier_init(shared_address(0), 1)
            mbarrier_wait(shared_address(0), 2)

        with pytest.raises(ValueError, match="parity 0 and 1, not 2"):
            self.alone(body)
