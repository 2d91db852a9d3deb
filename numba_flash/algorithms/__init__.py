"""The papers' algorithms in NumPy, tile by tile: the bridge from `reference` to the kernels.

Each function has the name of a kernel, and its tiles, state and block indices have the kernel's names; what a block of
the grid does there is one turn of the outermost loop here. Attention is that of one head, Q (Nq, d), K (Nk, d),
V (Nk, dv), with scale and the band of `tiling.band` as its only options. Arithmetic is that of the operands' dtype,
float32 or float64. Line numbers are those of the paper's algorithm.
"""

from numba_flash.algorithms.attention import attention_naive, attention_one_pass, attention_two_pass
from numba_flash.algorithms.flash1 import flash1_backward, flash1_forward
from numba_flash.algorithms.flash2 import flash2_backward, flash2_forward
from numba_flash.algorithms.flash3 import flash3_forward
from numba_flash.algorithms.matmul import matmul_naive, matmul_registers, matmul_tiled
from numba_flash.algorithms.softmax import softmax_online, softmax_safe

__all__ = [
    "attention_naive",
    "attention_one_pass",
    "attention_two_pass",
    "flash1_backward",
    "flash1_forward",
    "flash2_backward",
    "flash2_forward",
    "flash3_forward",
    "matmul_naive",
    "matmul_registers",
    "matmul_tiled",
    "softmax_online",
    "softmax_safe",
]
