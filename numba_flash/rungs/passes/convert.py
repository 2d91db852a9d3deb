"""convert as the host sees it. The kernel is in numba_flash/kernels/passes/convert.py."""

from __future__ import annotations

import math

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.problem import AttentionProblem
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

THREADS, ELEMENTS = 256, 1024  # of a block


def launches(x: Array, y: Array) -> list[Launch]:
    """The launch that writes y, both contiguous."""
    count = math.prod(y.shape)
    return [
        Launch(
            Kernel("passes.convert", (y.dtype, THREADS, ELEMENTS), THREADS),
            cdiv(count, ELEMENTS),
            (x, Written(y), count),
        )
    ]


def traffic(problem: AttentionProblem) -> Traffic:
    """What all threads move for dQ."""
    count = problem.B * problem.Hq * problem.Nq * problem.d
    return Traffic(global_read=count * ITEMSIZE[problem.real], global_written=count * ITEMSIZE[problem.dtype])
