"""A counter becomes 0.        New here: the blocks of the kernel behind it take their work by the counter.

Paper      none
Grid       (1,)     Threads 1
Shapes     COUNTER (1,) int32
On chip    nothing
Invariant  none
Units      query blocks that have been taken
Edges      none
Traffic    writes 4 bytes
"""

from __future__ import annotations

from functools import cache

from numba.types import int32

from numba_flash.ptx import global_view


@cache
def make_clear():
    """The kernel."""

    def clear(COUNTER):
        global_view(COUNTER, 0, int32)[0] = 0

    return clear
