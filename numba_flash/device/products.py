"""Products of shared tiles, accumulated in registers: the register tiling that all kernels share.

A block's threads form a grid of row groups times column groups. Thread (rg, cg) owns a TM x TN piece of the result in
a local array (row-major): rows rg + RG*r, so that neighbouring row groups read neighbouring rows, and columns that are
either cg + CG*c (`multiply_abt`) or TN/4 vectors of four at 4*(cg + CG*h). Each operand is read four elements at a
time. All loops have constant trip counts, so the compiler unrolls them and the local array becomes registers.

Beside each factory stands how many shared elements one thread reads in one call, for the cards' traffic.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cuda

from numba_flash.ptx import device, load4


@cache
def make_multiply_abt(RG: int, CG: int, TM: int, TN: int, depth: int):
    """Make multiply_abt(acc, A, B, rg, cg): acc[r, c] += A[row r] . B[row c], A (RG*TM, depth), B (CG*TN, depth)."""

    @device
    def multiply_abt(acc, A, B, rg, cg):
        for x in range(0, depth, 4):
            for c in range(TN):
                b = load4(B, (cg + CG * c, x))
                for r in range(TM):
                    a = load4(A, (rg + RG * r, x))
                    acc[r * TN + c] += a[0] * b[0]
                    acc[r * TN + c] += a[1] * b[1]
                    acc[r * TN + c] += a[2] * b[2]
                    acc[r * TN + c] += a[3] * b[3]

    return multiply_abt


def abt_reads(TM: int, TN: int, depth: int) -> int:
    """Shared elements that a thread of multiply_abt reads: each row of B once, and all its rows of A again for it."""
    return TN * (1 + TM) * depth


@cache
def make_multiply_ab(RG: int, CG: int, TM: int, TN: int, depth: int, real: Any):
    """Make multiply_ab(acc, A, B, rg, cg): acc[r, :] += A[row r] @ B, A (RG*TM, depth), B (depth, CG*TN)."""
    PIECE = 4 * TM  # of A, in registers

    @device
    def multiply_ab(acc, A, B, rg, cg):
        a = cuda.local.array(PIECE, real)
        for x in range(0, depth, 4):
            for r in range(TM):
                a[4 * r], a[4 * r + 1], a[4 * r + 2], a[4 * r + 3] = load4(A, (rg + RG * r, x))
            for y in range(4):
                for h in range(TN // 4):
                    b = load4(B, (x + y, 4 * (cg + CG * h)))
                    for r in range(TM):
                        acc[r * TN + 4 * h] += a[4 * r + y] * b[0]
                        acc[r * TN + 4 * h + 1] += a[4 * r + y] * b[1]
                        acc[r * TN + 4 * h + 2] += a[4 * r + y] * b[2]
                        acc[r * TN + 4 * h + 3] += a[4 * r + y] * b[3]

    return multiply_ab


def ab_reads(TM: int, TN: int, depth: int) -> int:
    """Shared elements that a thread of multiply_ab, or multiply_atb, reads: its rows of A and its columns of B."""
    return (TM + TN) * depth


@cache
def make_multiply_atb(RG: int, CG: int, TM: int, TN: int, depth: int, real: Any):
    """Make multiply_atb(acc, A, B, rg, cg): acc += A.T @ B, A (depth, RG*TM), B (depth, CG*TN).

    Rows of the result come in vectors too: acc's row 4*g + y is row 4*(rg + RG*g) + y.
    """

    @device
    def multiply_atb(acc, A, B, rg, cg):
        a = cuda.local.array(TM, real)
        for x in range(depth):
            for g in range(TM // 4):
                a[4 * g], a[4 * g + 1], a[4 * g + 2], a[4 * g + 3] = load4(A, (x, 4 * (rg + RG * g)))
            for h in range(TN // 4):
                b = load4(B, (x, 4 * (cg + CG * h)))
                for r in range(TM):
                    acc[r * TN + 4 * h] += a[r] * b[0]
                    acc[r * TN + 4 * h + 1] += a[r] * b[1]
                    acc[r * TN + 4 * h + 2] += a[r] * b[2]
                    acc[r * TN + 4 * h + 3] += a[r] * b[3]

    return multiply_atb
