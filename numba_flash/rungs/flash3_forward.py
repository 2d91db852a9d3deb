"""flash3_forward as the host sees it. The kernel is in numba_flash/kernels/flash3_forward.py."""

from __future__ import annotations

from dataclasses import replace

from numba_flash.arrays import ALIGNED, ITEMSIZE, Array, empty
from numba_flash.config import PANEL, ROW_BYTES, WARPGROUP, WARPGROUP_ROWS, Device, WarpgroupTiles
from numba_flash.problem import AttentionProblem, Operands, fits_boxes
from numba_flash.rungs.arguments import (
    folds_scale,
    grid_reasons,
    heads_together,
    kind_of_stores,
    option_bytes,
    score_arguments,
    wgmma_reasons,
    width_reasons,
)
from numba_flash.rungs.passes import pad
from numba_flash.runtime import NO_MAP, Kernel, Launch, Written, map_scratch, tensor_map
from numba_flash.tiling import cdiv, count_key_blocks, round_up
from numba_flash.traffic import Traffic

WIDTH = 2  # bytes of a number in shared memory
MAPS = 4
BARRIER_BYTES = 8

# By padded head dimension.
CONFIGS = {
    64: WarpgroupTiles(128, 128, 64, 64, 2),
    96: WarpgroupTiles(128, 128, 96, 96, 2),
    128: WarpgroupTiles(128, 128, 128, 128, 2),
    192: WarpgroupTiles(128, 96, 192, 192, 2),
    256: WarpgroupTiles(128, 80, 256, 256, 2),
}


def padded(width: int) -> int:
    """The smallest head dimension that kernels are made for and that holds a width."""
    return next(n for n in sorted(CONFIGS) if width <= n)


def tiles_of(problem: AttentionProblem) -> WarpgroupTiles:
    """The tile sizes for a problem."""
    D, DV = padded(problem.d), padded(problem.dv)
    return replace(CONFIGS[max(D, DV)], D=D, DV=DV)


def shared_bytes(t: WarpgroupTiles) -> int:
    """Qi, which O takes the place of, Kj and Vj of every stage, and barriers."""
    q, v = cdiv(t.D, PANEL), cdiv(t.DV, PANEL)
    panels = q * t.Br + t.stages * (q + v) * t.Bc
    return panels * ROW_BYTES + BARRIER_BYTES * (4 * t.stages + 2)


def count_work(problem: AttentionProblem, t: WarpgroupTiles) -> int:
    """Query blocks, of all heads."""
    return cdiv(problem.Nq, t.Br) * problem.B * problem.Hq


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    reasons = wgmma_reasons(device) + width_reasons(problem)
    return reasons + grid_reasons(problem.B * problem.Hq * cdiv(problem.Nq, WARPGROUP_ROWS))


def launches(problem: AttentionProblem, device: Device, x: Operands, o: Array, lse: Array) -> list[Launch]:
    """The launches that write o (B, Hq, Nq, dv) and lse (B, Hq, Nq), both contiguous."""
    t, steps = tiles_of(problem), list[Launch]()
    operands = []
    for tensor, rows in ((x.q, t.Br), (x.k, t.Bc), (x.v, t.Bc)):
        source = tensor
        if not fits_boxes(tensor):
            source = empty(x.q, (*tensor.shape[:-1], round_up(tensor.shape[-1], ALIGNED // WIDTH)), tensor.dtype)
            steps += pad.launches(tensor, source)
        operands += [source, tensor_map(source, rows)]
    stores = kind_of_stores(problem.dv)
    config = (t, problem.dtype, stores, problem.score, folds_scale(problem))
    kernel = Kernel("flash3_forward", config, t.threads, shared_bytes(t))
    grid = min(count_work(problem, t), device.multiprocessors)
    o_map = tensor_map(o, WARPGROUP_ROWS) if stores == "chunks" else NO_MAP
    results = (Written(o), o_map, Written(lse), Written(map_scratch(x.q, grid, MAPS)))
    tail = (*score_arguments(problem, x), heads_together(problem, device), problem.B * problem.Hq)
    return [*steps, Launch(kernel, grid, (*operands, *results, *tail))]


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads move where N is a multiple of the tiles and rows start on 16 bytes."""
    t, p = tiles_of(problem), problem
    heads, work = p.B * p.Hq, count_work(problem, t)
    steps = heads * count_key_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    q, v = cdiv(t.D, PANEL) * PANEL, cdiv(t.DV, PANEL) * PANEL
    slopes, pairs = option_bytes(p.score)
    boxed = kind_of_stores(p.dv) == "chunks"
    maps = min(work, device.multiprocessors) * (MAPS - 1 + boxed) * ROW_BYTES
    return Traffic(
        global_read=(heads * p.Nq * p.d + steps * t.Bc * (p.d + p.dv)) * WIDTH
        + work * (t.threads - WARPGROUP) * slopes
        + steps * t.Br * t.Bc * pairs,
        global_written=heads * p.Nq * (p.dv * WIDTH + ITEMSIZE[p.real]) + maps,
        shared_read=steps * (t.Br * t.D + t.consumers * t.Bc * (t.D + t.DV)) * WIDTH + boxed * work * t.Br * v * WIDTH,
        shared_written=(work * t.Br * (q + boxed * v) + steps * t.Bc * (q + v)) * WIDTH,
    )
