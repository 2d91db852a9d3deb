"""flash1_backward as the host sees it. The kernel is in numba_flash/kernels/flash1_backward.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array, empty
from numba_flash.config import Device, Tiles
from numba_flash.problem import AttentionProblem, Operands, visible_pairs
from numba_flash.rungs.arguments import (
    plain_arguments,
    plain_reasons,
    plain_tiles,
    strides_of,
    visited_tiles,
)
from numba_flash.rungs.passes import delta as delta_pass
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

# For each width of arithmetic and padded head dimension; four key tiles and two query tiles share the 48 KB.
CONFIGS = {
    (4, 32): Tiles(32, 32, 32, 32, 1, 8),
    (4, 64): Tiles(16, 16, 64, 64, 1, 16),
    (4, 128): Tiles(8, 8, 128, 128, 1, 32),
    (4, 256): Tiles(4, 4, 256, 256, 1, 32),
    (8, 32): Tiles(16, 16, 32, 32, 1, 16),
    (8, 64): Tiles(8, 16, 64, 64, 1, 32),
    (8, 128): Tiles(4, 8, 128, 128, 1, 32),
    (8, 256): Tiles(2, 4, 256, 256, 1, 32),
}


def shared_bytes(t: Tiles, itemsize: int) -> int:
    """Kj, Vj, dKj, dVj, Qi, dOi, P and dS."""
    return ((4 * t.Bc + 2 * t.Br) * (t.D + 1) + 2 * t.Br * (t.Bc + 1)) * itemsize


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why these kernels cannot solve the problem on the device; empty if they can."""
    return plain_reasons(problem, cdiv(problem.B * problem.Hq * problem.Nq, delta_pass.ROWS))


def launches(problem: AttentionProblem, device: Device, x: Operands, dq: Array, dk: Array, dv: Array) -> list[Launch]:
    """The launches that write dq, dk and dv, contiguous, and delta, their scratch."""
    assert x.do is not None and x.lse is not None
    tiles = plain_tiles(CONFIGS, problem)
    kernel = Kernel("flash1_backward", (tiles, problem.dtype), tiles.threads)
    delta = empty(x.q, (problem.B, problem.Hq, problem.Nq), problem.real)
    wide_dq = dq if dq.dtype == problem.real else empty(x.q, dq.shape, problem.real)
    inputs = (
        x.do, x.do.strides, x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides, x.lse, strides_of(x.lse), delta,
    )  # fmt: skip
    outputs = (Written(wide_dq), Written(dq), Written(dk), Written(dv))
    main = Launch(kernel, problem.B * problem.Hk, (*inputs, *outputs, *plain_arguments(problem)))
    return [*delta_pass.launches(problem, x, delta), main]


def traffic(p: AttentionProblem, device: Device) -> Traffic:
    """The card's Traffic in bytes, without dLSE, exact for whole tiles."""
    t, stored, real = plain_tiles(CONFIGS, p), ITEMSIZE[p.dtype], ITEMSIZE[p.real]
    rows, Tc, tiles, both = p.B * p.Hq * p.Nq, cdiv(p.Nk, t.Bc), visited_tiles(p, t), p.d + p.dv
    keys = p.B * p.Hk * p.Nk
    delta = Traffic(rows * 2 * p.dv * stored, rows * real)
    dq = Traffic(rows * p.d * real, rows * p.d * (real + stored))
    key_tiles = Traffic(
        keys * both * stored, keys * both * stored, keys * both * real, p.B * p.Hk * Tc * 4 * t.Bc * t.D * real
    )
    products = visible_pairs(p) * 2 * both + tiles * t.Br * t.Bc * 2 * (p.d + both)  # a number of each operand a term
    score_tiles = Traffic(
        tiles * t.Br * (both * stored + (p.d + 2 * t.CG) * real),
        tiles * t.Br * p.d * real,
        (products + tiles * t.Bc * both) * real,
        tiles * (2 * t.Br * (t.D + t.Bc) + t.Bc * both) * real,
    )
    return delta + dq + key_tiles + score_tiles
