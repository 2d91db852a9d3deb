"""Shared and local memory: unwritten is NaN, a declaration is an array, a window is checked."""

import numpy as np
import pytest
from numba import cuda, float32, int32

from numba_flash import simulator

from . import helpers


def inside(function, block=1, shared_bytes=0, grid=1):
    """What the function returns in the threads of one launch, in order."""
    results = []
    simulator.launch(lambda: results.append(function()), grid, block, shared_bytes, ())
    return results


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.dtype(np.float64), float32])
@pytest.mark.parametrize("space", ["shared", "local"])
def test_unwritten_floats_are_nan(space, dtype):
    (array,) = inside(lambda: getattr(cuda, space).array((3, 4), dtype))
    assert array.shape == (3, 4) and np.isnan(array).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int64, int32])
def test_unwritten_integers_are_all_ones(dtype):
    assert (inside(lambda: cuda.shared.array(5, dtype))[0] == -1).all()
    assert (inside(lambda: cuda.local.array(5, dtype))[0] == -1).all()


def test_shared_memory_is_unwritten_again_in_every_block():
    def kernel():
        declared, dynamic = cuda.shared.array(2, np.float32), cuda.shared.array(0, np.float32)
        seen = np.isnan(declared).all() and np.isnan(dynamic).all()
        declared[:] = dynamic[:] = 0
        return seen

    assert inside(kernel, grid=3, shared_bytes=64) == [True] * 3


def test_local_arrays_are_private_and_shared_ones_are_not():
    def kernel():
        return cuda.local.array(1, np.float32), cuda.shared.array(1, np.float32)

    (local0, shared0), (local1, shared1) = inside(kernel, block=2)
    assert local0 is not local1 and shared0 is shared1


def test_two_declarations_on_one_line():
    def kernel():
        a, b = cuda.shared.array(1, np.int32), cuda.shared.array(1, np.int32)
        a[0], b[0] = 1, 2
        return a[0], b[0]

    assert inside(kernel, block=2) == [(1, 2)] * 2


def test_a_declaration_in_a_loop_is_one_array():
    assert len({id(a) for a in inside(lambda: [cuda.shared.array(1, np.int32) for _ in range(3)])[0]}) == 1


def test_a_helper_declares_anew_where_it_is_called():
    def kernel():
        a = helpers.publish(cuda.blockIdx.x)
        b = helpers.publish(a + 1)
        return a, b, helpers.publish(b + 1)

    assert inside(kernel, block=4, grid=2) == [(0, 1, 2)] * 4 + [(1, 2, 3)] * 4


def test_nested_helpers_declare_anew_on_every_path():
    def one():
        return (cuda.shared.array(1, np.float32),)

    def two():
        return one() + one()

    def four():
        return two() + two()

    first, second = inside(lambda: four() + four(), block=2)
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert len({id(a) for a in first}) == 8


def test_a_declaration_has_one_shape():
    with pytest.raises(ValueError, match="one declaration of a shared array"):
        inside(lambda: cuda.shared.array(1 + cuda.threadIdx.x, np.float32), block=2)


def test_alignment_is_what_was_asked_for_and_no_more():
    def arrays():
        return (
            cuda.shared.array(3, np.float32),
            cuda.shared.array(3, np.float32, alignment=16),
            cuda.shared.array(3, np.float32, alignment=128),
        )

    (found,) = inside(arrays)
    assert [a.ctypes.data % 256 & -a.ctypes.data for a in found] == [4, 16, 128]
    inside(lambda: cuda.local.array(2, np.float32, alignment=16))


def test_dynamic_shared_memory_is_one_buffer():
    def kernel():
        simulator.shared_window(4, 3, np.float32)[...] = [1, 2, 3]
        whole = cuda.shared.array(0, np.float32)
        return whole.copy(), cuda.shared.array(0, float32).size, cuda.shared.array(0, np.float64).size

    ((whole, singles, doubles),) = inside(kernel, shared_bytes=20)
    np.testing.assert_array_equal(whole, [np.nan, 1, 2, 3, np.nan])
    assert (singles, doubles) == (5, 2)


def test_windows_overlap():
    def kernel():
        words, halves = simulator.shared_window(8, (2, 2), np.uint32), simulator.shared_window(8, (2, 4), np.uint16)
        words[1, 0] = 0x00020001
        return halves[1, 0], halves[1, 1], halves[0, 0], words.flags.c_contiguous

    assert inside(kernel, shared_bytes=24) == [(1, 2, 0xFFFF, True)]


def test_threads_share_a_window():
    def kernel():
        window = simulator.shared_window(0, 4, np.float32)
        window[cuda.threadIdx.x] = cuda.threadIdx.x
        cuda.syncthreads()
        return float(window.sum())

    assert inside(kernel, block=4, shared_bytes=16) == [6.0] * 4


@pytest.mark.parametrize(("offset", "shape"), [(-4, 1), (0, 17), (64, 1), (60, 2), (8, (5, 3)), (2, 1), (1000, 0)])
def test_a_window_lies_within_and_is_aligned(offset, shape):
    with pytest.raises(simulator.MemoryFault, match=r"thread \(0, 0, 0\) of block \(0, 0, 0\)"):
        inside(lambda: simulator.shared_window(offset, shape, np.float32), shared_bytes=64)


@pytest.mark.parametrize("index", [-1, (0, -1), (-1, 0), (np.int64(-1), 0), (slice(None), -1), 4, (0, 4), (4, 0)])
def test_a_window_refuses_indices_outside(index):
    def read():
        return simulator.shared_window(0, (4, 4), np.float32)[index]

    def write():
        simulator.shared_window(0, (4, 4), np.float32)[index] = 0

    for access in (read, write):
        with pytest.raises(IndexError):
            inside(access, shared_bytes=64)


def test_a_row_of_a_window_refuses_them_too():
    with pytest.raises(simulator.MemoryFault, match="is negative"):
        inside(lambda: simulator.shared_window(0, (4, 4), np.float32)[1][-1], shared_bytes=64)


def test_what_a_window_allows():
    def kernel():
        window = simulator.shared_window(0, (4, 4), np.float32)
        window[...] = 0
        window[np.uint32(1), np.int64(2)] = 5
        window[[3, 2], 0] = 7, 8
        return window[1, 2], window[1:3, 0].tolist(), window[1].sum(), type(window[1, 2])

    assert inside(kernel, shared_bytes=64) == [(5, [0, 8], 5, np.float32)]


def test_vectors_of_shared_memory():
    def kernel():
        tile = simulator.shared_window(16, (2, 8), np.float32)
        simulator.store_vector(tile, (1, 4), (1, 2, 3, 4))
        return simulator.load_vector(tile, (1, 4), 4), simulator.load_vector(tile[1], 6, 2), tile[1, 5]

    ((four, two, one),) = inside(kernel, shared_bytes=80)
    assert four == (1, 2, 3, 4) and two == (3, 4) and one == 2
    assert {type(x) for x in four} == {np.float32}


@pytest.mark.parametrize(
    ("index", "n"), [((0, 2), 4), ((0, 1), 2), ((0, 6), 4), ((0, -4), 4), ((2, 0), 4), ((-1, 0), 4), ((0, 8), 1)]
)
def test_vectors_are_aligned_and_within_a_row(index, n):
    def read():
        simulator.load_vector(simulator.shared_window(0, (2, 8), np.float32), index, n)

    def write():
        simulator.store_vector(simulator.shared_window(0, (2, 8), np.float32), index, (0,) * n)

    for access in (read, write):
        with pytest.raises(IndexError):
            inside(access, shared_bytes=64)


def test_vectors_end_with_their_row():
    with pytest.raises(simulator.MemoryFault, match="4 elements from"):
        inside(
            lambda: simulator.load_vector(simulator.shared_window(0, (2, 6), np.float32), (0, 4), 4), shared_bytes=48
        )


def test_vectors_need_declared_alignment():
    (row,) = inside(lambda: simulator.load_vector(cuda.shared.array((2, 4), np.int32, alignment=16), (1, 0), 4))
    assert row == (-1, -1, -1, -1)
    with pytest.raises(simulator.MemoryFault, match="misaligned"):
        inside(lambda: simulator.load_vector(cuda.shared.array(4, np.float32), 0, 4))
    with pytest.raises(simulator.MemoryFault, match="4 elements from"):
        inside(lambda: simulator.load_vector(cuda.shared.array(4, np.float32, alignment=16), 4, 4))


def test_vectors_of_doubles_are_16_byte_loads():
    def kernel():
        tile = simulator.shared_window(16, 4, np.float64)
        simulator.store_vector(tile, 0, (1, 2, 3, 4))
        return simulator.load_vector(tile, 0, 4)

    assert inside(kernel, shared_bytes=48) == [(1, 2, 3, 4)]
