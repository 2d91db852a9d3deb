"""Lets numba compile the integers of `tiling` where kernels and the CPU path call them: importing this is enough.

It is apart from them because a call that needs no compiler should not import numba.
"""

from __future__ import annotations

from numba import uint32
from numba.extending import intrinsic, overload, register_jitable

from numba_flash import tiling

for function in (
    tiling.cdiv,
    tiling.round_up,
    tiling.sees,
    tiling.seen_keys,
    tiling.key_blocks,
    tiling.key_blocks_around,
    tiling.block_around,
    tiling.query_blocks,
    tiling.longest_first,
    tiling.all_visible,
    tiling.accumulator_place,
    tiling.down_then_right,
    tiling.right_then_down,
    tiling.swizzle,
    tiling.swizzled,
    tiling.grouped,
):
    register_jitable(function)


@intrinsic
def divide(context, a, b):
    def emit(context, builder, signature, args):
        return builder.udiv(*args)

    return uint32(uint32, uint32), emit


@overload(tiling.quotient)
def quotient_in_32_bits(a, b):
    """Without numba's sign and zero, and without the branch between 32 bits and 64 that the compiler would make."""
    return lambda a, b: divide(uint32(a), uint32(b))
