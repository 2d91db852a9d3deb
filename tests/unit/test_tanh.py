"""tanh without branches, as kernels compute it."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from numba_flash.device.tanh import NEAR, tanh_float32
from numba_flash.simulator import SIMULATED

pytestmark = pytest.mark.skipif(not SIMULATED, reason="runs as Python only in the simulator")


def quietly(x):
    with np.errstate(over="ignore", invalid="ignore"):
        return tanh_float32(np.float32(x))


@given(st.floats(-10, 10, width=32))
@example(float(NEAR))
@example(float(np.nextafter(NEAR, np.float32(0))))
def test_four_units_in_the_last_place(x):
    exact = np.tanh(np.float64(x))
    assert abs(quietly(x) - exact) <= 4 * np.spacing(abs(np.float32(exact)))


def test_it_is_odd():
    assert all(quietly(-x) == -quietly(x) for x in np.linspace(0, 10, 501))


@pytest.mark.parametrize("x", [12.0, 100.0, 1e30, np.inf])
def test_one_of_large_numbers(x):
    assert (quietly(x), quietly(-x)) == (1, -1)


def test_nan_stays():
    assert np.isnan(quietly(np.nan))
