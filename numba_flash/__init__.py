"""Exact attention in pure Python CUDA, for NumPy, CuPy and every other array of a CUDA or DLPack library."""

from numba_flash.ops import (
    flash_attention,
    flash_attention_backward,
    flash_attention_vjp,
    matmul,
    merge,
    softmax,
)

__all__ = ["flash_attention", "flash_attention_backward", "flash_attention_vjp", "matmul", "merge", "softmax"]
__version__ = "0.1.0"
