"""exp and tanh against longdouble arithmetic, in units in the last place."""

import numpy as np
import pytest
from numba import njit

from numba_flash.cpu.exponential import exp, tanh


@njit
def apply_exp(y, x):
    for i in range(x.size):
        y[i] = exp(x[i])


@njit
def apply_tanh(y, x):
    for i in range(x.size):
        y[i] = tanh(x[i])


def evaluate(apply, x):
    y = np.empty_like(x)
    apply(y, x)
    return y


def ulps(y, exact):
    """Largest distance in units in the last place of the exact result."""
    return float((np.abs(y - exact) / np.spacing(np.abs(exact).astype(y.dtype))).max())


@pytest.mark.parametrize("low, high", [(-86, 0), (-1, 1), (-1e-3, 1e-3), (0, 88)])
def test_exp_float32(low, high):
    x = np.linspace(low, high, 200_003).astype(np.float32)
    assert ulps(evaluate(apply_exp, x), np.exp(x.astype(np.longdouble))) < 1.1


@pytest.mark.parametrize("low, high", [(-707, 0), (-1, 1), (-1e-6, 1e-6), (0, 709)])
def test_exp_float64(low, high):
    x = np.linspace(low, high, 200_003)
    assert ulps(evaluate(apply_exp, x), np.exp(x.astype(np.longdouble))) < 1.1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reach", [40, 1, 1e-3])
def test_tanh(dtype, reach):
    x = np.linspace(-reach, reach, 200_003).astype(dtype)
    assert ulps(evaluate(apply_tanh, x), np.tanh(x.astype(np.longdouble))) < 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype):
    big = np.finfo(dtype).max
    x = np.array([0, -0.0, -np.inf, -big, np.nan], dtype)
    np.testing.assert_array_equal(evaluate(apply_exp, x), np.array([1, 1, 0, 0, np.nan], dtype))
    x = np.array([0, -0.0, -np.inf, np.inf, -big, big, np.nan], dtype)
    np.testing.assert_array_equal(evaluate(apply_tanh, x), np.array([0, 0, -1, 1, -1, 1, np.nan], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_below_the_normal_range_are_zero(dtype):
    tiny = float(np.log(np.finfo(dtype).smallest_normal))
    x = np.array([tiny + 0.1, tiny - 0.4, tiny - 1, tiny - 100], dtype)
    assert (evaluate(apply_exp, x) == 0).tolist() == [False, True, True, True]
