"""Named barriers: warps that meet without the others, in the simulator and on a GPU, and what can go wrong."""

import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from interpreter import environment
from numba import cuda, types

from numba_flash import simulator
from numba_flash.arrays import read
from numba_flash.ptx import barrier_arrive, barrier_sync, device, global_view, shared_tile
from numba_flash.runtime import Kernel, Launch, Written, launch
from numba_flash.testing.backends import SIMULATOR

from .helpers import in_simulator
from .test_ptx_matrices import blocks_of

THREADS, HALF, STEPS = 128, 64, 5
FULL, FREE = 1, 2  # barriers


@device
def nothing(number, threads):
    pass


def relay_kernel(full=barrier_sync, free=barrier_sync):
    """Half of a block fills a tile of shared memory, STEPS times; the other half writes it to y, reversed.

    `full` and `free`: how they wait until the tile is full, and until it is free again.
    """

    def relay(X, Y):
        tile, t = shared_tile(0, (HALF,), types.float32), cuda.threadIdx.x
        x, y = global_view(X, 0, types.float32), global_view(Y, 0, types.float32)
        for step in range(STEPS):
            at = (cuda.blockIdx.x * STEPS + step) * HALF
            if t < HALF:
                if step > 0:
                    free(FREE, THREADS)
                tile[t] = x[at + t]
                barrier_arrive(FULL, THREADS)
            else:
                full(FULL, THREADS)
                y[at + t - HALF] = tile[THREADS - 1 - t]
                if step < STEPS - 1:
                    barrier_arrive(FREE, THREADS)

    return Kernel.of(relay, THREADS, 4 * HALF)


def swap_kernel(written=barrier_sync, read=barrier_sync):
    """Pairs of warps swap what they have, at a barrier of each pair's own; the second pair does so once more.

    `written` and `read`: how a pair waits until both have written, and until both have read.
    """

    def swap(X, Y):
        tile, t, at = shared_tile(0, (THREADS,), types.float32), cuda.threadIdx.x, cuda.grid(1)
        pair, value = t // HALF, global_view(X, 0, types.float32)[at]
        for _ in range(STEPS + pair):
            tile[t] = value
            written(3 + pair, HALF)
            value = tile[t ^ 32]
            read(3 + pair, HALF)
        global_view(Y, 0, types.float32)[at] = value

    return Kernel.of(swap, THREADS, 4 * THREADS)


def run(where, kernel, blocks, size):
    """Random numbers, `size` a block, and what the kernel makes of them."""
    x = np.random.default_rng(0).standard_normal((blocks, size)).astype(np.float32)
    given, y = where.to_device(x), where.to_device(np.full_like(x, np.nan))
    launch(Launch(kernel, blocks, (read(given), Written(read(y)))))
    return x, where.to_numpy(y)


def test_some_fill_and_others_take(kernels):
    x, y = run(kernels, relay_kernel(), blocks_of(kernels), STEPS * HALF)
    assert np.array_equal(y.reshape(-1, HALF), x.reshape(-1, HALF)[:, ::-1])


def test_groups_that_wait_as_often_as_they_want(kernels):
    x, y = (a.reshape(-1, 2, 2, 32) for a in run(kernels, swap_kernel(), blocks_of(kernels), THREADS))
    assert STEPS % 2 == 1
    assert np.array_equal(y[:, 0], x[:, 0, ::-1]) and np.array_equal(y[:, 1], x[:, 1])


class TestTwins:
    """The twins in several thread orders, and their errors."""

    pytestmark = in_simulator

    @pytest.mark.parametrize("seed", [None, 0, 1, 2])
    def test_thread_orders(self, seed):
        with simulator.options(seed=seed):
            test_some_fill_and_others_take(SIMULATOR)
            test_groups_that_wait_as_often_as_they_want(SIMULATOR)

    @pytest.mark.parametrize("seed", [None, 0, 1, 2])
    @pytest.mark.parametrize("missing", ["written", "read"])
    def test_a_missing_barrier_is_a_wrong_number(self, missing, seed):
        with simulator.options(seed=seed):
            x, y = run(SIMULATOR, swap_kernel(**{missing: nothing}), 1, THREADS)
        assert not np.array_equal(y.reshape(2, 2, 32)[0], x.reshape(2, 2, 32)[0, ::-1])

    @pytest.mark.parametrize("missing", ["full", "free"])
    def test_a_missing_wait_makes_others_arrive_twice(self, missing):
        message = "arrive twice at named barrier [12], in place of others of 128 threads"
        with pytest.raises(simulator.DivergentBarrier, match=message):
            run(SIMULATOR, relay_kernel(**{missing: nothing}), 1, STEPS * HALF)

    @staticmethod
    def message(body, threads, kind=simulator.DivergentBarrier):
        with pytest.raises(kind) as caught:
            simulator.launch(body, 1, threads, 0, ())
        return str(caught.value)

    @pytest.mark.parametrize("instruction", [barrier_sync, barrier_arrive])
    def test_which_barriers_there_are(self, instruction):
        simulator.launch(lambda: [instruction(number, 32) for number in range(16)], 1, 32, 0, ())
        for number in (-1, 16):
            text = self.message(lambda number=number: instruction(number, 32), 32, ValueError)
            assert f"thread (0, 0, 0) of block (0, 0, 0) names barrier {number}, which is not one of 0 to 15" in text

    @pytest.mark.parametrize("instruction", [barrier_sync, barrier_arrive])
    @pytest.mark.parametrize("threads", [-32, 0, 1, 31, 33, 96])
    def test_threads_are_whole_warps_of_the_block(self, instruction, threads):
        text = self.message(lambda: instruction(1, threads), 64, ValueError)
        assert f"waits for {threads} threads, not for whole warps of its block" in text

    def test_a_warp_counts_as_a_whole(self):
        """A block of 40 threads has two warps; lanes that have returned are not waited for."""
        passed = []

        def body():
            if cuda.threadIdx.x != 3:
                barrier_sync(1, 64)
                passed.append(cuda.threadIdx.x)

        simulator.launch(body, 1, 40, 0, ())
        assert passed == [t for t in range(40) if t != 3]

    def test_too_few(self):
        def body():
            if cuda.threadIdx.x < 32:
                barrier_arrive(1, 128)
            elif cuda.threadIdx.x < 96:
                barrier_sync(1, 128)

        text = self.message(body, 128)
        assert "threads 32-95 wait at named barrier 1 for 128 threads, reached by threads 0-95 (" in text
        assert "threads 0-31, 96-127 have returned" in text

    def test_others_wait_elsewhere(self):
        text = self.message(lambda: barrier_sync(1 + cuda.threadIdx.x // 32, 64), 64)
        assert "threads 0-31 wait at named barrier 1" in text and "threads 32-63 wait at named barrier 2" in text

    def test_different_counts(self):
        text = self.message(lambda: barrier_sync(1, 96 - cuda.threadIdx.x // 32 * 32), 96)
        assert "threads 32-63 arrive at named barrier 1 for 64 threads, threads 0-31 for 96" in text

    def test_lanes_of_a_warp_arrive_together(self):
        def diverging():
            if cuda.threadIdx.x < 16:
                barrier_sync(1, 32)
            else:
                barrier_sync(1, 32)

        text = self.message(diverging, 32)
        assert "threads 0-15 wait at bar.sync" in text and "threads 16-31 wait at bar.sync" in text
        text = self.message(lambda: barrier_arrive(1 + cuda.threadIdx.x % 2, 32), 32)
        assert "threads 0-31 name different barriers, (number, threads): [(1, 32), (2, 32)]" in text

    @pytest.mark.parametrize("syncthreads", [cuda.syncthreads, lambda: cuda.syncthreads_or(1)])
    @pytest.mark.parametrize("first", ["named", "whole"])
    def test_the_barrier_of_the_block(self, first, syncthreads):
        def body():
            if (cuda.threadIdx.x < 32) == (first == "named"):
                barrier_sync(0, 64)
            else:
                syncthreads()

        assert "syncthreads" in self.message(body, 64) and "named barrier 0" in self.message(body, 64)

    def test_barrier_0_after_that_of_the_block(self):
        def body():
            cuda.syncthreads()
            barrier_sync(0, 64)
            cuda.syncthreads()

        simulator.launch(body, 1, 64, 0, ())

    def test_an_arrival_that_nobody_waits_for(self):
        simulator.launch(lambda: barrier_arrive(1, 64) if cuda.threadIdx.x < 32 else None, 1, 64, 0, ())


COMPILE = """
    import json
    from numba_flash.runtime.compile import link, to_ltoir, to_ptx
    from unit.test_ptx_barriers import relay_kernel
    found = {}
    for arch in ("sm_75", "sm_80", "sm_90a"):
        code = to_ltoir(relay_kernel(), "P,P", arch)
        binary = link(code, arch)
        found[arch] = to_ptx(code, arch), binary.stack_bytes, binary.spilled_bytes
    print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="there is no CUDA toolkit for macOS")
def test_what_they_compile_to():
    """The compiler repeats the loop; in it, each instruction comes as often as it is executed, in its place."""
    command = [sys.executable, "-c", textwrap.dedent(COMPILE)]
    done = subprocess.run(command, env=environment(NUMBA_ENABLE_CUDASIM="0"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for ptx, *memory in json.loads(done.stdout).values():
        instructions = re.findall(r"bar\.(sync|arrive) +%r\d+, %r\d+;", ptx)
        assert sorted(instructions) == ["arrive"] * (2 * STEPS - 1) + ["sync"] * (2 * STEPS - 1)
        assert memory == [0, 0] and ".local" not in ptx and ".f64" not in ptx
