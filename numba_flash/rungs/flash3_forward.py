"""flash3_forward as the host sees it. The kernel is in numba_flash/kernels/flash3_forward.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from numba_flash.arrays import ITEMSIZE, Array
from numba_flash.config import (
    BARRIER_BYTES,
    PANEL,
    ROW_BYTES,
    TASK_NUMBERS,
    WARPGROUP,
    WARPGROUP_ROWS,
    Device,
    WarpgroupTiles,
)
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import (
    folds_scale,
    grid_reasons,
    in_equal_groups,
    kind_of_stores,
    option_bytes,
    score_arguments,
    wgmma_reasons,
    width_reasons,
)
from numba_flash.rungs.passes import clear, pad
from numba_flash.runtime import NO_MAP, Kernel, Launch, Written, map_scratch, tensor_map
from numba_flash.tiling import cdiv, count_key_blocks, key_blocks
from numba_flash.traffic import Traffic

WIDTH = 2  # bytes of a number in shared memory
BUSY = 3  # half query blocks for each multiprocessor: of so many, heads start together
MAPS = 3  # of q, k and v; if o leaves in boxes, one more
COUNTER_BYTES, TASK_BYTES = 4, 4 * TASK_NUMBERS

# By padded head dimension.
CONFIGS = {
    64: [
        WarpgroupTiles(192, 128, 64, 64, stages=3, queries=2, full=True),
        WarpgroupTiles(128, 128, 64, 64, stages=3, queries=2, full=True),
        WarpgroupTiles(128, 128, 64, 64, queries=2),
    ],
    96: [
        WarpgroupTiles(192, 96, 96, 96, queries=2, full=True),
        WarpgroupTiles(128, 128, 96, 96, queries=2, full=True),
        WarpgroupTiles(128, 112, 96, 96, queries=2),
    ],
    128: [
        WarpgroupTiles(128, 128, 128, 128, queries=2, full=True),
        WarpgroupTiles(128, 96, 128, 128, queries=2),
    ],
    192: [WarpgroupTiles(128, 96, 192, 192, full=True), WarpgroupTiles(128, 64, 192, 192)],
    256: [WarpgroupTiles(128, 80, 256, 256, full=True), WarpgroupTiles(128, 48, 256, 256)],
}

# How many more pairs of a query and a key tiles compute in a second than those of 128 rows do, by D and rows.
FASTER = {(64, 192): 1.25, (96, 192): 1.07}


def padded(width: int) -> int:
    """The smallest head dimension that kernels are made for and that holds a width."""
    return next(n for n in sorted(CONFIGS) if width <= n)


def tiles_of(problem: AttentionProblem) -> WarpgroupTiles:
    """The tile sizes for a problem: those that are done first, `full` ones only if its score options are light."""
    D, DV = padded(problem.d), padded(problem.dv)
    choices, light = CONFIGS[max(D, DV)], problem.score.light
    usable = [t for t in choices if t.full and light] or [t for t in choices if not t.full] or choices
    return replace(min(usable, key=lambda t: pairs(problem, t) / FASTER.get((t.D, t.Br), 1)), D=D, DV=DV)


def pairs(problem: AttentionProblem, t: WarpgroupTiles) -> int:
    """How many pairs of a query and a key are computed for a head, hidden ones among them."""
    p, packed = problem, heads_packed(problem, t)
    return count_key_blocks(t.Br // packed, t.Bc, p.Nq, p.Nk, p.first, p.last) * t.Br * t.Bc // packed


def shared_bytes(t: WarpgroupTiles) -> int:
    """The slots of Qi, whose place Oi takes, Kj and Vj of every stage, barriers and tasks."""
    q, v = cdiv(t.D, PANEL), cdiv(t.DV, PANEL)
    panels = t.queries * max(q, v) * t.Br + t.stages * (q + v) * t.Bc
    return panels * ROW_BYTES + BARRIER_BYTES * (4 * t.stages + 2 * t.queries) + TASK_BYTES * t.queries


def leaves_in_boxes(problem: AttentionProblem) -> bool:
    """Do rows of o start on 16 bytes?"""
    return kind_of_stores(problem.dv) == "chunks"


def heads_packed(problem: AttentionProblem, t: WarpgroupTiles) -> int:
    """How many query heads that share keys a tile holds: all of a group, if there are few queries of each.

    Each warpgroup needs whole queries, and score options are those of one head.
    """
    group = problem.Hq // problem.Hk
    whole = WARPGROUP_ROWS % group == 0 and leaves_in_boxes(problem)
    return group if whole and folds_scale(problem) and 2 * problem.Nq <= t.Br else 1


def count_work(problem: AttentionProblem, t: WarpgroupTiles) -> int:
    """Query blocks, of all heads or groups of them."""
    packed = heads_packed(problem, t)
    return cdiv(problem.Nq, t.Br // packed) * problem.B * problem.Hq // packed


def takes_by_counter(problem: AttentionProblem, t: WarpgroupTiles, device: Device) -> bool:
    """Does a block take a query block when it has done one? Where some take longer, and there are more than blocks."""
    return count_work(problem, t) > device.multiprocessors and problem.last < problem.Nk - 1


def groups_together(problem: AttentionProblem, device: Device, t: WarpgroupTiles) -> int:
    """Of how many heads (or groups of them) the longest rows start first: as many as keep all multiprocessors busy.

    Of more heads at once, K and V come from memory in bursts; of fewer, too. One head follows another where no row's
    keys end before the last one.
    """
    if problem.last >= problem.Nk:
        return 1
    groups = problem.Hq // problem.Hk // heads_packed(problem, t)  # that share keys
    work = count_work(problem, t) // max(problem.B * problem.Hk, 1)
    return in_equal_groups(problem.B * problem.Hk, cdiv(BUSY * device.multiprocessors // 2, max(work, 1))) * groups


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    reasons = wgmma_reasons(device) + width_reasons(problem)
    return reasons + grid_reasons(problem.B * problem.Hq * cdiv(problem.Nq, WARPGROUP_ROWS))


def launches(problem: AttentionProblem, device: Device, x: Operands, o: Array, lse: Array) -> list[Launch]:
    """The launches that write o (B, Hq, Nq, dv) and lse (B, Hq, Nq), both contiguous."""
    t = tiles_of(problem)
    packed = heads_packed(problem, t)
    (q, k, v), steps = pad.boxable((x.q, x.k, x.v))
    q_map = tensor_map(by_groups(q, packed), packed, t.Br // packed)
    stores = kind_of_stores(problem.dv)
    counter = None
    if counted := takes_by_counter(problem, t, device):
        counter, cleared = clear.launches(x.q, 1)
        steps = steps + cleared
    config = (t, problem.dtype, stores, problem.score, folds_scale(problem), packed, counted)
    kernel = Kernel("flash3_forward", config, t.threads, shared_bytes(t))
    grid = min(count_work(problem, t), device.multiprocessors)
    boxed = leaves_in_boxes(problem)
    o_map = tensor_map(by_groups(o, packed), packed, WARPGROUP_ROWS // packed) if boxed else NO_MAP
    results = (Written(o), o_map, Written(lse), Written(map_scratch(x.q, grid, MAPS + boxed)), counter)
    tail = (*score_arguments(problem, x), groups_together(problem, device, t), problem.B * problem.Hq // packed)
    inputs = (q, q_map, k, tensor_map(k, t.Bc), v, tensor_map(v, t.Bc))
    return [*steps, Launch(kernel, grid, (*inputs, *results, *tail))]


def by_groups(x: Array, packed: int) -> Array:
    """(B, Hq, N, d) as (B, Hq / packed, N, packed, d): each query of a group of heads has a row for each of them."""
    (B, H, N, d), (of_b, of_h, of_n, of_d) = x.shape, x.strides
    return x.strided((B, H // packed, N, packed, d), (of_b, packed * of_h, of_n, of_h, of_d))


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads move, where rows start on 16 bytes."""
    t, p = tiles_of(problem), problem
    heads, work = p.B * p.Hq, count_work(problem, t)
    met, groups = list(met_keys(p, t)), heads // heads_packed(p, t)
    steps = groups * sum(max(cdiv(keys, t.Bc), 1) for _, keys in met)
    keys, pairs_met = (groups * sum(n) for n in zip(*((keys, rows * keys) for rows, keys in met), strict=True))
    q, v = cdiv(t.D, PANEL) * PANEL, cdiv(t.DV, PANEL) * PANEL
    slopes, pairs = option_bytes(p.score)
    boxed = leaves_in_boxes(p)
    blocks, threads = min(work, device.multiprocessors), t.threads - WARPGROUP
    maps = blocks * (MAPS + boxed) * ROW_BYTES
    tickets = work if takes_by_counter(p, t, device) else 0
    return Traffic(
        global_read=(heads * p.Nq * p.d + keys * (p.d + p.dv)) * WIDTH
        + work * threads * slopes
        + pairs_met * pairs
        + tickets * COUNTER_BYTES,
        global_written=heads * p.Nq * (p.dv * WIDTH + ITEMSIZE[p.real])
        + maps
        + (tickets + (tickets > 0)) * COUNTER_BYTES,
        shared_read=steps * (t.Br * t.D + t.consumers * t.Bc * (t.D + t.DV)) * WIDTH
        + boxed * work * t.Br * v * WIDTH
        + (work + blocks) * threads * TASK_BYTES // TASK_NUMBERS,
        shared_written=(work * t.Br * (q + boxed * t.DV) + steps * t.Bc * (q + v)) * WIDTH
        + work * TASK_BYTES
        + blocks * TASK_BYTES // TASK_NUMBERS,
    )


def met_keys(p: AttentionProblem, t: WarpgroupTiles) -> Iterator[tuple[int, int]]:
    """For every query block of a head how many rows it has, and how many keys the key blocks that it meets."""
    queries = t.Br // heads_packed(p, t)
    for i in range(cdiv(p.Nq, queries)):
        begin, end = key_blocks(i, queries, t.Bc, p.Nq, p.Nk, p.first, p.last)
        yield min(queries, p.Nq - i * queries), min(end * t.Bc, p.Nk) - begin * t.Bc
