"""Device pointers: every byte that is accessed belongs to the array."""

import weakref

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_flash import simulator
from numba_flash.simulator import MemoryFault, Pointer


def aligned(shape, dtype):
    """A zeroed array on a multiple of 64 bytes."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def arange(*shape, dtype=np.float32):
    a = aligned(shape, dtype)
    a.flat = np.arange(a.size)
    return a


def test_elements():
    window = Pointer(arange(3, 4), writable=True).view(np.float32)
    assert window[0] == 0 and window[11] == 11
    assert type(window[5]) is np.float32
    window[5] = 0.1
    assert window[5] == np.float32(0.1)
    window[np.int64(6)] += 1
    assert window[np.uint32(6)] == 7


def test_arithmetic_is_in_bytes():
    pointer = Pointer(arange(8), writable=False)
    assert (pointer + 8).view(np.float32)[0] == 2
    assert (pointer + np.uint64(8) - np.int32(4)).view(np.float32)[0] == 1
    assert (np.int64(4) + pointer).view(np.float32)[0] == 1
    assert (4 + pointer + 4).view(np.float32)[-1] == 1
    assert (pointer + 100 - 100).view(np.float32)[7] == 7
    with pytest.raises(TypeError):
        pointer + 1.0


def test_reads_and_writes_of_several():
    array = arange(16)
    window = Pointer(array, writable=True).view(np.float32)
    four = window.read(4, 4)
    window.write(8, four)
    window.write(0, [9, 9])
    assert list(four) == [4, 5, 6, 7] and four.dtype == np.float32
    assert list(array[:12]) == [9, 9, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    array[4:8] = 0
    assert list(four) == [4, 5, 6, 7]


def test_16_bit_floats_are_bits():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        array = aligned(4, dtype)
        window = Pointer(array, writable=True).view(np.uint16)
        window[1] = np.array(1.5, dtype).view(np.uint16)
        assert float(array[1]) == 1.5
        assert window[1].view(dtype) == dtype(1.5)
        assert (Pointer(array, writable=True) + 4).view(np.uint32)[0] == 0


def test_a_transposed_array_is_memory():
    array = arange(3, 4)
    window = Pointer(array.T, writable=False).view(np.float32)
    assert [window[i] for i in range(12)] == list(range(12))


def test_negative_strides():
    array = arange(3, 4)
    window = Pointer(array[::-1, ::-1], writable=False).view(np.float32)
    assert window[0] == 11 and window[-11] == 0
    for i in (1, -12):
        with pytest.raises(MemoryFault, match="outside"):
            window[i]


def test_zero_strides():
    window = Pointer(np.broadcast_to(arange(4), (1000, 4)), writable=False).view(np.float32)
    assert window[3] == 3
    with pytest.raises(MemoryFault, match="outside"):
        window[4]
    assert Pointer(np.broadcast_to(np.float32(3), (2, 2)), writable=False).view(np.float32)[0] == 3


def test_the_gap_between_rows():
    rows = arange(4, 8)[:, :6]
    window = Pointer(rows, writable=True).view(np.float32)
    assert window[8 + 5] == 13
    for i in (6, 7, 14):
        with pytest.raises(MemoryFault, match="belong to an element"):
            window[i]
        with pytest.raises(MemoryFault, match="belong to an element"):
            window[i] = 0
    with pytest.raises(MemoryFault, match="belong to an element"):
        window.read(4, 4)
    assert list(window.read(4, 2)) == [4, 5]


def test_a_half_of_a_gap():
    columns = arange(4, 4, dtype=np.uint16)[:, ::2]
    window = Pointer(columns, writable=False)
    assert window.view(np.uint16)[2] == 2
    with pytest.raises(MemoryFault, match="belong to an element"):
        window.view(np.uint32)[0]


@pytest.mark.parametrize("i", [-2, 12, 2**40, -(2**40)])
def test_out_of_range(i):
    window = Pointer(arange(3, 4), writable=True).view(np.float32)
    with pytest.raises(IndexError, match="outside"):
        window[i]
    with pytest.raises(IndexError, match="outside"):
        window[i] = 0
    with pytest.raises(IndexError, match="outside"):
        window.read(i, 2, alignment=4)
    with pytest.raises(IndexError, match="outside"):
        window.write(i, [0, 0], alignment=4)


def test_reads_across_the_ends():
    window = Pointer(arange(8), writable=True).view(np.float32)
    for i in (-2, 6):
        with pytest.raises(MemoryFault, match="not all of them"):
            window.read(i, 4, alignment=8)


def test_empty_arrays_have_no_bytes():
    for shape in [(0,), (4, 0), (0, 4)]:
        with pytest.raises(MemoryFault):
            Pointer(np.zeros(shape, np.float32), writable=True).view(np.float32)[0]


def test_misaligned():
    pointer = Pointer(arange(16), writable=True)
    with pytest.raises(MemoryFault, match="multiple of 4"):
        (pointer + 2).view(np.float32)[0]
    with pytest.raises(MemoryFault, match="multiple of 4"):
        (pointer + 2).view(np.float32)[1] = 0
    with pytest.raises(MemoryFault, match="multiple of 16"):
        pointer.view(np.float32).read(2, 4)
    with pytest.raises(MemoryFault, match="multiple of 8"):
        (pointer + 4).view(np.float32).write(0, [1, 2])
    with pytest.raises(MemoryFault, match="multiple of 16"):
        pointer.view(np.float32).read(1, 8, alignment=16)
    assert len(pointer.view(np.float32).read(4, 12, alignment=16)) == 12
    assert (pointer + 4).view(np.float32).read(1, 2)[0] == 2


def test_alignment_is_of_the_real_address():
    pointer = Pointer(arange(16)[1:], writable=False)
    with pytest.raises(MemoryFault, match="multiple of 16"):
        pointer.view(np.float32).read(0, 4)
    assert pointer.view(np.float32).read(3, 4)[0] == 4
    assert pointer.address % 64 == 4


def test_memory_that_starts_at_an_odd_address():
    pointer = Pointer(arange(10, dtype=np.uint8)[1:], writable=False)
    assert (pointer + 1).view(np.uint16)[0] == 0x0302 and pointer.view(np.uint8)[8] == 9
    for i in (0, 4, -1):
        with pytest.raises(MemoryFault):
            pointer.view(np.uint16)[i]
    for i in (-1, 4):
        with pytest.raises(MemoryFault):
            (pointer + 1).view(np.uint16)[i]


def test_read_only():
    array = arange(4)
    window = Pointer(array, writable=False).view(np.float32)
    with pytest.raises(MemoryFault, match="read-only"):
        window[0] = 1
    with pytest.raises(MemoryFault, match="read-only"):
        window.write(0, [1, 2])
    array.flags.writeable = False
    assert Pointer(array, writable=False).view(np.float32)[1] == 1
    with pytest.raises(ValueError, match="read-only"):
        Pointer(array, writable=True)


def test_a_fault_names_thread_block_offset_and_array():
    def kernel(Q):
        if simulator.current().index == 3:
            (Q + 16).view(np.float32)[100]

    with pytest.raises(MemoryFault) as caught:
        simulator.launch(kernel, 1, 4, 0, (Pointer(arange(3, 4), writable=False),))
    assert str(caught.value).startswith(
        "thread (3, 0, 0) of block (0, 0, 0) cannot read 4 bytes at byte 416 of the float32 array of shape (3, 4) "
        "and strides (16, 4): they are outside of the array"
    )


def test_the_array_lives_as_long_as_its_pointer():
    array = np.zeros(100)
    alive = weakref.ref(array)
    pointer, cells = Pointer(array, writable=False), Pointer(array, writable=False).view(np.uint8).cells
    del array
    assert alive() is not None
    del pointer
    assert alive() is not None
    del cells
    assert alive() is None


def test_vectors():
    window = Pointer(arange(16), writable=True).view(np.float32)
    assert simulator.load_vector(window, 4, 4) == (4, 5, 6, 7)
    simulator.store_vector(window, 0, (9, 8))
    assert simulator.load_vector(window, 0, 2) == (9, 8)
    with pytest.raises(MemoryFault, match="multiple of 16"):
        simulator.load_vector(window, 2, 4)
    doubles = Pointer(arange(8, dtype=np.float64), writable=True).view(np.float64)
    assert simulator.load_vector(doubles, 2, 4) == (2, 3, 4, 5)


@st.composite
def views(draw):
    """Bytes, and a view of them with steps, reversals, transposition and broadcasting."""
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.uint32, np.float64]))
    base = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 255, 96, dtype=np.uint8)
    array = base[: 96 // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize].view(dtype)
    array = array[: array.size // 6 * 6].reshape(2, 3, -1)
    for axis in range(3):
        n = array.shape[axis]
        step = draw(st.sampled_from([1, 1, 2, -1, -2]))
        start = draw(st.integers(0, n - 1))
        stop = draw(st.integers(start, n))
        array = array[(slice(None),) * axis + (slice(start, stop),)][(slice(None),) * axis + (slice(None, None, step),)]
    array = array.transpose(draw(st.permutations(range(3))))
    return base, np.broadcast_to(array, (2, *array.shape)) if draw(st.booleans()) else array


@given(views(), st.sampled_from([np.uint8, np.uint16, np.float32, np.float64]), st.integers(-8, 8), st.integers(1, 3))
def test_an_access_succeeds_if_its_bytes_are_elements(case, dtype, shift, n):
    base, array = case
    low, itemsize = base.ctypes.data, np.dtype(dtype).itemsize
    elements = [array[(*place, ...)].ctypes.data for place in np.ndindex(array.shape)]
    owned = {address + byte for address in elements for byte in range(array.itemsize)}
    pointer = Pointer(array, writable=False) + shift
    window = pointer.view(dtype)
    for i in range(-96 // itemsize, 96 // itemsize):
        start = array.ctypes.data + shift + i * itemsize
        for count, read in ((1, lambda i=i: window[i]), (n, lambda i=i: window.read(i, n, alignment=itemsize))):
            wanted = range(start, start + count * itemsize)
            if owned.issuperset(wanted) and start % itemsize == 0:
                found = np.atleast_1d(read()).view(np.uint8)
                np.testing.assert_array_equal(found, base[wanted.start - low : wanted.stop - low])
            else:
                with pytest.raises(MemoryFault):
                    read()
