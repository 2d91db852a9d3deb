"""flash2_mma_backward as the host sees it. The kernel is in numba_flash/kernels/flash2_mma_backward.py."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from numba_flash.arrays import ITEMSIZE, Array, empty
from numba_flash.config import LANES, Adds, Device, Fragments, GradientTiles, Tiles, TransposedFragments
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import (
    choose_mma_tiles,
    kind_of_parts,
    mma_reasons,
    option_bytes,
    reasons_against,
    score_arguments,
)
from numba_flash.rungs.passes import collect as collect_pass
from numba_flash.rungs.passes import rows as rows_pass
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, count_key_blocks, count_query_blocks, round_up
from numba_flash.traffic import Traffic

WIDTH, REAL = 2, 4  # bytes of a number in a shared tile and in a sum

# The key is that of flash2_forward. Eight warps share the scores in pieces of 32 keys.
KEY_CONFIGS = {
    (4, 32): [
        GradientTiles(128, 128, 32, 32, 4, 2, full=True),
        GradientTiles(64, 128, 32, 32, 4, 2),
    ],
    (4, 64): [
        GradientTiles(128, 128, 64, 64, 4, 2, full=True),
        GradientTiles(64, 128, 64, 64, 4, 2, full=True),
        GradientTiles(64, 64, 64, 64, 4, 2),
    ],
    (4, 128): [
        GradientTiles(64, 128, 128, 128, 4, 2, full=True),
        GradientTiles(64, 64, 128, 128, 2, 4, stages=1),
    ],
    (4, 256): [
        GradientTiles(64, 64, 256, 256, 2, 4),
        GradientTiles(64, 64, 256, 256, 2, 4, stages=1),
        GradientTiles(32, 32, 256, 256, 2, 2, stages=1),
    ],
}

# As in flash2_mma_forward.
QUERY_CONFIGS = {
    (4, 32): [Tiles(128, 64, 32, 32, 2, 4)],
    (4, 64): [Tiles(128, 64, 64, 64, 2, 4)],
    (4, 128): [
        Tiles(128, 64, 128, 128, 2, 4),
        Tiles(64, 64, 128, 128, 2, 4),
    ],
    (4, 256): [
        Tiles(128, 64, 256, 256, 2, 4, full=True),
        Tiles(128, 32, 256, 256, 2, 4),
        Tiles(64, 64, 256, 256, 2, 4, full=True),
        Tiles(64, 32, 256, 256, 2, 4),
    ],
}


def key_pieces(t: GradientTiles) -> tuple[TransposedFragments, Fragments, Fragments, Fragments, Fragments]:
    """A thread's pieces of S (and dP), of the products that make it, of dK, dV and dQ."""
    rows, height, columns = 8 * t.KG, t.WM // 8, t.WN // 4
    products, keys, values = (Fragments(rows, height, width) for width in (columns, t.D // t.CG, t.DV // t.CG))
    queries = Fragments(t.Br // (t.dq_rows // 8), t.dq_rows // 8, t.dq_step // 4)
    return TransposedFragments(rows, columns, height), products, keys, values, queries


def query_pieces(t: Tiles) -> tuple[Fragments, Fragments]:
    """A thread's pieces of S (and dP) and of dQ."""
    return Fragments(t.RG, t.rows, t.Bc // t.CG), Fragments(t.RG, t.rows, t.D // t.CG)


def offsets(t: GradientTiles) -> tuple[int, ...]:
    """Where in shared memory Vj, Q, dO, rows, P and dS start, and how much there is; Kj comes first."""
    scores, rows = t.Br * t.Bc * WIDTH, t.stages * t.Br
    sizes = (t.Bc * t.D, t.Bc * t.DV, rows * t.D, rows * t.DV)
    return tuple(accumulate((*(WIDTH * size for size in sizes), 2 * REAL * rows, scores, scores)))


def key_shared_bytes(t: GradientTiles, itemsize: int) -> int:
    """In 16 bits whatever the arithmetic, but for LSE and delta of rows."""
    return offsets(t)[-1]


def query_shared_bytes(t: Tiles, itemsize: int) -> int:
    """Qi, dOi, Kj and Vj, in 16 bits whatever the arithmetic."""
    return (t.Br + t.Bc) * (t.D + t.DV) * WIDTH


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why these kernels cannot solve the problem on the device; empty if they can."""
    if ITEMSIZE[problem.dtype] != WIDTH:
        return mma_reasons(device)  # the ladder says which dtypes they take
    keys = reasons_against(KEY_CONFIGS, key_shared_bytes, problem, device)
    return mma_reasons(device) + (keys or reasons_against(QUERY_CONFIGS, query_shared_bytes, problem, device))


def kind_of_adds(problem: AttentionProblem, device: Device) -> Adds | None:
    """How dQ is summed up in global memory; None where a second kernel computes it."""
    if problem.deterministic:
        return None
    return "vectors" if device.compute_capability >= (9, 0) else "scalars"


def launches(problem: AttentionProblem, device: Device, x: Operands, dq: Array, dk: Array, dv: Array) -> list[Launch]:
    """The launches that write dq (B, Hq, Nq, d), dk (B, Hk, Nk, d) and dv (B, Hk, Nk, dv), all contiguous."""
    assert x.do is not None
    t, adds = choose_mma_tiles(KEY_CONFIGS, key_shared_bytes, problem, device), kind_of_adds(problem, device)
    filled = (problem.B, problem.Hq, round_up(problem.Nq, t.Br))
    rows = empty(x.q, (*filled, 2), problem.real)
    dq_sum = None if adds is None else empty(x.q, (*filled, t.D), problem.real)
    loads = kind_of_parts(problem, problem.d, problem.dv)
    variant = (problem.dtype, loads, problem.d % 2 == 0 == problem.dv % 2, problem.score)
    inputs = (x.do, x.do.strides, x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides, rows)
    tail = score_arguments(problem, x)
    shared = key_shared_bytes(t, REAL)
    keys = Launch(
        Kernel("flash2_mma_backward", (t, *variant, adds), t.threads, shared, t.blocks, "keys"),
        cdiv(problem.Nk, t.Bc) * problem.B * problem.Hk,
        (*inputs, dq_sum and Written(dq_sum), Written(dk), Written(dv), *tail),
    )
    before = [*rows_pass.launches(problem, x, rows, dq_sum), keys]
    if dq_sum is None or adds is None:
        return [*before, query_launch(problem, device, variant, (*inputs, Written(dq), *tail, filled[-1]))]
    return [*before, *collect_pass.launches(problem, t, adds, dq_sum, dq)]


def query_launch(
    problem: AttentionProblem, device: Device, variant: tuple[Any, ...], arguments: tuple[Any, ...]
) -> Launch:
    """The launch that computes dQ where it is not a sum over blocks."""
    t = choose_mma_tiles(QUERY_CONFIGS, query_shared_bytes, problem, device)
    shared = query_shared_bytes(t, REAL)
    kernel = Kernel("flash2_mma_backward", (t, *variant), t.threads, shared, t.blocks, "queries")
    return Launch(kernel, cdiv(problem.Nq, t.Br) * problem.B * problem.Hq, arguments)


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads of the launches move where N is a multiple of the tiles, without a gradient of LSE.

    An addition to dQ reads it and writes it.
    """
    t = choose_mma_tiles(KEY_CONFIGS, key_shared_bytes, problem, device)
    both, filled = key_traffic(problem, device, t), round_up(problem.Nq, t.Br)
    if kind_of_adds(problem, device) is None:
        return rows_pass.traffic(problem, filled, 0) + both + query_traffic(problem, device)
    return rows_pass.traffic(problem, filled, t.D) + both + collect_pass.traffic(problem, filled, t.D)


def read_columns(problem: AttentionProblem, t: GradientTiles | Tiles) -> int:
    """How many columns of Q and dO, or of K and V, are read: copies leave out the ones beyond d and dv."""
    copied = kind_of_parts(problem, problem.d, problem.dv) != "elements"
    return problem.d + problem.dv if copied else t.D + t.DV


def key_traffic(p: AttentionProblem, device: Device, t: GradientTiles) -> Traffic:
    """What the blocks that own keys move: K and V once, Q, dO and rows in every step, and dQ if it is summed."""
    blocks = p.B * p.Hk * cdiv(p.Nk, t.Bc)
    heads = blocks * (p.Hq // p.Hk)
    steps = p.B * p.Hq * count_query_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    slopes, pairs = option_bytes(p.score)
    width, rows = t.D + t.DV, 2 * t.Br * REAL
    scores = t.warps * (t.WM + t.WN) * width * WIDTH
    own = t.warps * t.WN * width // t.QG * WIDTH
    other = (t.QG - 1) * (own + t.warps * t.WM * t.WN * 2 * WIDTH)
    read = scores + own + other + t.warps * t.WN * LANES // 4 * 2 * REAL
    added = 0
    if kind_of_adds(p, device) is not None:
        read += t.warps * t.Bc * (t.dq_rows * t.dq_columns // t.dq_step + t.dq_columns) * WIDTH
        added = steps * t.Br * t.D * REAL
    return Traffic(
        global_read=(blocks * t.Bc + steps * t.Br) * read_columns(p, t) * WIDTH
        + steps * rows
        + heads * t.threads * slopes
        + steps * t.Br * t.Bc * pairs
        + added,
        global_written=p.B * p.Hk * p.Nk * (p.d + p.dv) * WIDTH + added,
        shared_read=steps * read,
        shared_written=(blocks * t.Bc + steps * t.Br) * width * WIDTH + steps * (rows + 2 * t.Br * t.Bc * WIDTH),
    )


def query_traffic(p: AttentionProblem, device: Device) -> Traffic:
    """What the blocks that own queries move: Q, dO and rows once, K and V in every step."""
    t = choose_mma_tiles(QUERY_CONFIGS, query_shared_bytes, p, device)
    heads, warps, width = p.B * p.Hq, t.threads // LANES, t.D + t.DV
    blocks = heads * cdiv(p.Nq, t.Br)
    steps = heads * count_key_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    slopes, pairs = option_bytes(p.score)
    return Traffic(
        global_read=(blocks * t.Br + steps * t.Bc) * read_columns(p, t) * WIDTH
        + blocks * (t.Br * 2 * t.CG * REAL + t.threads * slopes)
        + steps * t.Br * t.Bc * pairs,
        global_written=heads * p.Nq * p.d * WIDTH,
        shared_read=steps * (t.Br * width + warps * t.Bc * (width + t.D)) * WIDTH,
        shared_written=(blocks * t.Br + steps * t.Bc) * width * WIDTH,
    )
