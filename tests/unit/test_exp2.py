"""2^x in float64, as kernels compute it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_flash.device.exp2 import exp2_float64
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
