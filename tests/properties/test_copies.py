"""Asynchronous copies may land as soon as they start or as late as they are waited for: results stay the same."""

from dataclasses import replace

import pytest

from numba_flash.testing.backends import SIMULATOR, Backend
from numba_flash.tiling import round_up

from . import test_agreement as agreement
from . import test_matmul as matmul
from .for_all import for_all, simulated

# Only whole 16 bytes of numbers that need no conversion are copied.
COPIED = {
    "depths": (4, 16, 20),
    "layouts": ("contiguous", "transposed", "padded"),
    "dtypes": ("float32", "float64"),
}


@pytest.fixture(params=["late", "early"], autouse=True)
def landing(request, backend):
    """When the copies of simulated threads land."""
    if request.param == "early" and backend is not SIMULATOR:
        pytest.skip("only the simulator can choose")
    with simulated(landing=request.param):
        yield


@for_all(**COPIED)
def test_forward(backend, case):
    agreement.test_forward.holds(backend, case)


@for_all(**COPIED)
def test_backward(backend, case):
    agreement.test_backward.holds(backend, case)


@for_all(**COPIED)
def test_deterministic_backward(backend, case):
    agreement.test_deterministic_backward.holds(backend, case)


def copied_products(backend, **restrictions):
    """Matrices whose rows are whole 16 bytes."""
    layouts, dtypes = ("contiguous", "padded"), COPIED["dtypes"]
    return Backend.matmul_cases(backend, layouts=layouts, dtypes=dtypes, **restrictions).map(in_fours)


def in_fours(case):
    """The same with K and N rounded up to multiples of 4."""
    (*lead, M, K), (*b_lead, _, N) = case.a, case.b
    K, N = round_up(K, 4), round_up(N, 4)
    return replace(case, a=(*lead, M, K), b=(*b_lead, K, N))


@for_all(cases=copied_products)
def test_product(backend, case):
    matmul.test_product.holds(backend, case)


def deep_products(backend, **restrictions):
    """Matrices of 16-bit numbers that go through all stages of a pipeline, and through the first ones again."""
    layouts, dtypes = ("contiguous", "padded", "padded", "strided"), ("float16", "bfloat16")
    return Backend.matmul_cases(backend, layouts=layouts, dtypes=dtypes, **restrictions).map(deeper)


def deeper(case):
    """The same with M and N twice as large, 64 to 140 for K, and N rounded up to a multiple of 4."""
    (*lead, M, K), (*b_lead, _, N) = case.a, case.b
    return replace(case, a=(*lead, 2 * M, 4 * K + 64), b=(*b_lead, 4 * K + 64, round_up(2 * N, 4)))


@for_all(cases=deep_products)
def test_tensor_product(backend, case):
    if not backend.tensor_products:
        pytest.skip("it has no tensor cores")
    matmul.agree(backend, case, backend.tensor_products)
