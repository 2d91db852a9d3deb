"""Products of warpgroups: twins and instructions against NumPy, and what can go wrong."""

import ml_dtypes
import numpy as np
import pytest
from numba import cuda, types

from numba_flash import simulator
from numba_flash.arrays import read
from numba_flash.ptx import (
    await_number,
    give_registers,
    make_wgmma,
    pin,
    take_registers,
    wgmma_commit,
    wgmma_fence,
    wgmma_wait,
)
from numba_flash.runtime import Launch, Written, launch
from numba_flash.testing.backends import SIMULATOR
from numba_flash.tiling import a_place, accumulator_place, round_up

from .helpers import in_simulator
from .warpgroup_kernels import THREADS, in_block, nothing, product_kernel, skip_without_warpgroups, swizzled

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
DEPTH = 64


def panels(matrix, across):
    """A (length, depth) matrix in panels of 64 elements along its rows, or, across, along its columns."""
    matrix = matrix.T if across else matrix
    return np.concatenate([swizzled(matrix[:, n : n + 64]) for n in range(0, matrix.shape[1], 64)])


def fragments(matrix, place, elements):
    """What the threads of a warpgroup hold of a (64, n) matrix, fragment by fragment, a thread's in a row."""
    width = max(place(31, n)[1] for n in range(elements)) + 1
    held = [
        [
            matrix[16 * (t // 32) + row, first + column]
            for first in range(0, matrix.shape[1], width)
            for row, column in of_lane
        ]
        for t in range(THREADS)
        for of_lane in [[place(t % 32, n) for n in range(elements)]]
    ]
    return np.array(held, matrix.dtype)


# Columns, dtype, and whether rows of shared memory lie along A's rows (None: A in registers) and along B's columns.
PRODUCTS = [
    (8, "float16", False, False),
    (64, "bfloat16", False, True),
    (96, "float16", True, True),
    (176, "bfloat16", False, False),
    (256, "float16", True, False),
    (256, "bfloat16", False, True),
    (64, "float16", None, True),
    (192, "bfloat16", None, True),
]


def multiply(where, columns, dtype, a_across, b_across, **how):
    """What a kernel makes of small integers, whose sums are exact, and what it should."""
    skip_without_warpgroups(where)
    rng, width = np.random.default_rng(columns), round_up(columns, 64)
    A, B = (rng.integers(-4, 5, (n, DEPTH)).astype(KINDS[dtype]) for n in (64, width))
    C = rng.integers(-9, 10, (64, columns)).astype(np.float32)
    a = fragments(A, a_place, 8).view(np.uint32) if a_across is None else panels(A, a_across)
    b = panels(B if b_across else B[:columns], b_across)
    a, b, c = (where.to_device(x) for x in (a.ravel(), np.resize(b, width * 32), fragments(C, accumulator_place, 4)))
    kernel = product_kernel(columns, dtype, a_across, b_across, **how)
    launch(Launch(kernel, 1, (read(a), read(b), Written(read(c)))))
    expected = C + A.astype(np.float64) @ B[:columns].astype(np.float64).T
    return where.to_numpy(c), fragments(expected.astype(np.float32), accumulator_place, 4)


@pytest.mark.parametrize(("columns", "dtype", "a_across", "b_across"), PRODUCTS)
def test_products(kernels, columns, dtype, a_across, b_across):
    c, expected = multiply(kernels, columns, dtype, a_across, b_across)
    assert np.array_equal(c, expected)


class TestTwins:
    """Both times of landing, several thread orders, and what hardware would answer with garbage or a hang."""

    pytestmark = in_simulator

    @pytest.mark.parametrize("landing", ["late", "early"])
    @pytest.mark.parametrize("seed", [None, 0, 1])
    def test_landing_and_orders(self, landing, seed):
        with simulator.options(landing=landing, seed=seed):
            for case in ((8, "float16", False, False), (64, "float16", None, True)):
                c, expected = multiply(SIMULATOR, *case)
                assert np.array_equal(c, expected)

    def test_unwaited_products_have_not_run(self):
        with pytest.raises(simulator.MemoryFault, match="has not waited for"):
            multiply(SIMULATOR, 8, "float16", False, False, wait=lambda pending: None)

    def test_unfenced_registers(self):
        with pytest.raises(simulator.MemoryFault, match="has not fenced its registers"):
            multiply(SIMULATOR, 8, "float16", False, False, fence=nothing)

    def test_ordinary_writes_are_not_seen_without_a_proxy_fence(self):
        c, expected = multiply(SIMULATOR, 64, "float16", False, False, publish=nothing)
        assert not np.array_equal(c, expected)

    def test_registers_that_changed_since_the_fence(self):
        wgmma = make_wgmma(8, "float16", False, False)

        def body():
            acc = cuda.local.array(4, types.float32)
            acc[0] = 1
            wgmma_fence()
            wgmma(acc, 1 << 62 | 64, 1 << 62 | 64, 1)
            acc[0] = 2
            wgmma(acc, 1 << 62 | 64, 1 << 62 | 64, 1)

        with pytest.raises(simulator.MemoryFault, match="since its last wgmma_fence"):
            in_block(body)

    def test_sums_that_have_been_waited_for_need_a_fence(self):
        wgmma = make_wgmma(8, "float16", False, False)

        def body(fenced):
            acc = cuda.local.array(4, types.float32)
            wgmma_fence()
            for _ in range(2):
                wgmma(acc, 1 << 62 | 64, 1 << 62 | 64, 0)
                wgmma_commit()
                wgmma_wait(0)
                if fenced:
                    wgmma_fence()

        in_block(body, args=(True,))
        with pytest.raises(simulator.MemoryFault, match="since its last wgmma_fence"):
            in_block(body, args=(False,))

    @pytest.mark.parametrize(
        ("descriptor", "error", "match"),
        [
            (64, ValueError, "none of a matrix with 128-byte swizzle"),
            (1 << 62 | 1 << 49 | 64, ValueError, "none of a matrix with 128-byte swizzle"),
            (1 << 62, simulator.MemoryFault, "not in the 4096 of shared memory"),
            (1 << 62 | 4096 >> 4 | 64 << 32, simulator.MemoryFault, "not in the 4096 of shared memory"),
        ],
    )
    def test_wrong_descriptors(self, descriptor, error, match):
        wgmma = make_wgmma(8, "float16", False, False)

        def body():
            acc = cuda.local.array(4, types.float32)
            wgmma_fence()
            wgmma(acc, descriptor, 1 << 62 | 64, 1)

        with pytest.raises(error, match=match):
            in_block(body, landing="early")

    def test_threads_that_disagree(self):
        wgmma = make_wgmma(8, "float16", False, False)

        def body():
            acc = cuda.local.array(4, types.float32)
            wgmma_fence()
            wgmma(acc, 1 << 62 | 64 + cuda.threadIdx.x // 64, 1 << 62 | 64, 1)

        with pytest.raises(simulator.DivergentBarrier, match="name different operands"):
            in_block(body)

    def test_a_warpgroup_has_four_warps(self):
        with pytest.raises(simulator.DivergentBarrier, match="in a warpgroup of 96 threads"):
            in_block(wgmma_commit, threads=96)

    def test_pinned_too_early(self):
        wgmma = make_wgmma(8, "float16", False, False)

        def body():
            acc = cuda.local.array(4, types.float32)
            wgmma_fence()
            wgmma(acc, 1 << 62 | 64, 1 << 62 | 64, 0)
            wgmma_commit()
            await_number(acc[0])
            pin(acc, 4)

        with pytest.raises(simulator.MemoryFault, match="has not waited for"):
            in_block(body)


class TestRegisters:
    """What warpgroups give back and take."""

    pytestmark = in_simulator

    @pytest.mark.parametrize("seed", [None, 0, 1])
    def test_one_gives_what_two_take(self, seed):
        in_block(lambda: give_registers(24) if cuda.threadIdx.x < 128 else take_registers(240), threads=384, seed=seed)

    def test_more_than_there_are(self):
        with pytest.raises(simulator.Deadlock, match="setmaxnreg for 248 registers, 80 more"):
            in_block(lambda: give_registers(24) if cuda.threadIdx.x < 128 else take_registers(248), threads=384)

    @pytest.mark.parametrize(
        ("ask", "count", "match"),
        [
            (give_registers, 176, "has 168 registers and asks for 176: an dec, to more"),
            (take_registers, 160, "has 168 registers and asks for 160: an inc, to fewer"),
            (give_registers, 20, "not for a multiple of 8"),
            (take_registers, 264, "not for a multiple of 8"),
        ],
    )
    def test_impossible_numbers(self, ask, count, match):
        with pytest.raises(ValueError, match=match):
            in_block(lambda: ask(count), threads=384)

    def test_threads_that_disagree(self):
        with pytest.raises(simulator.DivergentBarrier, match="disagree"):
            in_block(lambda: give_registers(24 + 8 * (cuda.threadIdx.x // 64 % 2)), threads=384)
