"""Matrix products agree with float64's."""

import numpy as np
import pytest

from numba_flash.testing.backends import Backend
from numba_flash.testing.matmul import MatmulCase
from numba_flash.testing.naive import naive_matmul
from numba_flash.testing.tolerance import assert_close

from .agreement import assert_same_as_copies
from .for_all import for_all


def agree(backend, case, kernels):
    """These kernels agree with float64."""
    a, b = case.arrays()
    out_dtype = case.out_dtype or case.dtype
    exact = a.astype(np.float64) @ b.astype(np.float64)
    for kernel in kernels:
        c = backend.matmul(a, b, out_dtype=case.out_dtype, kernel=kernel)
        assert_close(c, exact, naive_matmul(a, b, out_dtype), out_dtype, kernel)


@for_all(times=2, cases=Backend.matmul_cases)
def test_product(backend, case):
    agree(backend, case, backend.products_of(case.dtype))


@pytest.mark.parametrize(
    ("dtype", "layout", "N"),
    [("float16", "contiguous", 264), ("bfloat16", "padded", 260), ("float16", "misaligned", 136)],
)
def test_production_tiles_of_tensor_cores(simulator, dtype, layout, N):
    """More than a tile in every direction, and more steps than stages."""
    case = MatmulCase((70, 200), (200, N), dtype, "float32", (layout, layout), seed=1)
    agree(simulator, case, simulator.tensor_products)


@for_all(cases=Backend.matmul_cases)
def test_views_give_what_their_copies_give(backend, case):
    """Bit by bit."""
    if backend.kernel == "cpu":
        pytest.skip("NumPy may sum a view in another order")
    a, b = case.arrays()
    for kernel in backend.products_of(a.dtype):

        def call(x, y, kernel=kernel):
            return [backend.matmul(x, y, out_dtype=case.out_dtype, kernel=kernel)]

        assert_same_as_copies(call, (a, b))
