"""pad as the host sees it. The kernel is in numba_flash/kernels/passes/pad.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

from numba_flash.arrays import ALIGNED, ITEMSIZE, Array, empty
from numba_flash.problem import fits_boxes
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, round_up
from numba_flash.traffic import Traffic

THREADS, ELEMENTS = 256, 1024  # of a block


def launches(x: Array, y: Array) -> list[Launch]:
    """The launch that copies x (B, H, N, d) of any strides to y (B, H, N, D), contiguous, D >= d."""
    _, H, N, D = y.shape
    count = math.prod(y.shape)
    kernel = Kernel("passes.pad", (THREADS, ELEMENTS), THREADS)
    return [Launch(kernel, cdiv(count, ELEMENTS), (x, x.strides, Written(y), (H, N, x.shape[-1], D), count))]


def boxable(tensors: Sequence[Array]) -> tuple[list[Array], list[Launch]]:
    """The same tensors of 16-bit numbers, or where boxes cannot be copied of them, copies; and what makes those."""
    sources, made = list[Array](), list[Launch]()
    for x in tensors:
        source = x
        if not fits_boxes(x):
            source = empty(x, (*x.shape[:-1], round_up(x.shape[-1], ALIGNED // x.itemsize)), x.dtype)
            made += launches(x, source)
        sources.append(source)
    return sources, made


def traffic(x: Array, y: Array) -> Traffic:
    """What all threads move."""
    return Traffic(
        global_read=math.prod(x.shape) * ITEMSIZE[x.dtype], global_written=math.prod(y.shape) * ITEMSIZE[y.dtype]
    )
