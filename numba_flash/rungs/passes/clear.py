"""clear as the host sees it. The kernel is in numba_flash/kernels/passes/clear.py."""

from __future__ import annotations

from numba_flash.arrays import Array, empty
from numba_flash.config import WARPGROUP
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv


def launches(like: Array, count: int) -> tuple[Written, list[Launch]]:
    """So many counters, where `like` is, and the launch that makes them 0."""
    counters = Written(empty(like, (count,), "float32"))  # for 4 bytes each
    return counters, [Launch(Kernel("passes.clear", (), WARPGROUP), cdiv(count, WARPGROUP), (counters, count))]
