"""flash2_forward as the host sees it. The kernel is in numba_flash/kernels/flash2_forward.py."""

from __future__ import annotations

from collections.abc import Sequence

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import Device, Piece, Tiles, padded
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import (
    choose_tiles,
    folds_scale,
    heads_together,
    kind_of_loads,
    option_bytes,
    read_columns,
    reasons_against,
    score_arguments,
)
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, count_key_blocks, key_blocks
from numba_flash.traffic import Traffic

# For each width of arithmetic (4 or 8 bytes) and padded head dimension: tile sizes, fastest first, then ones that
# need less shared memory, or fewer registers than all (`full`).
CONFIGS = {
    (4, 32): [
        Tiles(128, 64, 32, 32, 8, 8, full=True),
        Tiles(128, 32, 32, 32, 8, 8),
    ],
    (4, 64): [
        Tiles(128, 16, 64, 64, 8, 4, 2, full=True),
        Tiles(128, 32, 64, 64, 8, 8),
        Tiles(64, 32, 64, 64, 4, 8),
    ],
    (4, 128): [
        Tiles(128, 32, 128, 128, 4, 4, 2, full=True, tight=True),
        Tiles(128, 32, 128, 128, 8, 16),
        Tiles(64, 32, 128, 128, 4, 8),
        Tiles(32, 32, 128, 128, 4, 16),
    ],
    (4, 256): [
        Tiles(64, 64, 256, 256, 4, 16),
        Tiles(64, 32, 256, 256, 4, 16),
        Tiles(32, 16, 256, 256, 4, 16),
        Tiles(16, 16, 256, 256, 4, 16),
    ],
    (8, 32): [
        Tiles(64, 32, 32, 32, 4, 8),
    ],
    (8, 64): [
        Tiles(128, 64, 64, 64, 4, 8, full=True),
        Tiles(128, 32, 64, 64, 4, 8, full=True),
        Tiles(64, 32, 64, 64, 4, 8, full=True),
        Tiles(32, 32, 64, 64, 4, 16),
    ],
    (8, 128): [
        Tiles(64, 64, 128, 128, 4, 16, full=True, tight=True),
        Tiles(64, 32, 128, 128, 4, 16),
        Tiles(32, 16, 128, 128, 4, 16),
        Tiles(16, 16, 128, 128, 4, 16),
    ],
    (8, 256): [
        Tiles(32, 32, 256, 256, 4, 16),
        Tiles(32, 16, 256, 256, 4, 16),
        Tiles(8, 16, 256, 256, 4, 16),
    ],
}

# A sum of 4096 float32 has a relative error of 1.3e-6, one of 2048 of 0.9e-6. So where the rows of O are sums of more
# than so many on average, the keys are met in several launches, which join their results to those before.
LONGEST_SUM = 3072


def shared_bytes(t: Tiles, itemsize: int) -> int:
    """Qi, Kj, Vj and P, which may lie where Kj lay."""
    rows, keys, wide = padded(t.Br, itemsize), padded(t.Bc, itemsize), padded(t.DV, itemsize)
    k_and_p = max(t.D * keys, t.Bc * rows) if t.tight else t.D * keys + t.Bc * rows
    return (t.D * rows + k_and_p + t.Bc * wide) * itemsize


def pieces(t: Tiles) -> tuple[Piece, Piece]:
    """A thread's pieces of S and of O."""
    columns = t.Bc // t.CG
    return Piece(t.RG, t.CG, t.rows, columns, 4, 4 if columns % 4 == 0 else 1), Piece(
        t.RG, t.CG, t.rows, t.DV // t.CG, 4, 4
    )


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    return reasons_against(CONFIGS, shared_bytes, problem, device)


def launches(problem: AttentionProblem, device: Device, x: Operands, o: Array, lse: Array) -> list[Launch]:
    """The launches that write o (B, Hq, Nq, dv) and lse (B, Hq, Nq), both contiguous."""
    tiles = choose_tiles(CONFIGS, shared_bytes, problem, device)
    assert tiles is not None  # why_not found some
    config = (tiles, problem.dtype, kind_of_loads(problem, device), problem.score, folds_scale(problem))
    shared = shared_bytes(tiles, ITEMSIZE[problem.real])
    kernel = Kernel("flash2_forward", config, tiles.threads, shared, tiles.blocks)
    inputs = (x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides)
    grid = cdiv(problem.Nq, tiles.Br) * problem.B * problem.Hq
    tail = (*score_arguments(problem, x), heads_together(problem, device))
    args = (*inputs, Written(o), Written(lse), *tail)
    return [Launch(kernel, grid, (*args, *blocks)) for blocks in parts_of_keys(problem, tiles)]


def joins_sums(dtype: str) -> bool:
    """Are long sums made in parts? O must hold the parts as they are, and float64 is exact enough."""
    return dtype == "float32"


def parts_of_keys(problem: AttentionProblem, t: Tiles) -> list[tuple[int, int]]:
    """The key blocks [begin, end) of each launch."""
    p, blocks = problem, cdiv(problem.Nk, t.Bc)
    if not joins_sums(p.dtype) or not p.Nq or not blocks:
        return [(0, blocks)]
    met = count_key_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last) * t.Bc
    parts = max(1, cdiv(met, cdiv(p.Nq, t.Br) * LONGEST_SUM))
    size = cdiv(blocks, parts)
    return [(begin, min(begin + size, blocks)) for begin in range(0, blocks, size)]


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads move where N is a multiple of the tiles."""
    t = choose_tiles(CONFIGS, shared_bytes, problem, device)
    assert t is not None
    stored, real, heads = ITEMSIZE[problem.dtype], ITEMSIZE[problem.real], problem.B * problem.Hq
    steps = heads * count_key_blocks(t.Br, t.Bc, problem.Nq, problem.Nk, problem.first, problem.last)
    rows, parts = heads * cdiv(problem.Nq, t.Br), parts_of_keys(problem, t)
    joined = heads * count_joins(problem, t, parts)
    blocks = rows + joined  # that meet keys, or write that there are none
    scores, out = pieces(t)
    d, dv = read_columns(problem, t, device)
    slopes, pairs = option_bytes(problem.score)
    read = blocks * t.Br * d + steps * t.Bc * (d + dv)
    products = scores.reads(t.D) + out.reads(t.Bc)
    written = blocks * t.Br * t.D + steps * (t.Bc * (t.D + t.DV) + t.Br * t.Bc)
    results = t.Br * problem.dv * stored  # of a block, but for LSE: all lanes of a row read one, and one writes it
    return Traffic(
        global_read=read * stored
        + rows * len(parts) * t.threads * slopes
        + steps * t.Br * t.Bc * pairs
        + joined * (results + t.threads * t.rows * real),
        global_written=blocks * (results + t.Br * real),
        shared_read=steps * t.threads * products * real,
        shared_written=written * real,
    )


def count_joins(problem: AttentionProblem, t: Tiles, parts: Sequence[tuple[int, int]]) -> int:
    """How many blocks of later launches meet a key of a head, and so join O to what was there."""
    p = problem
    met = [key_blocks(i, t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last) for i in range(cdiv(p.Nq, t.Br))]
    return sum(max(begin, first) < min(end, last) for begin, end in parts[1:] for first, last in met)
