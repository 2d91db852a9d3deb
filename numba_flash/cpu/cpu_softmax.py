"""Softmax on the CPU: the definition in NumPy, with 16-bit inputs computed in float32."""

from __future__ import annotations

import numpy as np

from numba_flash import reference
from numba_flash.arrays import Array
from numba_flash.softmax_problem import SoftmaxProblem


def run(problem: SoftmaxProblem, x: Array, y: Array) -> None:
    """Write y (B, M, N); x is (B, M, N)."""
    y.data[...] = reference.softmax(x.data.astype(np.dtype(problem.real), copy=False))
