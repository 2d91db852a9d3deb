"""Every instruction's twin against an independent statement of the instruction, and on a GPU against itself."""

import numpy as np
import pytest
from numba import cuda, types
from numba.np.numpy_support import from_dtype

from numba_flash import ptx, simulator
from numba_flash.arrays import read
from numba_flash.ptx import (
    add,
    add4,
    choose,
    commit_copies,
    copy,
    global_view,
    load4,
    shared_tile,
    store4,
    store_if,
    wait_copies,
)
from numba_flash.runtime import Kernel, Launch, Written, launch
from numba_flash.simulator import SIMULATED

from .helpers import in_simulator
from .test_ptx_copies import COPIES

INFINITY = np.float32(np.inf)


def twin(instruction):
    """The Python function that says what an instruction does."""
    return getattr(instruction, "__wrapped__", instruction)


def map_scalars(instruction, x, dtype):
    """The twin's results for every element of x."""
    function = twin(instruction)
    with np.errstate(all="ignore"):
        return np.array([function(element) for element in x], dtype)


def float32(bits):
    return np.asarray(bits, np.uint32).view(np.float32)


def value_of_float16(bits):
    """What 16 bits mean: sign, five bits of exponent, ten of fraction."""
    bits = np.asarray(bits, np.int64)
    sign, exponent, fraction = np.where(bits >> 15, -1.0, 1.0), bits >> 10 & 31, bits & 1023
    finite = np.where(exponent == 0, np.ldexp(fraction, -24), np.ldexp(1024 + fraction, exponent - 25))
    return sign * np.where(exponent < 31, finite, np.where(fraction == 0, np.inf, np.nan))


def nearest_float16(x):
    """Float32 numbers rounded to multiples of float16's unit in the last place, ties to even, as float64."""
    x = x.astype(np.float64)
    _, exponent = np.frexp(x)
    unit = np.ldexp(1.0, np.maximum(exponent, -13) - 11)
    with np.errstate(invalid="ignore"):
        rounded = np.rint(x / unit) * unit
    return np.where(np.abs(rounded) > 65504, np.copysign(np.inf, x), rounded)


def test_float16_to_float32():
    bits = np.arange(65536, dtype=np.uint16)
    x = map_scalars(ptx.float16_to_float32, bits, np.float32)
    assert np.array_equal(x, value_of_float16(bits), equal_nan=True)
    assert np.array_equal(np.signbit(x), (bits >> 15 == 1) & ~np.isnan(x))
    assert (x[np.isnan(x)].view(np.uint32) == 0x7FFFFFFF).all()


def test_float32_to_float16():
    numbers = value_of_float16(np.arange(0x7C00))
    ties = ((numbers + [*numbers[1:], 65536.0]) / 2).astype(np.float32)
    x = np.concatenate([numbers.astype(np.float32), ties, np.nextafter(ties, INFINITY), np.nextafter(ties, -INFINITY)])
    x = np.concatenate([x, float32([1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000])])
    for signed in (x, -x):
        bits = map_scalars(ptx.float32_to_float16, signed, np.uint16)
        assert np.array_equal(value_of_float16(bits), nearest_float16(signed))
        assert np.array_equal(bits >> 15, np.signbit(signed))


def test_float16_of_nan():
    for bits in (0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF):
        assert twin(ptx.float32_to_float16)(float32(bits)[()]) == 0x7FFF


def test_bfloat16_to_float32():
    bits = np.arange(65536, dtype=np.uint16)
    x = map_scalars(ptx.bfloat16_to_float32, bits, np.float32)
    assert np.array_equal(x.view(np.uint32), bits.astype(np.uint32) << 16)


def test_float32_to_bfloat16():
    upper = np.arange(65536, dtype=np.uint32)
    for lower in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        bits = upper << 16 | lower
        up = (lower > 0x8000) | ((lower == 0x8000) & (upper & 1 == 1))
        expected = np.where(bits & 0x7FFFFFFF > 0x7F800000, 0x7FC0, upper + up)
        assert np.array_equal(map_scalars(ptx.float32_to_bfloat16, float32(bits), np.uint16), expected)


@pytest.mark.skipif(not SIMULATED, reason="runs as Python only in the simulator")
def test_choose():
    assert [choose(condition, 1.5, -2.0) for condition in (True, False)] == [1.5, -2.0]


def test_ex2():
    x = np.concatenate([np.linspace(-126, 128, 20001, endpoint=False), np.ldexp(1.0, np.arange(-149, 7))])
    x = x.astype(np.float32)
    y, exact = map_scalars(ptx.ex2, x, np.float32), np.exp2(x.astype(np.float64))
    assert (np.abs(y - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()


def test_ex2_has_no_subnormal_results():
    below = np.array([-126.001, -130, -149, -150, -1e30, -np.inf], np.float32)
    y = map_scalars(ptx.ex2, below, np.float32)
    assert np.array_equal(y.view(np.uint32), np.zeros(len(below)))
    assert twin(ptx.ex2)(np.float32(-126)) == 2.0**-126


def test_reciprocal():
    x = np.concatenate([np.ldexp(np.linspace(1, 2, 999), n) for n in (-126, -125, -1, 0, 7, 125)]).astype(np.float32)
    y, exact = map_scalars(ptx.reciprocal, x, np.float32), 1 / x.astype(np.float64)
    assert (np.abs(y - exact) <= np.spacing(exact.astype(np.float32))).all()
    edges = np.array([np.inf, -np.inf, 0, -0.0, 1e-40, -1e-40, 3e38, np.nan], np.float32)
    y = map_scalars(ptx.reciprocal, edges, np.float32)
    assert np.array_equal(y, [0, 0, np.inf, -np.inf, np.inf, -np.inf, 0, np.nan], equal_nan=True)


def test_divide():
    rng = np.random.default_rng(0)
    x, y = (np.ldexp(rng.standard_normal(9999), rng.integers(-60, 60, 9999)).astype(np.float32) for _ in range(2))
    found = [twin(ptx.divide)(*pair) for pair in zip(x, y, strict=True)]
    exact = x.astype(np.float64) / y
    assert (np.abs(found - exact) <= 2 * np.spacing(np.abs(exact).astype(np.float32))).all()
    found = [twin(ptx.divide)(*pair) for pair in ((1, 0), (0, 0), (-1, np.inf), (5, np.nan))]
    assert np.array_equal(found, [np.inf, np.nan, 0, np.nan], equal_nan=True)


def test_ex2_of_what_is_no_number():
    y = map_scalars(ptx.ex2, np.array([128, np.inf, np.nan], np.float32), np.float32)
    assert np.array_equal(y, [np.inf, np.inf, np.nan], equal_nan=True)


class TestMemory:
    """Views of global and shared memory, and what a simulated kernel may not do with them."""

    pytestmark = in_simulator

    @staticmethod
    def view(x, dtype, at=0, writable=False):
        return global_view(simulator.Pointer(x, writable=writable), at, dtype)

    def test_global_view_starts_at_an_element(self):
        x = np.arange(12, dtype=np.float64)
        view = self.view(x, types.float64, at=5)
        assert (view[0], view[6], view[-5]) == (5, 11, 0)
        assert self.view(x[::-1], types.float64, at=-2)[0] == 9
        for index in (7, -6):
            with pytest.raises(simulator.MemoryFault):
                view[index]

    def test_global_view_of_16_bit_floats_shows_their_bits(self):
        assert self.view(np.ones(4, np.float16), types.uint16)[2] == 0x3C00

    def test_null_pointer(self):
        assert global_view(None, 0, types.float32) is None
        assert global_view(None, 123, types.uint8) is None

    @pytest.mark.parametrize(
        ("dtype", "kind", "aligned", "misaligned"),
        [
            (np.float32, types.float32, (0, 4, 8), (1, 2, 3, 6)),
            (np.float64, types.float64, (0, 2, 4, 8), (1, 3, 5)),
            (np.uint16, types.uint16, (0, 4, 8), (1, 2, 3, 6)),
        ],
        ids=["float32", "float64", "uint16"],
    )
    def test_four_elements_of_global_memory(self, dtype, kind, aligned, misaligned):
        x = np.arange(12, dtype=dtype)
        assert x.ctypes.data % 16 == 0
        view = self.view(x, kind, writable=True)
        for index in aligned:
            assert load4(view, index) == tuple(x[index : index + 4])
            store4(view, index, (9, 8, 7, 6))
            assert np.array_equal(x[index : index + 4], [9, 8, 7, 6])
        for index in misaligned:
            with pytest.raises(simulator.MemoryFault, match="not a multiple of"):
                load4(view, index)
            with pytest.raises(simulator.MemoryFault, match="not a multiple of"):
                store4(view, index, (0, 0, 0, 0))

    def test_four_elements_outside_of_global_memory(self):
        x = np.zeros(10, np.float32)
        view = self.view(x, types.float32, writable=True)
        for index in (8, 12, -4):
            with pytest.raises(simulator.MemoryFault):
                load4(view, index)
            with pytest.raises(simulator.MemoryFault):
                store4(view, index, (1, 1, 1, 1))
        assert not x.any()

    def test_four_elements_with_gaps(self):
        view = self.view(np.zeros((4, 8), np.float32)[:, :6], types.float32)
        assert load4(view, 8) == (0, 0, 0, 0)
        with pytest.raises(simulator.MemoryFault, match="not all of them belong to an element"):
            load4(view, 4)

    def test_inputs_are_not_written(self):
        view = self.view(np.zeros(8, np.float32), types.float32)
        with pytest.raises(simulator.MemoryFault, match="read-only"):
            store4(view, 0, (1, 1, 1, 1))

    @staticmethod
    def in_kernel(body, shared_bytes):
        simulator.launch(body, 1, 1, shared_bytes, ())

    def test_shared_tiles_are_windows_of_one_memory(self):
        def body():
            first, second = shared_tile(0, (2, 4), types.float32), shared_tile(16, (4,), types.float32)
            store4(first, (1, 0), (1, 2, 3, 4))
            assert load4(second, 0) == (1, 2, 3, 4)
            assert np.isnan(first[0, 0])

        self.in_kernel(body, 32)

    @pytest.mark.parametrize("index", [(0, 1), (0, 6), (2, 0), (0, 8), (-1, 0), (0, -4)], ids=str)
    def test_four_elements_not_in_a_shared_tile(self, index):
        def body():
            tile = shared_tile(0, (2, 8), types.float32)
            with pytest.raises(simulator.MemoryFault):
                load4(tile, index)
            with pytest.raises(simulator.MemoryFault):
                store4(tile, index, (0, 0, 0, 0))

        self.in_kernel(body, 128)

    @pytest.mark.parametrize(("offset", "shape"), [(0, (3, 4)), (36, (1,)), (2, (1,)), (-4, (1,))], ids=str)
    def test_tiles_not_in_shared_memory(self, offset, shape):
        def body():
            with pytest.raises(simulator.MemoryFault):
                shared_tile(offset, shape, types.float32)

        self.in_kernel(body, 36)


@pytest.mark.gpu
class TestOnTheGPU:
    """The instructions themselves, on random bit patterns: their twins say what they give, bit for bit."""

    COUNT = 1 << 17

    @pytest.fixture(autouse=True)
    def cupy(self):
        if SIMULATED:
            pytest.skip("NUMBA_ENABLE_CUDASIM=1: kernels do not run on the GPU")
        return pytest.importorskip("cupy", reason="CuPy is not installed")

    def bits(self, dtype):
        """Every kind of number: random bits, and a run of neighbours from zero on."""
        rng = np.random.default_rng(0)
        size = np.dtype(dtype).itemsize * self.COUNT
        bits = np.frombuffer(rng.bytes(size), f"u{np.dtype(dtype).itemsize}").copy()
        bits[:4096] = np.arange(4096)
        return bits

    def run(self, cupy, kernel, x, dtype, elements=1):
        """The kernel's output in host memory; a thread has this many elements of x."""
        y = cupy.empty(len(x), dtype)
        blocks = len(x) // (kernel.threads * elements)
        launch(Launch(kernel, blocks, (read(cupy.asarray(x)), Written(read(y)))))
        return cupy.asnumpy(y)

    @pytest.mark.parametrize(
        ("name", "given", "result"),
        [
            ("float16_to_float32", np.uint16, np.float32),
            ("float32_to_float16", np.float32, np.uint16),
            ("bfloat16_to_float32", np.uint16, np.float32),
            ("float32_to_bfloat16", np.float32, np.uint16),
            ("ex2", np.float32, np.float32),
        ],
    )
    def test_instruction_and_twin(self, cupy, name, given, result):
        instruction = getattr(ptx, name)
        x = self.bits(given).view(given)
        expected = map_scalars(instruction, x, result)
        actual = self.run(cupy, make_map(instruction, given, result), x, result)
        if name == "ex2":
            numbers = np.isfinite(expected)
            assert np.array_equal(actual[~numbers], expected[~numbers], equal_nan=True)
            error = np.abs(actual[numbers].astype(np.float64) - expected[numbers])
            assert (error <= 2 * np.spacing(expected[numbers])).all()
        else:
            bits = f"u{np.dtype(result).itemsize}"
            assert np.array_equal(actual.view(bits), expected.view(bits))

    @pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64], ids=lambda dtype: dtype.__name__)
    def test_four_elements_through_shared_memory(self, cupy, dtype):
        x = self.bits(dtype)
        actual = self.run(cupy, make_reverse_in_fours(dtype), x.view(dtype), dtype, elements=4)
        assert np.array_equal(actual.view(x.dtype).reshape(-1, 128, 4), x.reshape(-1, 128, 4)[:, ::-1])

    @pytest.mark.parametrize("all_exist", [True, False])
    @pytest.mark.parametrize(("dtype", "n"), COPIES)
    def test_copies_through_shared_memory(self, cupy, all_exist, dtype, n):
        bits = self.bits(dtype)
        actual = self.run(cupy, make_reverse_copies(dtype, n, all_exist), bits.view(dtype), dtype, elements=n)
        expected = bits.reshape(-1, 128, n).copy()
        if not all_exist:
            expected[:, ::3] = 0
        assert np.array_equal(actual.view(bits.dtype).reshape(-1, 128, n), expected[:, ::-1])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_additions(self, cupy, dtype):
        """Of integers, so that no order of them rounds."""
        x = (np.arange(self.COUNT) % 61).astype(dtype)
        assert np.array_equal(self.added(cupy, make_add(dtype), x, dtype), x.reshape(-1, 8).sum(axis=0))

    def test_additions_of_four(self, cupy):
        if cupy.cuda.Device().compute_capability < "90":
            pytest.skip("red.v4 needs sm_90")
        x = (np.arange(self.COUNT) % 61).astype(np.float32)
        assert np.array_equal(
            self.added(cupy, make_add4(), x, np.float32, elements=4), x.reshape(-1, 2, 4).sum(axis=0).ravel()
        )

    @pytest.mark.parametrize("dtype", [np.uint16, np.float32])
    def test_stores_of_what_exists(self, cupy, dtype):
        x = (np.arange(self.COUNT) % 2**16).astype(dtype)
        y = cupy.full(x.shape, 7, dtype)
        kernel = make_store_if(dtype)
        launch(Launch(kernel, len(x) // kernel.threads, (read(cupy.asarray(x)), Written(read(y)))))
        assert np.array_equal(cupy.asnumpy(y), np.where(np.arange(len(x)) % 3 == 0, 7, x))

    def added(self, cupy, kernel, x, dtype, elements=1):
        """Eight sums that begin at 0."""
        y = cupy.zeros(8, dtype)
        launch(Launch(kernel, len(x) // (kernel.threads * elements), (read(cupy.asarray(x)), Written(read(y)))))
        return cupy.asnumpy(y)


def make_store_if(dtype):
    """A kernel that copies all elements but every third."""
    DTYPE = from_dtype(np.dtype(dtype))

    def copy_some(X, Y):
        i = cuda.grid(1)
        store_if(global_view(Y, 0, DTYPE), i, global_view(X, 0, DTYPE)[i], i % 3 != 0)

    return Kernel.of(copy_some, 128)


def make_reverse_copies(dtype, n, all_exist):
    """A kernel whose blocks reverse 128 groups of n, copied to shared memory; or else zeros replace every third."""
    DTYPE = from_dtype(np.dtype(dtype))

    def reverse_copies(X, Y):
        tile = shared_tile(0, (128, n), DTYPE)
        thread = cuda.threadIdx.x
        at = n * (128 * cuda.blockIdx.x + thread)
        if all_exist:
            copy(tile, (thread, 0), global_view(X, 0, DTYPE), at, n, True)
        else:
            copy(tile, (thread, 0), global_view(X, 0, DTYPE), at, n, thread % 3 != 0)
        commit_copies()
        wait_copies(0)
        cuda.syncthreads()  # all groups have landed before any is read
        y = global_view(Y, 0, DTYPE)
        for x in range(n):
            y[at + x] = tile[127 - thread, x]

    return Kernel.of(reverse_copies, 128, 128 * n * np.dtype(dtype).itemsize)


def make_add(dtype):
    """A kernel that adds up every eighth element."""
    DTYPE = from_dtype(np.dtype(dtype))

    def add_eighths(X, Y):
        i = cuda.grid(1)
        add(global_view(Y, 0, DTYPE), i % 8, global_view(X, 0, DTYPE)[i])

    return Kernel.of(add_eighths, 128)


def make_add4():
    """The same, four neighbours at a time."""

    def add_fours(X, Y):
        i = cuda.grid(1)
        add4(global_view(Y, 0, types.float32), i % 2 * 4, load4(global_view(X, 0, types.float32), 4 * i))

    return Kernel.of(add_fours, 128)


def make_map(instruction, given, result):
    """A kernel that gives instruction(x) for every x."""
    GIVEN, RESULT = (from_dtype(np.dtype(dtype)) for dtype in (given, result))

    def apply(X, Y):
        i = cuda.grid(1)
        global_view(Y, 0, RESULT)[i] = instruction(global_view(X, 0, GIVEN)[i])

    return Kernel.of(apply, 128)


def make_reverse_in_fours(dtype):
    """A kernel whose blocks reverse 128 groups of four, by way of shared memory."""
    DTYPE = from_dtype(np.dtype(dtype))

    def reverse_in_fours(X, Y):
        tile = shared_tile(0, (128, 4), DTYPE)
        thread = cuda.threadIdx.x
        at = 4 * (128 * cuda.blockIdx.x + thread)
        store4(tile, (thread, 0), load4(global_view(X, 0, DTYPE), at))
        cuda.syncthreads()  # all groups are written before any is read
        store4(global_view(Y, 0, DTYPE), at, load4(tile, (127 - thread, 0)))

    return Kernel.of(reverse_in_fours, 128, 128 * 4 * np.dtype(dtype).itemsize)
