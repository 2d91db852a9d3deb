"""What a launch accepts, and what a kernel sees."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import cuda

from numba_flash import simulator

from . import helpers


def nothing(*args):
    pass


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes"),
    [(0, 1, 0), (1, 0, 0), (1, 1025, 0), (1, (32, 33), 0), ((1, 65536), 1, 0), (1, (1, 1, 65), 0), (1, 1, -1),
     (1, 1, 227 * 1024 + 1), ((1, 1, 1, 1), 1, 0), ((), 1, 0)],
)  # fmt: skip
def test_sizes_that_cuda_refuses(grid, block, shared_bytes):
    with pytest.raises(ValueError, match="grid|block|shared_bytes"):
        simulator.launch(nothing, grid, block, shared_bytes, ())


def test_sizes_are_integers():
    simulator.launch(nothing, np.int64(2), (np.int32(2), 2), 0, ())
    with pytest.raises(TypeError):
        simulator.launch(nothing, 1.5, 1, 0, ())


def test_arguments_arrive_as_they_are():
    A, B = np.zeros(3), []

    def kernel(a, b):
        assert a is A
        b.append(a)

    simulator.launch(kernel, 1, 2, 0, (A, B))
    assert B[0] is A and len(B) == 2


def test_helpers_of_any_module_see_the_running_thread():
    seen = []
    simulator.launch(lambda: seen.append(helpers.place()), 2, 40, 0, ())
    assert seen == [(t, b, 40, 2, t % 32, 40 * b + t, 80) for b in range(2) for t in range(40)]


def test_current_describes_the_thread():
    seen = []

    def kernel():
        t = simulator.current()
        seen.append((t.threadIdx, t.blockIdx, t.blockDim, t.gridDim, t.index, t.warp, t.lane, len(t.block.threads)))

    simulator.launch(kernel, (1, 2), (8, 8), 0, ())
    assert seen[-1] == ((7, 7, 0), (0, 1, 0), (8, 8, 1), (1, 2, 1), 63, 1, 31, 64)
    assert seen[-1][0].y == 7


def test_nothing_runs_on_the_host():
    for access in (simulator.current, helpers.place, helpers.wait, lambda: simulator.exchange(1)):
        with pytest.raises(RuntimeError, match="no simulated thread is running"):
            access()


def test_a_kernel_cannot_launch():
    with pytest.raises(RuntimeError, match="a kernel cannot launch a kernel"):
        simulator.launch(lambda: simulator.launch(nothing, 1, 1, 0, ()), 1, 1, 0, ())


def test_float_warnings_are_silent_in_kernels_only():
    def kernel(x):
        x[0] = np.float32(1) / x[1] + np.float32(3e38) * np.float32(10)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulator.launch(kernel, 1, 1, 0, (np.zeros(2, np.float32),))
        with pytest.raises(RuntimeWarning):
            np.float32(1) / np.float32(0)


def test_options_nest_and_restore():
    def early():
        landed = []
        simulator.launch(lambda: simulator.current().copies.issue(lambda: landed.append(1)), 1, 1, 0, ())
        return bool(landed)

    with simulator.options(landing="early"):
        assert early()
        with simulator.options(seed=3):
            assert not early()
        assert early()
        with pytest.raises(ZeroDivisionError), simulator.options():
            raise ZeroDivisionError
        assert early()
    assert not early()
    with pytest.raises(ValueError, match="sometime"), simulator.options(landing="sometime"):
        pass


def test_host_threads_launch_side_by_side():
    def kernel(out):
        for _ in range(20):
            cuda.syncthreads()
            out[cuda.threadIdx.x] += cuda.shfl_xor_sync(0xFFFFFFFF, cuda.threadIdx.x, 1)

    outs = np.zeros((4, 32))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda out: simulator.launch(kernel, 3, 32, 0, (out,)), outs))
    np.testing.assert_array_equal(outs, [60 * (np.arange(32) ^ 1)] * 4)


def test_threads_end_between_launches():
    """A thread whose kernel has ended runs the next block's; its state is new."""

    def kernel(left):
        copies = simulator.current().copies
        copies.issue(lambda: left.append(simulator.current().blockIdx.x))
        copies.commit()
        if simulator.current().blockIdx.x == 2:
            copies.wait(0)

    left = []
    simulator.launch(kernel, 3, 2, 0, (left,))
    assert left == [2, 2]
