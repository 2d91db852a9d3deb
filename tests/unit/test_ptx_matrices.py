"""Instructions of tensor cores: twins against the ISA's words, real ones against twins, and what they compile to."""

import json
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
from interpreter import environment
from numba import cuda, types

from numba_flash import simulator
from numba_flash.arrays import read
from numba_flash.ptx import (
    commit_copies,
    copy_part,
    ldmatrix_x2,
    ldmatrix_x4,
    mma_float16,
    shared_tile,
    store2,
    store_if,
)
from numba_flash.ptx.matrices import OPERANDS, multiplied
from numba_flash.runtime import Launch, Written, launch
from numba_flash.testing.backends import GPU
from numba_flash.tiling import accumulator_place

from . import matrix_kernels
from .helpers import in_simulator
from .matrix_kernels import COMPILED, CONVERSIONS, LOADS, PRODUCTS, THREADS, WARPS, WORDS
from .test_ptx import nearest_float16, value_of_float16
from .test_ptx_copies import view_of


def run(where, kernel, x, y):
    """What a kernel makes of x and the initial y, in the simulator or on the GPU."""
    x, y = where.to_device(x), where.to_device(y)
    what = Launch(kernel, len(x) // kernel.threads if kernel.threads < len(x) else 1, (read(x), Written(read(y))))
    launch(what)
    return where.to_numpy(y)


def blocks_of(where):
    """A few blocks in the simulator, many on a GPU."""
    return 512 if where is GPU else 3


class TestLdmatrix:
    """Loads of matrices: the same test for the twin in the simulator and for the instruction on a GPU."""

    @pytest.mark.parametrize("name", LOADS)
    def test_what_each_lane_gets(self, kernels, name):
        count, transposed = int(name.partition("_x")[2][0]), name.endswith("trans")
        x = np.random.default_rng(0).integers(0, 2**16, (blocks_of(kernels) * THREADS, 8), np.uint16)
        words = run(kernels, matrix_kernels.load_kernel(name), x, np.zeros((len(x), count), np.uint32))
        matrices = x.reshape(-1, 4, 8, 8)
        for lane, n in np.ndindex(32, count):
            row, col = lane // 4, lane % 4 * 2
            pair = matrices[:, n, col : col + 2, row] if transposed else matrices[:, n, row, col : col + 2]
            expected = pair[:, 0] | pair[:, 1].astype(np.uint32) << 16
            assert np.array_equal(words.reshape(-1, 32, count)[:, lane, n], expected)


def random_words(kind, blocks):
    """Fragments of A, B and C of every lane: numbers of all sizes, infinities, NaN and subnormal ones among them."""
    rng, lanes = np.random.default_rng(0), blocks * THREADS
    reach = 12 if kind == "float16" else 50  # so that no sum overflows that hardware may take in another order
    shape = (lanes, 12 if kind != "tf32" else 6)
    x = np.ldexp(rng.standard_normal(shape), rng.integers(-reach, 1 + reach // 12, shape))
    rare = rng.random(shape)
    x[rare < 1e-3], x[rare < 2e-4], x[rare < 1e-4] = np.inf, -np.inf, np.nan
    x[(rare > 0.5) & (rare < 0.52)] *= 2.0**-16 if kind == "float16" else 2.0**-82
    with np.errstate(over="ignore"):
        dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "tf32": np.float32}[kind]
        ab = np.ascontiguousarray(x.astype(dtype)).view(np.uint32)
    c = np.ldexp(rng.standard_normal((lanes, 4)), rng.integers(-9, 3, (lanes, 4))).astype(np.float32)
    return np.concatenate([ab, c.view(np.uint32)], axis=1)


class TestMma:
    """Products of fragments."""

    @pytest.mark.parametrize("name", PRODUCTS)
    def test_instruction_and_twin(self, kernels, name):
        """Hardware sums with at least single precision, in an order of its own: 17 terms, each cut off by its place."""
        kind = name.removeprefix("mma_")
        x = random_words(kind, blocks_of(kernels))
        actual = run(kernels, matrix_kernels.mma_kernel(name), x, np.zeros((len(x), 4), np.float32))
        for warp in range(len(x) // 32):
            mine = x[32 * warp : 32 * warp + 32]
            a, b, c = mine[:, :4].copy(), mine[:, 4:6].copy(), mine[:, 6:].copy().view(np.float32)
            with np.errstate(invalid="ignore"):
                expected = multiplied(a, b, c, kind)
                magnitude = multiplied(a & absolute(kind), b & absolute(kind), np.abs(c), kind)
            got, finite = actual[32 * warp : 32 * warp + 32], np.isfinite(expected)
            assert np.array_equal(got[~finite].view(np.uint32), expected[~finite].view(np.uint32))
            error = np.abs(got[finite].astype(np.float64) - expected[finite])
            assert (error <= 2.0**-18 * magnitude[finite] + 2.0**-140).all()

    @pytest.mark.parametrize("kind", OPERANDS)
    def test_the_meaning_of_fragments(self, kind):
        """After the figures of the PTX ISA, where a lane is groupID and threadID_in_group."""
        rng, depth = np.random.default_rng(1), 8 if kind == "tf32" else 16
        A, B, C = (rng.integers(-8, 9, shape) for shape in ((16, depth), (depth, 8), (16, 8)))
        a, b, c = [], [], []
        for group, thread in np.ndindex(8, 4):
            if kind == "tf32":
                a.append([A[group, thread], A[group + 8, thread], A[group, thread + 4], A[group + 8, thread + 4]])
                b.append([B[thread, group], B[thread + 4, group]])
            else:
                rows = [group if i < 2 or 4 <= i < 6 else group + 8 for i in range(8)]
                columns = [thread * 2 + (i & 1) + (0 if i < 4 else 8) for i in range(8)]
                a.append(A[rows, columns])
                b.append(B[[thread * 2 + (i & 1) + (0 if i < 2 else 8) for i in range(4)], group])
            c.append([C[group if i < 2 else group + 8, thread * 2 + (i & 1)] for i in range(4)])
        dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "tf32": np.float32}[kind]
        words_a, words_b = (np.array(x).astype(dtype).view(np.uint32) for x in (a, b))
        sums = multiplied(words_a, words_b, np.array(c, np.float32), kind)
        D = A @ B + C
        for lane, n in np.ndindex(32, 4):
            assert sums[lane, n] == D[accumulator_place(lane, n)]

    @pytest.mark.parametrize("a_lies", ["straight", "transposed"])
    @pytest.mark.parametrize("b_lies", ["straight", "transposed"])
    def test_product(self, kernels, a_lies, b_lies):
        """From matrices in shared memory, through ldmatrix, to sums in place."""
        rng = np.random.default_rng(2)
        A, B, C = (rng.integers(-8, 9, (16, 16)).astype(np.float16) for _ in range(3))
        x = np.ascontiguousarray([A if a_lies == "straight" else A.T, B if b_lies == "straight" else B.T]).reshape(
            32, 16
        )
        lanes, elements = np.divmod(np.arange(256), 8)
        places = [accumulator_place(int(lane), int(n) % 4) for lane, n in zip(lanes, elements, strict=True)]
        rows, columns = np.array(places).T
        columns = columns + elements // 4 * 8
        y = C[rows, columns].astype(np.float32)
        kernel = matrix_kernels.product_kernel(a_lies, b_lies)
        D = (A.astype(np.float64) @ B + C)[rows, columns]
        assert np.array_equal(run(kernels, kernel, x, y), D)


def absolute(kind):
    """A mask that drops the signs of a word's elements."""
    return np.uint32(0x7FFFFFFF if kind == "tf32" else 0x7FFF7FFF)


def every_kind_of_number(count):
    """Random bits, neighbours of zero, and ties between 16-bit numbers."""
    bits = np.random.default_rng(0).integers(0, 2**32, count, np.uint32)
    bits[: count // 8] = np.arange(count // 8)
    bits[count // 8 : count // 4] &= np.uint32(0xFFFF8000)
    bits[count // 4 : count // 2] = bits[count // 4 : count // 2] & np.uint32(0x8FFFF000) | np.uint32(0x38000000)
    return bits.view(np.float32)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversions(kernels, name):
    x = every_kind_of_number(2 * THREADS * blocks_of(kernels) * 4).reshape(-1, 2)
    words = run(kernels, matrix_kernels.convert_kernel(name), x, np.zeros(len(x), np.uint32))
    if name == "float32_to_tf32":
        nan = np.isnan(x[:, 0])
        assert np.array_equal(words[~nan], nearest_tf32(x[~nan, 0]))
        return
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1).astype(np.uint16)
    nan = np.isnan(x)
    assert (halves[nan] == 0x7FFF).all()
    if name == "float32_to_float16x2":
        assert np.array_equal(value_of_float16(halves[~nan]), nearest_float16(x[~nan]))
    else:
        upper, lower = x[~nan].view(np.uint32) >> 16, x[~nan].view(np.uint32) & 0xFFFF
        assert np.array_equal(halves[~nan], upper + ((lower > 0x8000) | ((lower == 0x8000) & (upper & 1 == 1))))
    assert np.array_equal(halves[~nan] >> 15, np.signbit(x[~nan]))


def nearest_tf32(x):
    """Rounded in float64 to eleven significant bits, ties away from zero; subnormal ones to a multiple of 2^-136."""
    with np.errstate(over="ignore"):
        mantissa, exponent = np.frexp(np.where(np.isinf(x), 0, x).astype(np.float64))
        unit = np.ldexp(1.0, np.maximum(exponent, -125) - 11)
        wide = np.ldexp(mantissa, exponent)
        rounded = (np.copysign(np.floor(np.abs(wide) / unit + 0.5) * unit, x)).astype(np.float32)
    return np.where(np.isinf(x), x, rounded).view(np.uint32)


def test_parts_of_copies(kernels):
    x = np.random.default_rng(0).integers(1, 2**16, (blocks_of(kernels) * THREADS, 8), np.uint16)
    y = run(kernels, matrix_kernels.copy_part_kernel(), x, np.full_like(x, 99))
    count = np.arange(len(x)) % THREADS % 9
    assert np.array_equal(y, np.where(np.arange(8) < count[:, None], x, 0))


class TestErrors:
    """What a simulated kernel may not do with matrices."""

    pytestmark = in_simulator

    @staticmethod
    def in_block(body, threads=32):
        simulator.launch(body, 1, threads, 1024, ())

    @staticmethod
    def load(index, lanes=32, instruction=ldmatrix_x4, n=0, size=4):
        tile, words = shared_tile(0, (32, 16), types.uint16), cuda.local.array(size, types.uint32)
        tile[...] = 0
        if cuda.threadIdx.x < lanes:
            instruction(words, n, tile, index)

    @staticmethod
    def multiply(n=0, i=0, j=0, lanes=32):
        a, b, acc = (cuda.local.array(size, kind) for size, kind in ((4, "u4"), (2, "u4"), (4, "f4")))
        for x in (a, b, acc):
            x[:] = 0
        if cuda.threadIdx.x < lanes:
            mma_float16(acc, n, a, i, b, j)

    @pytest.mark.parametrize("index", [(0, 4), (0, 7), (0, 1)])
    def test_rows_start_on_16_bytes(self, index):
        with pytest.raises(simulator.MemoryFault, match="misaligned"):
            self.in_block(lambda: self.load(index))

    @pytest.mark.parametrize("index", [(32, 0), (-1, 0), (0, 16), (0, -8)])
    def test_rows_lie_in_the_tile(self, index):
        with pytest.raises(simulator.MemoryFault, match="not in a shared window"):
            self.in_block(lambda: self.load(index))

    def test_lanes_without_a_row_point_nowhere(self):
        self.in_block(lambda: self.load((31 if cuda.threadIdx.x < 16 else 99, 0), instruction=ldmatrix_x2, size=2))
        with pytest.raises(simulator.MemoryFault):
            self.in_block(lambda: self.load((31 if cuda.threadIdx.x < 15 else 99, 0), instruction=ldmatrix_x2, size=2))

    @pytest.mark.parametrize("what", ["load", "multiply"])
    def test_all_lanes_take_part(self, what):
        body = {"load": lambda n: self.load((0, 0), n), "multiply": lambda n: self.multiply(lanes=n)}[what]
        name = {"load": "ldmatrix.x4", "multiply": "mma"}[what]
        for lanes in (1, 31):
            with pytest.raises(simulator.DivergentBarrier, match=name):
                self.in_block(lambda lanes=lanes: body(lanes))
        with pytest.raises(simulator.DivergentBarrier, match=rf"{name}: thread \(32, 0, 0\) .* 8 lanes; all 32"):
            self.in_block(lambda: body(40), threads=40)

    def test_lanes_may_not_be_at_different_instructions(self):
        def body():
            if cuda.threadIdx.x % 2:
                self.multiply()
            else:
                self.multiply()

        with pytest.raises(simulator.DivergentBarrier, match="mma"):
            self.in_block(body)

    @pytest.mark.parametrize("group", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, 0, -1)])
    def test_registers_exist(self, group):
        with pytest.raises(simulator.MemoryFault, match="registers"):
            self.in_block(lambda: self.multiply(*group))

    def test_registers_of_a_load_exist(self):
        with pytest.raises(simulator.MemoryFault, match="no group 1 of 4 in 4 registers"):
            self.in_block(lambda: self.load((0, 0), n=1))

    @pytest.mark.parametrize("count", [-1, 9])
    def test_a_part_is_no_more_than_the_whole(self, count):
        def body():
            tile = shared_tile(0, (8,), types.uint16)
            with pytest.raises(ValueError, match=f"a copy of 8 elements cannot read {count}"):
                copy_part(tile, 0, view_of(np.zeros(16, np.uint16), types.uint16), 0, 8, count)

        self.in_block(body, threads=1)

    def test_what_is_left_out_may_lie_outside(self):
        def body():
            tile, view = shared_tile(0, (8,), types.uint16), view_of(np.ones(12, np.uint16), types.uint16)
            copy_part(tile, 0, view, 8, 8, 4)
            commit_copies()
            for at, count in ((8, 5), (4, 4), (16, 1)):
                with pytest.raises(simulator.MemoryFault):
                    copy_part(tile, 0, view, at, 8, count)

        self.in_block(body, threads=1)

    def test_two_elements(self):
        x = np.zeros(8, np.float32)
        view = view_of(x, types.float32, writable=True)
        store2(view, 2, (1, 2))
        assert np.array_equal(x, [0, 0, 1, 2, 0, 0, 0, 0])
        for index in (1, 3, 8, -2):
            with pytest.raises(simulator.MemoryFault):
                store2(view, index, (1, 1))

    def test_a_store_of_what_exists(self):
        x = np.zeros(4, np.float32)
        view = view_of(x, types.float32, writable=True)
        for at, exists in ((1, True), (2, False), (99, False)):
            store_if(view, at, 5, exists)
        assert np.array_equal(x, [0, 5, 0, 0])
        with pytest.raises(simulator.MemoryFault):
            store_if(view, 4, 5, True)

    def test_reads_are_counted(self):
        def body():
            tile, words = shared_tile(0, (32, 16), types.uint16), cuda.local.array(4, types.uint32)
            ldmatrix_x4(words, 0, tile, (cuda.threadIdx.x, 0))
            ldmatrix_x2(words, 1, tile, (cuda.threadIdx.x, 8))

        with simulator.count_traffic() as counted:
            self.in_block(body)
        assert counted.total.shared_read == 512 + 256


COMPILE = """
    import json
    from numba_flash.runtime.compile import link, to_ltoir, to_ptx
    from unit.matrix_kernels import COMPILED, copy_part_kernel
    found = {}
    kernels = {name: make(name) for name, (make, _) in COMPILED.items()} | {"copy_part": copy_part_kernel()}
    for arch in ("sm_80", "sm_90a"):
        for name, kernel in kernels.items():
            code = to_ltoir(kernel, "P,P", arch)
            ptx, binary = to_ptx(code, arch), link(code, arch)
            found[f"{name} {arch}"] = [ptx, binary.stack_bytes, binary.spilled_bytes]
    print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="there is no CUDA toolkit for macOS")
def test_what_they_compile_to():
    command = [sys.executable, "-c", textwrap.dedent(COMPILE)]
    done = subprocess.run(command, env=environment(NUMBA_ENABLE_CUDASIM="0"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = {name: text for name, (_, text) in COMPILED.items()}
    texts["copy_part"] = "cp.async.cg.shared.global"
    for name, (ptx, *memory) in json.loads(done.stdout).items():
        assert ptx.count(texts[name.split()[0]]) == 1, name
        assert memory == [0, 0] and ".local" not in ptx and ".f64" not in ptx, name


def test_every_word_is_used():
    assert WORDS == 4 + 2 + 4 and WARPS * 32 == THREADS
