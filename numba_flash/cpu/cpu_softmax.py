"""Softmax on the CPU: the definition in NumPy, with 16-bit inputs computed in float32."""

from __future__ import annotations

import numpy as np

from numba_flash import reference
from numba_flash.arrays import Array
from numba_flash.softmax_problem import SoftmaxProblem


def run(problem: SoftmaxProblem, x: Array, y: Array) -> None:
    """Write y (B, M, N); x is (B, M, N)."""
    rows = np.ascontiguousarray(x.data, problem.real)  # NumPy would sum the rows of a view in another order
    y.data[...] = reference.softmax(rows)
