"""pad as the host sees it. The kernel is in numba_flash/kernels/passes/pad.py."""

from __future__ import annotations

import math

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

THREADS, ELEMENTS = 256, 1024  # of a block


def launches(x: Array, y: Array) -> list[Launch]:
    """The launch that copies x (B, H, N, d) of any strides to y (B, H, N, D), contiguous, D >= d."""
    _, H, N, D = y.shape
    count = math.prod(y.shape)
    kernel = Kernel("passes.pad", (THREADS, ELEMENTS), THREADS)
    return [Launch(kernel, cdiv(count, ELEMENTS), (x, x.strides, Written(y), (H, N, x.shape[-1], D), count))]


def traffic(x: Array, y: Array) -> Traffic:
    """What all threads move."""
    return Traffic(
        global_read=math.prod(x.shape) * ITEMSIZE[x.dtype], global_written=math.prod(y.shape) * ITEMSIZE[y.dtype]
    )
