"""clear as the host sees it. The kernel is in numba_flash/kernels/passes/clear.py."""

from __future__ import annotations

from numba_flash.arrays import Array
from numba_flash.runtime import Kernel, Launch, Written


def launches(counter: Array) -> list[Launch]:
    """The launch that makes a counter 0."""
    return [Launch(Kernel("passes.clear", (), 1), 1, (Written(counter),))]
