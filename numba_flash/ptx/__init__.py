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
    float32_to_float16,
)
from numba_flash.ptx.codegen import device
from numba_flash.ptx.copies import commit_copies, copy, wait_copies
from numba_flash.ptx.memory import add, add4, global_view, load4, shared_tile, store4

__all__ = [
    "add",
    "add4",
    "bfloat16_to_float32",
    "commit_copies",
    "copy",
    "device",
    "ex2",
    "float16_to_float32",
    "float32_to_bfloat16",
    "float32_to_float16",
    "global_view",
    "load4",
    "shared_tile",
    "store4",
    "wait_copies",
]
