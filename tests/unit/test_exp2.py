"""2^x by multiply-adds, as kernels compute it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_flash.device.exp2 import exp2_float32, exp2_float64
from numba_flash.simulator import SIMULATED

pytestmark = pytest.mark.skipif(not SIMULATED, reason="runs as Python only in the simulator")


@given(st.floats(-1022, 1023))
def test_two_units_in_the_last_place(x):
    exact = np.exp2(np.longdouble(x))
    assert abs(exp2_float64(np.float64(x)) - exact) <= 2 * np.spacing(np.float64(exact))


@given(st.integers(-1022, 1023))
def test_integers_are_exact(n):
    assert exp2_float64(np.float64(n)) == 2.0**n


@pytest.mark.parametrize("x", [-np.inf, -1e300, -1075.0, -1022.5])
def test_what_is_too_small_is_zero(x):
    with np.errstate(invalid="ignore"):
        assert exp2_float64(np.float64(x)) == 0


def test_nan_stays():
    assert np.isnan(exp2_float64(np.float64(np.nan)))


@given(st.floats(-126, 127, width=32))
def test_three_units_in_the_last_place_of_float32(x):
    exact = np.exp2(np.float64(x))
    with np.errstate(over="ignore"):
        y = exp2_float32(np.float32(x))
    assert y.dtype == np.float32 and abs(y - exact) <= 3 * np.spacing(np.float32(exact))


@pytest.mark.parametrize("x", [-np.inf, -1e30, -151.0, -127.0, -126.7])
def test_what_is_too_small_is_zero_in_float32(x):
    with np.errstate(over="ignore"):
        assert exp2_float32(np.float32(x)) == 0


def test_float32_keeps_powers_of_two_and_nan():
    with np.errstate(over="ignore"):
        assert [exp2_float32(np.float32(n)) for n in (-126, -1, 0, 127)] == [2.0**n for n in (-126, -1, 0, 127)]
        assert np.isnan(exp2_float32(np.float32(np.nan)))
