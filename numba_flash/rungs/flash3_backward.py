"""flash3_backward as the host sees it. The kernel is in numba_flash/kernels/flash3_backward.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

from numba_flash.arrays import Array, empty
from numba_flash.config import (
    BARRIER_BYTES,
    PANEL,
    ROW_BYTES,
    WARPGROUP_ROWS,
    Device,
    WarpgroupGradientTiles,
)
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import (
    grid_reasons,
    keys_together,
    kind_of_adds,
    kind_of_stores,
    option_bytes,
    score_arguments,
    wgmma_reasons,
    width_reasons,
)
from numba_flash.rungs.passes import clear, pad
from numba_flash.rungs.passes import collect as collect_pass
from numba_flash.rungs.passes import rows as rows_pass
from numba_flash.runtime import NO_MAP, Kernel, Launch, Written, map_scratch, tensor_map
from numba_flash.tiling import cdiv, count_query_blocks, query_blocks, round_up
from numba_flash.traffic import Traffic

WIDTH, REAL = 2, 4  # bytes of a number in a shared tile and in a sum
ROW_NUMBERS = 2  # LSE and delta, of a query row
ROWS_TOGETHER = ROW_BYTES // (ROW_NUMBERS * REAL)  # so many query rows have theirs in one row of a box
SWIZZLED = 8 * ROW_BYTES  # boxes start on multiples of it
READ_MAPS = 5  # of q, k, v, do and rows; if dk and dv leave in boxes, two more

# By padded head dimension.
CONFIGS = {
    64: [
        WarpgroupGradientTiles(64, 128, 64, 64, stages=3, full=True, direct=True),
        WarpgroupGradientTiles(64, 64, 64, 64, direct=True),
    ],
    128: [WarpgroupGradientTiles(64, 128, 128, 128, full=True), WarpgroupGradientTiles(64, 64, 128, 128, QG=2)],
    256: [WarpgroupGradientTiles(64, 64, 256, 256, QG=2)],
}


def padded(width: int) -> int:
    """The smallest head dimension that kernels are made for and that holds a width."""
    return next(n for n in sorted(CONFIGS) if width <= n)


def tiles_of(problem: AttentionProblem) -> WarpgroupGradientTiles:
    """The tile sizes for a problem: the first, unless those are `full` and its score options are not light."""
    D, DV = padded(problem.d), padded(problem.dv)
    t = next(t for t in CONFIGS[max(D, DV)] if problem.score.light or not t.full)
    least = PANEL * t.QG  # columns of dK and dV are shared in panels
    return replace(t, D=max(D, least), DV=max(DV, least))


def nbytes(t: WarpgroupGradientTiles) -> tuple[int, int, int, int, int, int]:
    """How many bytes of shared memory Kj, Vj, Qi, dOi, the numbers of query rows, and dS take: one of each."""
    rows = round_up(t.Br * ROW_NUMBERS * REAL, SWIZZLED)
    sizes = (t.Bc * t.D, t.Bc * t.DV, t.Br * t.D, t.Br * t.DV, rows // WIDTH, t.Br * t.Bc)
    K, V, Q, O, row_numbers, dS = (WIDTH * size for size in sizes)
    return K, V, Q, O, row_numbers, dS


def offsets(t: WarpgroupGradientTiles) -> tuple[int, ...]:
    """Where in shared memory Vj, Q, dO, their rows, dS, P and the barriers start; Kj comes first."""
    K, V, Q, O, rows, dS = nbytes(t)
    return tuple(accumulate((K, V, t.stages * Q, t.stages * O, t.stages * rows, 2 * dS, (t.QG > 1) * 2 * dS)))


def barrier_bytes(t: WarpgroupGradientTiles) -> int:
    """A barrier for Kj and one for Vj, of each stage three, and three of each of two turns."""
    return BARRIER_BYTES * (2 + 3 * t.stages + 3 * 2)


def shared_bytes(t: WarpgroupGradientTiles) -> int:
    """All of that, and the block's number."""
    return offsets(t)[-1] + barrier_bytes(t) + clear.NUMBER


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    reasons = wgmma_reasons(device) + width_reasons(problem)
    return reasons + grid_reasons(problem.B * problem.Hk * cdiv(problem.Nk, WARPGROUP_ROWS))


def leaves_in_boxes(problem: AttentionProblem) -> bool:
    """Do rows of dk and dv start on 16 bytes?"""
    return kind_of_stores(problem.d) == kind_of_stores(problem.dv) == "chunks"


def in_rows(x: Array) -> Array:
    """(B, Hq, Mq, 2), contiguous, as rows of 128 bytes each: what boxes are made of."""
    B, Hq, Mq, n = x.shape
    return x.strided((B, Hq, Mq // ROWS_TOGETHER, ROWS_TOGETHER * n), (Hq * Mq * n, Mq * n, ROWS_TOGETHER * n, 1))


def launches(problem: AttentionProblem, device: Device, x: Operands, dq: Array, dk: Array, dv: Array) -> list[Launch]:
    """The launches that write dq (B, Hq, Nq, d), dk (B, Hk, Nk, d) and dv (B, Hk, Nk, dv), all contiguous."""
    t, adds, boxed = tiles_of(problem), kind_of_adds(device), leaves_in_boxes(problem)
    filled = problem.B, problem.Hq, round_up(problem.Nq, t.Br)
    blocks = problem.B * problem.Hk * cdiv(problem.Nk, t.Bc)
    rows, dq_sums = empty(x.q, (*filled, ROW_NUMBERS), problem.real), empty(x.q, (*filled, t.D), problem.real)
    assert x.do is not None
    (do, q, k, v), made = pad.boxable((x.do, x.q, x.k, x.v))
    turns, cleared = clear.turn_launches(problem, t, x.q)
    made += [*rows_pass.launches(problem, x, rows, dq_sums), *cleared]
    config = (t, problem.dtype, boxed, problem.score, adds, problem.deterministic)
    kernel = Kernel("flash3_backward", config, t.threads, shared_bytes(t))
    read = (do, tensor_map(do, t.Br), q, tensor_map(q, t.Br), k, tensor_map(k, t.Bc), v, tensor_map(v, t.Bc))
    of_rows = rows, tensor_map(in_rows(rows), t.Br // ROWS_TOGETHER)
    dk_map, dv_map = (tensor_map(a, WARPGROUP_ROWS) if boxed else NO_MAP for a in (dk, dv))
    written = Written(dq_sums), turns, Written(dk), dk_map, Written(dv), dv_map
    maps = Written(map_scratch(x.q, blocks, READ_MAPS + 2 * boxed))
    arguments = (*read, *of_rows, *written, maps, *score_arguments(problem, x), keys_together(problem, device, t.D))
    return [*made, Launch(kernel, blocks, arguments), *collect_pass.launches(problem, t, adds, dq_sums, dq)]


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads of the launches move without a gradient of LSE. An addition to dQ reads it and writes it."""
    t = tiles_of(problem)
    filled = round_up(problem.Nq, t.Br)
    around = rows_pass.traffic(problem, filled, t.D) + collect_pass.traffic(problem, filled, t.D)
    return around + own_traffic(problem, t) + clear.turn_traffic(problem, t)


def own_traffic(p: AttentionProblem, t: WarpgroupGradientTiles) -> Traffic:
    """What the blocks that own keys move: K and V once, Q, dO, rows and dQ in every step."""
    heads, threads, group = p.B * p.Hk, t.adders, p.Hq // p.Hk
    steps = p.B * p.Hq * count_query_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    met = [(keys, rows) for keys, rows in met_queries(p, t) if rows > 0]
    keys, queries, together = (sum(n) for n in zip(*((k, r, k * r) for k, r in met), strict=True)) if met else (0, 0, 0)
    blocks, loaded = heads * cdiv(p.Nk, t.Bc), heads * len(met)  # loaded: those that meet a query
    slopes, pairs = option_bytes(p.score)
    rows, scores, added = t.Br * ROW_NUMBERS * REAL, t.Br * t.Bc * WIDTH, t.Br * t.D * REAL
    shared, width = t.QG > 1, t.D + t.DV
    products = t.consumers * (WARPGROUP_ROWS + t.queries) * width * WIDTH  # of S and dP
    sums = t.KG * t.Br * width * WIDTH + (1 + shared - t.direct) * t.QG * scores  # of dK and dV
    of_dq = t.consumers * (WARPGROUP_ROWS + t.dq_columns) * t.Bc * WIDTH
    lines = 2 * threads * t.queries // 4 * ROW_NUMBERS * REAL
    boxed, tile = leaves_in_boxes(p), t.Bc * width * WIDTH
    maps = blocks * (READ_MAPS + 2 * boxed) * ROW_BYTES
    return Traffic(
        global_read=heads * (keys + group * queries) * (p.d + p.dv) * WIDTH
        + blocks * group * threads * slopes
        + p.B * p.Hq * together * pairs
        + steps * (rows + added),
        global_written=heads * p.Nk * (p.d + p.dv) * WIDTH + steps * added + maps,
        shared_read=steps * (products + sums + of_dq + lines) + boxed * blocks * tile,
        shared_written=(loaded + boxed * blocks) * tile + steps * (t.Br * width * WIDTH + rows + (1 + shared) * scores),
    )


def met_queries(p: AttentionProblem, t: WarpgroupGradientTiles) -> Iterator[tuple[int, int]]:
    """For every key block of a head how many keys it has, and how many query rows the query blocks that it meets."""
    for j in range(cdiv(p.Nk, t.Bc)):
        begin, end = query_blocks(j, t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
        yield min(t.Bc, p.Nk - j * t.Bc), max(min(end * t.Br, p.Nq) - begin * t.Br, 0)
