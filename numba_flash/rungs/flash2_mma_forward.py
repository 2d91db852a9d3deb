"""flash2_mma_forward as the host sees it. The kernel is in numba_flash/kernels/flash2_mma_forward.py."""

from __future__ import annotations

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import LANES, Device, Fragments, Tiles
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import (
    choose_mma_tiles,
    folds_scale,
    heads_together,
    kind_of_parts,
    kind_of_stores,
    mma_reasons,
    option_bytes,
    reasons_against,
    score_arguments,
)
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, count_key_blocks
from numba_flash.traffic import Traffic

WIDTH = 2  # bytes of a number in shared memory

# As in flash2_forward; rows of a thread are two for each 16 of its warp, and four lanes share a row.
CONFIGS = {
    (4, 32): [Tiles(128, 64, 32, 32, 4, 4, 2)],
    (4, 64): [Tiles(64, 96, 64, 64, 4, 4, 3, full=True), Tiles(128, 64, 64, 64, 4, 4, 2)],
    (4, 128): [Tiles(128, 64, 128, 128, 4, 4, 2, full=True, tight=True), Tiles(128, 64, 128, 128, 2, 4)],
    (4, 256): [
        Tiles(128, 128, 256, 256, 2, 4, full=True),
        Tiles(128, 64, 256, 256, 2, 4),
        Tiles(64, 32, 256, 256, 2, 4),
    ],
}


def shared_bytes(t: Tiles, itemsize: int) -> int:
    """Qi, Kj and Vj, in 16 bits whatever the arithmetic."""
    return (t.Br * t.D + t.Bc * (t.D + t.DV)) * WIDTH


def pieces(t: Tiles) -> tuple[Fragments, Fragments]:
    """A thread's pieces of S and of O."""
    return Fragments(t.RG, t.rows, t.Bc // t.CG), Fragments(t.RG, t.rows, t.DV // t.CG)


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    if ITEMSIZE[problem.dtype] != WIDTH:
        return mma_reasons(device)  # the ladder says which dtypes it takes
    return mma_reasons(device) + reasons_against(CONFIGS, shared_bytes, problem, device)


def launches(problem: AttentionProblem, device: Device, x: Operands, o: Array, lse: Array) -> list[Launch]:
    """The launches that write o (B, Hq, Nq, dv) and lse (B, Hq, Nq), both contiguous."""
    tiles = choose_mma_tiles(CONFIGS, shared_bytes, problem, device)
    loads, stores = kind_of_parts(problem, problem.d, problem.dv), kind_of_stores(problem.dv)
    config = (tiles, problem.dtype, loads, stores, problem.score, folds_scale(problem))
    kernel = Kernel("flash2_mma_forward", config, tiles.threads, shared_bytes(tiles, WIDTH), tiles.blocks)
    inputs = (x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides)
    grid = cdiv(problem.Nq, tiles.Br) * problem.B * problem.Hq
    tail = (*score_arguments(problem, x), heads_together(problem, device))
    return [Launch(kernel, grid, (*inputs, Written(o), Written(lse), *tail))]


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads move where N is a multiple of the tiles."""
    t = choose_mma_tiles(CONFIGS, shared_bytes, problem, device)
    heads, warps = problem.B * problem.Hq, t.threads // LANES
    blocks = heads * cdiv(problem.Nq, t.Br)
    steps = heads * count_key_blocks(t.Br, t.Bc, problem.Nq, problem.Nk, problem.first, problem.last)
    copied = kind_of_parts(problem, problem.d, problem.dv) != "elements"
    d, dv = (problem.d, problem.dv) if copied else (t.D, t.DV)
    slopes, pairs = option_bytes(problem.score)
    chunked = kind_of_stores(problem.dv) == "chunks"  # O goes by way of Qi
    return Traffic(
        global_read=(blocks * t.Br * d + steps * t.Bc * (d + dv)) * WIDTH
        + blocks * t.threads * slopes
        + steps * t.Br * t.Bc * pairs,
        global_written=heads * problem.Nq * (problem.dv * WIDTH + ITEMSIZE[problem.real]),
        shared_read=steps * (t.Br * t.D + warps * t.Bc * (t.D + t.DV)) * WIDTH
        + chunked * heads * problem.Nq * problem.dv * WIDTH,
        shared_written=(blocks * t.Br * (t.D + chunked * t.DV) + steps * t.Bc * (t.D + t.DV)) * WIDTH,
    )
