"""What the unit tests share."""

import numpy as np
import pytest

from numba_flash.arrays import BFLOAT16
from numba_flash.simulator import SIMULATED

DTYPES = {"float16": np.float16, "bfloat16": BFLOAT16, "float32": np.float32, "float64": np.float64}

in_simulator = [
    pytest.mark.simulator,
    pytest.mark.skipif(not SIMULATED, reason="runs kernels in the simulator: set NUMBA_ENABLE_CUDASIM=1"),
]


def normal(seed, *shape, dtype=np.float64):
    """Normal numbers, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_same(actual, expected, magnitude=1.0):
    """Two float64 evaluations of one formula agree up to rounding of numbers as large as `magnitude` or themselves."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    finite = np.isfinite(expected)
    assert np.array_equal(actual[~finite], expected[~finite], equal_nan=True)
    largest = max(magnitude, np.abs(expected[finite]).max(initial=0))
    assert np.abs(actual[finite] - expected[finite]).max(initial=0) <= 256 * np.finfo(np.float64).eps * largest


class Exporter:
    """A library's array that knows nothing but DLPack."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **keywords):
        return self.x.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class Convertible:
    """A library's array that knows nothing but `__array__`."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x
