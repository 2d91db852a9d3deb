"""Matrix product on the CPU: NumPy's own, with 16-bit inputs accumulated in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numba_flash.arrays import Array
from numba_flash.matmul_problem import MatmulProblem


def run(problem: MatmulProblem, x: Sequence[Array], c: Array) -> None:
    """Write c (B, M, N); x holds a (B, M, K) and b (B, K, N)."""
    wide = np.float64 if problem.dtype == "float64" else np.float32
    a, b = (operand.data.astype(wide, copy=False) for operand in x)
    c.data[...] = np.matmul(a, b)
