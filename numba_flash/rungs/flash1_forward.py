"""flash1_forward as the host sees it. The kernel is in numba_flash/kernels/flash1_forward.py."""

from __future__ import annotations

from dataclasses import replace

from numba_flash.arrays import ITEMSIZE, Array, empty
from numba_flash.config import Device, Tiles
from numba_flash.problem import AttentionProblem, Operands, visible_pairs
from numba_flash.rungs.arguments import plain_arguments, plain_reasons, plain_tiles, visited_tiles
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv
from numba_flash.traffic import Traffic

# For each width of arithmetic and padded head dimension, line 1: Bc = M / 4D and Br = min(Bc, D), in powers of two.
CONFIGS = {
    (4, 32): Tiles(32, 64, 32, 32, 1, 8),
    (4, 64): Tiles(32, 32, 64, 64, 1, 8),
    (4, 128): Tiles(16, 16, 128, 128, 1, 16),
    (4, 256): Tiles(8, 8, 256, 256, 1, 32),
    (8, 32): Tiles(32, 32, 32, 32, 1, 8),
    (8, 64): Tiles(16, 16, 64, 64, 1, 16),
    (8, 128): Tiles(8, 8, 128, 128, 1, 32),
    (8, 256): Tiles(4, 4, 256, 256, 1, 32),
}


def shared_bytes(t: Tiles, itemsize: int) -> int:
    """Qi, Kj, Vj and P."""
    return ((t.Br + 2 * t.Bc) * (t.D + 1) + t.Br * (t.Bc + 1)) * itemsize


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return plain_reasons(problem, problem.B * problem.Hq)


def launches(problem: AttentionProblem, device: Device, x: Operands, o: Array, lse: Array) -> list[Launch]:
    """The launch that writes o (B, Hq, Nq, dv) and lse (B, Hq, Nq), both contiguous, and l, its scratch."""
    tiles = plain_tiles(CONFIGS, problem)
    kernel = Kernel("flash1_forward", (tiles, problem.dtype), tiles.threads)
    l = empty(x.q, lse.shape, problem.real)
    wide_o = o if o.dtype == problem.real else empty(x.q, o.shape, problem.real)
    inputs = (x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides)
    outputs = (Written(wide_o), Written(o), Written(l), Written(lse))
    return [Launch(kernel, problem.B * problem.Hq, (*inputs, *outputs, *plain_arguments(problem)))]


def traffic(p: AttentionProblem, device: Device) -> Traffic:
    """The card's Traffic in bytes, exact for whole tiles."""
    t, stored, real = plain_tiles(CONFIGS, p), ITEMSIZE[p.dtype], ITEMSIZE[p.real]
    rows, Tc, tiles, both = p.B * p.Hq * p.Nq, cdiv(p.Nk, t.Bc), visited_tiles(p, t), p.d + p.dv
    tile_rows, seeing_rows = tiles * t.Br, visited_tiles(p, replace(t, Br=1))
    first_and_last = Traffic(rows * (p.dv + 3) * real, rows * (p.dv * (real + stored) + 3 * real))
    key_tiles = Traffic(p.B * p.Hq * p.Nk * both * stored, shared_written=p.B * p.Hq * Tc * 2 * t.Bc * t.D * real)
    score_tiles = Traffic(
        tile_rows * (p.d * stored + 2 * t.CG * real) + seeing_rows * p.dv * real,
        seeing_rows * (p.dv + 2) * real,
        (visible_pairs(p) * 2 * p.d + seeing_rows * t.Bc * (1 + 2 * p.dv)) * real,
        tile_rows * (t.D + 2 * t.Bc) * real,
    )
    return first_and_last + key_tiles + score_tiles
