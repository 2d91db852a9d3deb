"""The instruction vocabulary: one Python function per instruction, each with its simulator twin.

A function's body is what the instruction does, lane by lane; it runs when NUMBA_ENABLE_CUDASIM=1. Otherwise numba
compiles the PTX or LLVM code that its decorator names.
"""

import numba_flash.compilable  # noqa: F401 (kernels call tiling's functions)
from numba_flash.ptx.arithmetic import (
    bfloat16_to_float32,
    ex2,
    float16_to_float32,
    float32_to_bfloat16,
    float32_to_bfloat16x2,
    float32_to_float16,
    float32_to_float16x2,
    float32_to_tf32,
    float64_of_bits,
    float64_to_bits,
)
from numba_flash.ptx.barriers import barrier_arrive, barrier_sync
from numba_flash.ptx.codegen import device
from numba_flash.ptx.copies import commit_copies, copy, copy_part, wait_copies
from numba_flash.ptx.matrices import (
    ldmatrix_x1,
    ldmatrix_x1_trans,
    ldmatrix_x2,
    ldmatrix_x2_trans,
    ldmatrix_x4,
    ldmatrix_x4_trans,
    mma_bfloat16,
    mma_float16,
    mma_tf32,
)
from numba_flash.ptx.memory import add, add4, global_view, load4, shared_tile, store2, store4, store_if

__all__ = [
    "add",
    "add4",
    "barrier_arrive",
    "barrier_sync",
    "bfloat16_to_float32",
    "commit_copies",
    "copy",
    "copy_part",
    "device",
    "ex2",
    "float16_to_float32",
    "float32_to_bfloat16",
    "float32_to_bfloat16x2",
    "float32_to_float16",
    "float32_to_float16x2",
    "float32_to_tf32",
    "float64_of_bits",
    "float64_to_bits",
    "global_view",
    "ldmatrix_x1",
    "ldmatrix_x1_trans",
    "ldmatrix_x2",
    "ldmatrix_x2_trans",
    "ldmatrix_x4",
    "ldmatrix_x4_trans",
    "load4",
    "mma_bfloat16",
    "mma_float16",
    "mma_tf32",
    "shared_tile",
    "store2",
    "store4",
    "store_if",
    "wait_copies",
]
