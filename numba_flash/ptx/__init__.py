"""The instruction vocabulary: one Python function per instruction, each with its simulator twin.

A function's body is what the instruction does, lane by lane; it runs when NUMBA_ENABLE_CUDASIM=1. Otherwise numba
compiles the PTX or LLVM code that its decorator names.
"""

from numba_flash.ptx.arithmetic import (
    bfloat16_to_float32,
    ex2,
    float16_to_float32,
    float32_to_bfloat16,
    float32_to_float16,
)
from numba_flash.ptx.codegen import device
from numba_flash.ptx.memory import global_view, load4, shared_tile, store4

__all__ = [
    "bfloat16_to_float32",
    "device",
    "ex2",
    "float16_to_float32",
    "float32_to_bfloat16",
    "float32_to_float16",
    "global_view",
    "load4",
    "shared_tile",
    "store4",
]
