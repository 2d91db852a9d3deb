"""Divergence, hangs and exceptions: errors that name the threads."""

import traceback

import numpy as np
import pytest
from numba import cuda

from numba_flash import simulator

from . import helpers


def line(function, text):
    """`file:line` of the line of a function that contains a text."""
    import inspect

    lines, first = inspect.getsourcelines(function)
    return f"{__name__.rpartition('.')[2]}.py:{first + next(n for n, code in enumerate(lines) if text in code)}"


def message(function, block, kind=simulator.DivergentBarrier, **options):
    with simulator.options(**options), pytest.raises(kind) as caught:
        simulator.launch(function, 1, block, 0, ())
    return str(caught.value)


@pytest.mark.parametrize("seed", [None, 1])
def test_a_return_before_a_barrier(seed):
    def kernel():
        if cuda.threadIdx.x >= 16:
            return
        cuda.syncthreads()

    place = line(kernel, "cuda.syncthreads()")
    assert message(kernel, 32, seed=seed) == (
        f"block (0, 0, 0): threads 0-15 wait at syncthreads ({place}), threads 16-31 have returned"
    )


def test_one_thread_is_singular():
    def kernel():
        if cuda.threadIdx.x in (1, 2, 3, 7, 9):
            cuda.syncthreads()

    text = message(kernel, 11)
    assert text.startswith("block (0, 0, 0): threads 0, 4-6, 8, 10 have returned, threads 1-3, 7, 9 wait")
    assert "thread 1 has returned" in message(lambda: cuda.threadIdx.x or cuda.syncthreads(), 2)


def test_barriers_on_different_lines():
    def kernel():
        if cuda.threadIdx.x < 32:
            cuda.syncthreads()  # here
        else:
            cuda.syncthreads()  # there

    here, there = line(kernel, "# here"), line(kernel, "# there")
    text = message(kernel, 64)
    assert f"threads 0-31 wait at syncthreads ({here})" in text
    assert f"threads 32-63 wait at syncthreads ({there})" in text


def test_a_helper_called_from_different_lines():
    def kernel():
        if cuda.threadIdx.x < 32:
            helpers.wait()  # here
        else:
            helpers.wait()  # there

    text = message(kernel, 64)
    assert f" called from {line(kernel, '# here')})" in text
    assert f" called from {line(kernel, '# there')})" in text
    assert "helpers.py:" in text


def test_a_helper_called_from_one_line_is_uniform():
    def kernel():
        for _ in range(3):
            helpers.wait()

    simulator.launch(kernel, 1, 64, 0, ())


@pytest.mark.parametrize("lane", range(2))
def test_a_call_that_the_compiler_repeats_is_one_call(lane):
    """CPython copies the end of a function into both branches of a conditional expression."""

    def pick(low):
        return cuda.shfl_sync(0xFFFFFFFF, 1 if low else 2, lane)

    found = set()
    simulator.launch(lambda: found.add(pick(cuda.laneid == 0)), 1, 32, 0, ())
    assert found == {1 + lane}


def test_a_barrier_and_a_shuffle():
    def kernel():
        if cuda.laneid < 4:
            cuda.shfl_sync(0xFFFFFFFF, 1, 0)
        else:
            cuda.syncthreads()

    text = message(kernel, 32)
    assert "threads 0-3 wait at shfl_sync" in text
    assert "threads 4-31 wait at syncthreads" in text


def test_lanes_that_disagree_on_the_mask():
    def kernel():
        simulator.exchange(1, 0xF if cuda.laneid < 4 else 0xFFFFFFFF)

    text = message(kernel, 32)
    assert "disagree" in text and "threads 0-3" in text and "threads 0-31" in text


def test_a_mask_without_its_own_lane():
    with pytest.raises(ValueError, match="shfl_sync: mask 0x0000000f does not name lane 4"):
        simulator.launch(lambda: cuda.shfl_sync(0xF, 1, 0), 1, 32, 0, ())


def test_lanes_that_meet_each_other_nowhere():
    def kernel():
        if cuda.laneid == 0:
            cuda.syncwarp()
        else:
            cuda.ballot_sync(0xFFFFFFFF, 1)

    text = message(kernel, 32)
    assert "thread 0 waits at syncwarp" in text and "threads 1-31 wait at ballot_sync" in text


def test_a_hang():
    class Never(simulator.Gate):
        def is_open(self):
            return False

    def kernel():
        if cuda.threadIdx.x == 0:
            simulator.park(Never("mbarrier 3"))
        cuda.syncthreads()

    text = message(kernel, 4, simulator.Deadlock)
    assert "thread 0 waits at mbarrier 3" in text and "threads 1-3 wait at syncthreads" in text


def test_an_exception_keeps_its_traceback_and_names_the_thread():
    def divide(x):
        return 1 // x

    def kernel():
        cuda.syncthreads()
        divide(cuda.threadIdx.y * 2 + cuda.threadIdx.x - 3)

    with pytest.raises(ZeroDivisionError) as caught:
        simulator.launch(kernel, 2, (2, 2), 0, ())
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-2:] == ["kernel", "divide"]
    assert "thread (1, 1, 0) of block (0, 0, 0)" in "".join(traceback.format_exception(caught.value))


def test_an_exception_ends_the_other_threads():
    ended = []

    def kernel():
        try:
            cuda.syncthreads()
            if cuda.threadIdx.x == 1:
                raise KeyError("x")
            cuda.syncthreads()
        finally:
            ended.append(cuda.threadIdx.x)

    with pytest.raises(KeyError):
        simulator.launch(kernel, 5, 4, 0, ())
    assert sorted(ended) == [0, 1, 2, 3]
    x = np.zeros(4)
    simulator.launch(lambda: x.__setitem__(cuda.threadIdx.x, cuda.threadIdx.x), 1, 4, 0, ())
    assert list(x) == [0, 1, 2, 3]


def test_cleaning_up_cannot_hide_the_error():
    def kernel():
        try:
            cuda.syncthreads()
            if cuda.threadIdx.x == 1:
                raise KeyError("x")
            cuda.syncthreads()
        finally:
            if cuda.threadIdx.x == 0:
                cuda.syncthreads()
            raise_in_cleanup = cuda.threadIdx.x == 2
            if raise_in_cleanup:
                raise ValueError("hidden")

    with pytest.raises(KeyError):
        simulator.launch(kernel, 1, 4, 0, ())
