"""Lets numba compile the integers of `tiling` where kernels and the CPU path call them: importing this is enough.

It is apart from them because a call that needs no compiler should not import numba.
"""

from __future__ import annotations

from numba.extending import register_jitable

from numba_flash import tiling

for function in (
    tiling.cdiv,
    tiling.round_up,
    tiling.sees,
    tiling.seen_keys,
    tiling.key_blocks,
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
