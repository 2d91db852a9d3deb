"""Register tiles: the compiled product is the sum in index order, whatever the sizes and strides."""

import numpy as np
import pytest

from numba_flash.cpu.products import product
from numba_flash.cpu.registers import ROWS, VECTOR_BYTES

SIZES = [(ROWS, 1), (ROWS + 1, 3), (2 * ROWS - 1, 64), (31, 0)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows, count", SIZES)
@pytest.mark.parametrize("extra", [0, 1, 5])
def test_product_of_small_integers_is_exact(dtype, rows, count, extra):
    columns = VECTOR_BYTES // np.dtype(dtype).itemsize + extra
    rng = np.random.default_rng(rows)
    A, B = rng.integers(-9, 9, (rows, count + 2)).astype(dtype), rng.integers(-9, 9, (count + 1, columns)).astype(dtype)
    expected = A[:, :count] @ B[:count]
    for layout in (A, np.ascontiguousarray(A.T).T):
        C = np.full((rows, columns), np.nan, dtype)
        product(C, layout, B, count)
        np.testing.assert_array_equal(C, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_python_twin_says_the_same(dtype):
    rng = np.random.default_rng(0)
    A, B = rng.integers(-9, 9, (13, 7)).astype(dtype), rng.integers(-9, 9, (7, 19)).astype(dtype)
    C, D = np.empty((13, 19), dtype), np.empty((13, 19), dtype)
    product(C, A, B, 7)
    product.py_func(D, A, B, 7)
    np.testing.assert_array_equal(C, D)
