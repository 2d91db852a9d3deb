"""matmul_registers as the host sees it. The kernel is in numba_flash/kernels/matmul_registers.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device, MatmulTiles, Piece, padded
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.rungs.arguments import grid_reasons, kind_of_loads
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

# By bytes of a number, and whether elements are moved four at a time: one at a time needs registers for addresses.
CONFIGS = {
    (2, True): MatmulTiles(128, 256, 16, 8, 16),
    (2, False): MatmulTiles(128, 128, 16, 8, 8),
    (4, True): MatmulTiles(128, 256, 8, 16, 8),
    (4, False): MatmulTiles(128, 128, 16, 8, 8),
    (8, True): MatmulTiles(128, 128, 8, 8, 8),
    (8, False): MatmulTiles(128, 64, 16, 8, 4),
}


def piece_of(t: MatmulTiles) -> Piece:
    """A thread's piece of C."""
    return Piece(t.BM // t.TM, t.BN // t.TN, t.TM, t.TN, U=4, V=4)


def shared_bytes(t: MatmulTiles, itemsize: int) -> int:
    """As and Bs, twice."""
    return 2 * t.BK * (padded(t.BM, itemsize) + padded(t.BN, itemsize)) * itemsize


def why_not(problem: MatmulProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return grid_reasons(grid(problem, tiles_of(problem)))


def tiles_of(problem: MatmulProblem) -> MatmulTiles:
    """The tile sizes for a problem."""
    return CONFIGS[ITEMSIZE[problem.dtype], problem.vector]


def grid(problem: MatmulProblem, t: MatmulTiles) -> int:
    """How many blocks the product takes."""
    return cdiv(problem.M, t.BM) * cdiv(problem.N, t.BN) * problem.B


def launches(problem: MatmulProblem, device: Device, x: Sequence[Array], c: Array) -> list[Launch]:
    """The launch that writes c (B, M, N), contiguous; x holds a and b."""
    a, b = x
    tiles = tiles_of(problem)
    config = (tiles, problem.dtype, problem.out_dtype, kind_of_loads(problem, device))
    kernel = Kernel("matmul_registers", config, tiles.threads, shared_bytes(tiles, ITEMSIZE[problem.real]))
    strides = [(x.strides[0], 0, *x.strides[1:]) for x in (a, b)]
    one = np.dtype(problem.real).type(1)
    args = (a, strides[0], b, strides[1], Written(c), problem.M, problem.N, problem.K, one)
    return [Launch(kernel, grid(problem, tiles), args)]


def traffic(problem: MatmulProblem, device: Device) -> Traffic:
    """What all threads move where M, N and K are multiples of the tiles."""
    t = tiles_of(problem)
    real = 8 if problem.dtype == "float64" else 4
    blocks, steps = grid(problem, t), 2 * cdiv(problem.K, 2 * t.BK)
    tiles = (t.BM + t.BN) * t.BK
    read = cdiv(problem.K, t.BK) if kind_of_loads(problem, device) == "copies" else steps + 1  # copies stop at K
    return Traffic(
        global_read=blocks * read * tiles * ITEMSIZE[problem.dtype],
        global_written=problem.B * problem.M * problem.N * ITEMSIZE[problem.out_dtype],
        shared_read=blocks * steps * t.threads * piece_of(t).reads(t.BK) * real,
        shared_written=blocks * (steps + 1) * tiles * real,
    )
