"""merge as the host sees it. The kernel is in numba_flash/kernels/passes/merge.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.traffic import Traffic

THREADS = 128


def launches(o1: Array, lse1: Array, o2: Array, lse2: Array, o: Array, lse: Array) -> list[Launch]:
    """The launch that writes o (B, N, dv) and lse (B, N), contiguous."""
    B, N, dv = o1.shape
    inputs = [item for x in (o1, lse1, o2, lse2) for item in (x, x.strides)]
    return [
        Launch(Kernel("passes.merge", (o1.dtype, THREADS), THREADS), B * N, (*inputs, Written(o), Written(lse), N, dv))
    ]


def traffic(o: Array, lse: Array) -> Traffic:
    """What all threads move for a result o (B, N, dv), lse (B, N); every thread reads both LSE of its row."""
    (B, N, dv), stored, real = o.shape, ITEMSIZE[o.dtype], ITEMSIZE[lse.dtype]
    return Traffic(
        global_read=B * N * 2 * (dv * stored + THREADS * real),
        global_written=B * N * (dv * stored + real),
    )
