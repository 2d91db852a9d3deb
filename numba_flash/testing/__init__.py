"""Property-based tests of attention: hypothesis strategies, the tolerance rule, and where to run them."""

from numba_flash.testing.backends import CPU, GPU, SIMULATOR, Backend
from numba_flash.testing.case import Arrays, Case
from numba_flash.testing.matmul import MatmulCase, matmul_cases
from numba_flash.testing.naive import naive_attention, naive_gradients, naive_matmul
from numba_flash.testing.strategies import attention_cases
from numba_flash.testing.tolerance import assert_close, rounding_floor, tolerance

__all__ = [
    "CPU",
    "GPU",
    "SIMULATOR",
    "Arrays",
    "Backend",
    "Case",
    "MatmulCase",
    "assert_close",
    "attention_cases",
    "matmul_cases",
    "naive_attention",
    "naive_gradients",
    "naive_matmul",
    "rounding_floor",
    "tolerance",
]
