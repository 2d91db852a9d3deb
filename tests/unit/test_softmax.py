"""The contract of `softmax`: shapes, kinds and dtypes in and out, edge cases, what it refuses, and what it moves."""

import numpy as np
import pytest

from numba_flash import reference, softmax
from numba_flash.arrays import read
from numba_flash.config import SIMULATOR
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.problem import Reasons
from numba_flash.rungs import matmul_naive, matmul_tiled, softmax_online, softmax_safe
from numba_flash.softmax_problem import SoftmaxProblem, softmax_request
from numba_flash.testing.naive import naive_softmax
from numba_flash.testing.tolerance import assert_close
from numba_flash.traffic import Traffic

from .helpers import DTYPES, Convertible, Exporter, normal
from .test_errors import FLOATS, NO_ARRAY, NO_STREAM, no_kernel, refused, zeros


def check(y, x):
    """y is softmax(x) by the tolerance rule, with x's shape and dtype."""
    assert_close(y, reference.softmax(x.astype(np.float64)), naive_softmax(x), x.dtype, "softmax")


@pytest.fixture
def softmaxes(backend):
    """softmax by every kernel of a backend."""
    return [lambda x, kernel=kernel: softmax(x, kernel=kernel) for kernel in backend.softmaxes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (40,), (3, 1), (3, 9), (2, 1, 8), (2, 3, 4, 5)], ids=str)
def test_shapes_and_dtypes(softmaxes, shape, dtype):
    x = normal(0, *shape).astype(DTYPES[dtype])
    for by_kernel in softmaxes:
        y = by_kernel(x)
        assert isinstance(y, np.ndarray) and y.flags.c_contiguous
        check(y, x)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3), (2, 3, 0)], ids=str)
def test_no_elements(softmaxes, shape):
    for by_kernel in softmaxes:
        y = by_kernel(np.zeros(shape, np.float16))
        assert (y.shape, y.dtype) == (shape, np.float16)


def test_rows_of_minus_infinity_give_zeros(softmaxes):
    x = np.array([[-np.inf, -np.inf, -np.inf], [0.0, -np.inf, 0.0]], np.float32)
    for by_kernel in softmaxes:
        assert by_kernel(x).tolist() == [[0, 0, 0], [0.5, 0, 0.5]]


def test_layouts_change_no_bit(softmaxes):
    x = normal(0, 2, 3, 4, 9, dtype=np.float32)
    layouts = {
        "transposed": lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
        "column-major": np.asfortranarray,
        "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        "reversed": lambda x: np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1],
        "byte-swapped": lambda x: x.astype(">f4"),
    }
    for by_kernel in softmaxes:
        expected = by_kernel(x)
        for name, layout in layouts.items():
            assert np.array_equal(by_kernel(layout(x)), expected), name


def test_a_row_that_is_repeated(softmaxes):
    x = normal(0, 9, dtype=np.float32)
    for by_kernel in softmaxes:
        assert np.array_equal(by_kernel(np.broadcast_to(x, (4, 9))), np.broadcast_to(by_kernel(x), (4, 9)))


def test_inputs_stay_as_they_are(softmaxes):
    x = normal(0, 3, 9)
    copy = x.copy()
    x.flags.writeable = False
    for by_kernel in softmaxes:
        by_kernel(x)
    assert np.array_equal(x, copy)


@pytest.mark.parametrize("kind", [Exporter, Convertible])
def test_other_libraries_give_numpy_arrays(softmaxes, kind):
    x = normal(0, 3, 9)
    for by_kernel in softmaxes:
        y = by_kernel(kind(x))
        assert isinstance(y, np.ndarray)
        check(y, x)


def test_what_auto_takes():
    x = normal(0, 3, 9)
    check(softmax(x), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch(softmaxes, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = torch.from_numpy(normal(0, 3, 9)).to(getattr(torch, dtype))
    for by_kernel in softmaxes:
        y = by_kernel(x)
        assert isinstance(y, torch.Tensor) and y.dtype == x.dtype
        check(*(z.to(torch.float64).numpy().astype(DTYPES[dtype]) for z in (y, x)))


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["auto", "softmax_safe", "softmax_online"])
def test_cupy(kernel):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    x = normal(0, 3, 1000, dtype=np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    y = softmax(cupy.asarray(x), kernel=kernel, stream=stream)
    assert isinstance(y, cupy.ndarray)
    stream.synchronize()
    check(cupy.asnumpy(y), x)
    check(softmax(x, kernel=kernel), x)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["softmax_safe", "softmax_online"])
def test_more_than_2_to_the_31_elements(kernel):
    """The last rows lie beyond 2^31 elements; each array takes 4.3 GB."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    N = 1024
    x = cupy.zeros((2**31 // N + 5, N), cupy.float16)
    x[-5:] = cupy.asarray(normal(0, 5, N).astype(np.float16))
    y = softmax(x, kernel=kernel)
    cupy.testing.assert_array_equal(y[-5:], softmax(x[-5:], kernel=kernel))
    assert (y[:-5] == 1 / N).all()


@pytest.mark.parametrize(
    ("changes", "error", "reasons"),
    [
        ({"x": zeros(2, 3, dtype=int)}, TypeError, [f"x is int64 (needs {FLOATS})"]),
        ({"x": zeros(2, 3, dtype=complex)}, TypeError, [f"x is complex128 (needs {FLOATS})"]),
        ({"x": zeros()}, ValueError, ["x needs at least one axis"]),
        ({"x": [1.0, 2.0]}, TypeError, [f"x: list {NO_ARRAY}"]),
        ({"x": None}, TypeError, [f"x: NoneType {NO_ARRAY}"]),
        ({"kernel": "flash2"}, ValueError, [no_kernel("softmax", "flash2")]),
        (
            {"x": zeros(dtype=int), "kernel": "x", "stream": "y"},
            TypeError,
            [
                no_kernel("softmax", "x"),
                f"stream: str {NO_STREAM}",
                f"x is int64 (needs {FLOATS})",
                "x needs at least one axis",
            ],
        ),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_errors(changes, error, reasons):
    refused(softmax, {"x": zeros(2, 3)}, changes, error, reasons)


class TestRequest:
    def test_leading_axes_fold_to_two(self):
        ((problem, rows),) = softmax_request(Reasons("test"), read(x := normal(0, 2, 3, 4, 5))).problems
        assert problem == SoftmaxProblem(6, 4, 5, "float64")
        assert np.shares_memory(rows.data, x) and rows.strides == (20, 5, 1)

    @pytest.mark.parametrize(("shape", "sizes"), [((5,), (1, 1, 5)), ((4, 5), (1, 4, 5)), ((3, 4, 5), (3, 4, 5))])
    def test_missing_axes(self, shape, sizes):
        ((problem, rows),) = softmax_request(Reasons("test"), read(np.zeros(shape, np.float16))).problems
        assert problem == SoftmaxProblem(*sizes, "float16") and rows.shape == sizes

    def test_axes_that_do_not_fold(self):
        problems = softmax_request(Reasons("test"), read(normal(0, 3, 2, 4, 5).swapaxes(0, 1))).problems
        assert [problem for problem, _ in problems] == [SoftmaxProblem(3, 4, 5, "float64")] * 2


def test_why_not():
    for module in (softmax_safe, softmax_online):
        assert module.why_not(SoftmaxProblem(2**16, 2**14, 1, "float32"), SIMULATOR) == []
        assert module.why_not(SoftmaxProblem(2**16, 2**16, 1, "float32"), SIMULATOR) == [
            f"{2**32} blocks > {2**31 - 1}"
        ]
    product = MatmulProblem(2**16, 2**12, 2**12, 1, "float32", "float32")
    assert matmul_naive.why_not(product, SIMULATOR) == [f"{2**32} blocks > {2**31 - 1}"]


def test_blocks_are_whole_warps_and_trees_have_two_halves():
    for module in (softmax_safe, softmax_online, matmul_naive):
        (T,) = module.CONFIGS
        assert T % 32 == 0 and T <= 1024 and T & (T - 1) == 0


class TestTraffic:
    def test_the_second_rung_reads_what_the_first_one_does_but_once_less(self):
        safe, online = (
            m.traffic(SoftmaxProblem(2, 3, 1000, "float16"), SIMULATOR) for m in (softmax_safe, softmax_online)
        )
        elements = 2 * 3 * 1000
        assert (safe.global_read, safe.global_written) == (3 * 2 * elements, 2 * elements)
        assert (online.global_read, online.global_written) == (2 * 2 * elements, 2 * elements)

    def test_tiles_divide_what_a_product_reads(self):
        problem = MatmulProblem(3, 64, 96, 128, "float32", "float64")
        naive, tiled = (m.traffic(problem, SIMULATOR) for m in (matmul_naive, matmul_tiled))
        products = 3 * 64 * 96 * 128
        assert naive == Traffic(global_read=4 * 2 * products, global_written=8 * 3 * 64 * 96)
        assert tiled.global_read * matmul_tiled.CONFIGS[0] == naive.global_read
        assert tiled.shared_read == naive.global_read and tiled.shared_written == tiled.global_read
