"""Asynchronous copies and additions in the simulator: what, whereto, when."""

import numpy as np
import pytest
from numba import cuda, types
from numba.np.numpy_support import from_dtype

from numba_flash import simulator
from numba_flash.ptx import add, add4, commit_copies, copy, global_view, shared_tile, wait_copies

from .helpers import in_simulator


def view_of(x, dtype, writable=False):
    """A view of a whole array."""
    return global_view(simulator.Pointer(x, writable=writable), 0, dtype)


def in_one_thread(body, shared_bytes=64, landing="late"):
    """Run body() in a block of one thread."""
    with simulator.options(landing=landing):
        simulator.launch(body, 1, 1, shared_bytes, ())


COPIES = [
    (np.uint16, 2),
    (np.uint16, 8),
    (np.float32, 1),
    (np.float32, 2),
    (np.float32, 4),
    (np.float64, 1),
    (np.float64, 2),
]


class TestCopies:
    """Asynchronous copies in the simulator: what, whereto, when."""

    pytestmark = in_simulator

    @pytest.mark.parametrize("landing", ["late", "early"])
    @pytest.mark.parametrize(("dtype", "n"), COPIES)
    def test_copy(self, dtype, n, landing):
        kind, x = from_dtype(np.dtype(dtype)), np.arange(1, 25).astype(dtype)

        def body():
            tile, view = shared_tile(0, (2, 8), kind), view_of(x, kind)
            tile[...] = 99
            copy(tile, (1, n % 8), view, 2 * n, n, True)
            copy(tile, (0, 0), view, 0, n, False)
            commit_copies()
            wait_copies(0)
            expected = np.full((2, 8), 99)
            expected[0, :n] = 0
            expected[1, n % 8 : n % 8 + n] = x[2 * n : 3 * n]
            assert np.array_equal(tile, expected)

        in_one_thread(body, 128, landing)

    @pytest.mark.parametrize(("dtype", "n"), [(dtype, n) for dtype, n in COPIES if n > 1])
    def test_addresses_are_multiples_of_what_is_copied(self, dtype, n):
        kind, x = from_dtype(np.dtype(dtype)), np.zeros(32, dtype)

        def body():
            tile, view = shared_tile(0, (16,), kind), view_of(x, kind)
            for index, at in ((1, 0), (0, 1), (n - 1, n), (n, n + 1)):
                with pytest.raises(simulator.MemoryFault):
                    copy(tile, index, view, at, n, True)

        in_one_thread(body, 128)

    def test_what_does_not_exist_is_not_read(self):
        x = np.zeros(4, np.float32)

        def body():
            tile, view = shared_tile(0, (8,), types.float32), view_of(x, types.float32)
            with pytest.raises(simulator.MemoryFault, match="outside of the array"):
                copy(tile, 0, view, 4, 4, True)
            copy(tile, 4, view, 1001, 4, False)
            commit_copies()
            wait_copies(0)
            assert np.array_equal(tile[4:], [0, 0, 0, 0]) and np.isnan(tile[:4]).all()

        in_one_thread(body)

    def test_nothing_is_copied_beyond_the_tile(self):
        x = np.zeros(16, np.float32)

        def body():
            tile, view = shared_tile(0, (2, 8), types.float32), view_of(x, types.float32)
            for index in ((0, 8), (2, 0), (0, 6), (-1, 0)):
                with pytest.raises(simulator.MemoryFault):
                    copy(tile, index, view, 0, 4, True)

        in_one_thread(body)

    @pytest.mark.parametrize(("landing", "landed"), [("late", [0, 0, 0, 1, 2, 2, 3]), ("early", [1, 2, 3, 3, 3, 3, 3])])
    def test_when_copies_land(self, landing, landed):
        """After each of: two groups of one copy, a copy in no group, wait(1), wait(0), wait(0), its group's wait."""
        x, counts = np.ones(4, np.float32), []

        def body():
            tile, view = shared_tile(0, (4,), types.float32), view_of(x, types.float32)

            def start(n, close):
                copy(tile, n, view, n, 1, True)
                if close:
                    commit_copies()

            def join(pending, close=False):
                if close:
                    commit_copies()
                wait_copies(pending)

            for step in (
                lambda: start(0, True), lambda: start(1, True), lambda: start(2, False),
                lambda: join(1), lambda: join(0), lambda: join(0), lambda: join(0, close=True),
            ):  # fmt: skip
                step()
                counts.append(int(np.isfinite(tile).sum()))

        in_one_thread(body, 16, landing)
        assert counts == landed

    def test_a_copy_is_of_its_source_when_it_lands(self):
        def copied(landing):
            x, seen = np.ones(4, np.float32), []

            def body():
                tile, view = shared_tile(0, (4,), types.float32), view_of(x, types.float32)
                copy(tile, 0, view, 0, 4, True)
                commit_copies()
                x[:] = 2
                wait_copies(0)
                seen.append(tile[0])

            in_one_thread(body, 16, landing)
            return seen[0]

        assert (copied("late"), copied("early")) == (2, 1)


class TestAdditions:
    """Additions to global memory in the simulator."""

    pytestmark = in_simulator

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_add(self, dtype):
        x, kind = np.arange(4, dtype=dtype), from_dtype(np.dtype(dtype))
        view = view_of(x, kind, writable=True)
        for _ in range(2):
            add(view, 1, dtype(0.25))
        assert np.array_equal(x, [0, 1.5, 2, 3])
        with pytest.raises(simulator.MemoryFault):
            add(view, 4, dtype(1))

    def test_four_at_a_time(self):
        x = np.arange(12, dtype=np.float32)
        view = view_of(x, types.float32, writable=True)
        for _ in range(2):
            add4(view, 4, tuple(np.float32([1, 0, -1, 0.5])))
        assert np.array_equal(x, [*range(4), 6, 5, 4, 8, *range(8, 12)])
        for at in (1, 2, 3, 6, 12, -4):
            with pytest.raises(simulator.MemoryFault):
                add4(view, at, (1, 1, 1, 1))

    @pytest.mark.parametrize("what", [lambda view: add(view, 0, 1), lambda view: add4(view, 0, (1, 1, 1, 1))])
    def test_inputs_are_not_added_to(self, what):
        x = np.zeros(4, np.float32)
        with pytest.raises(simulator.MemoryFault, match="read-only"):
            what(view_of(x, types.float32))
        assert not x.any()

    def test_every_thread_adds(self):
        x = np.zeros(8, np.float32)

        def body(X):
            view, t = global_view(X, 0, types.float32), cuda.threadIdx.x
            add(view, t % 3, np.float32(1))
            add4(view, 4, (t, 1, -t, 0))

        with simulator.options(seed=1):
            simulator.launch(body, 2, 32, 0, (simulator.Pointer(x, writable=True),))
        assert np.array_equal(x, [22, 22, 20, 0, 992, 64, -992, 0])
