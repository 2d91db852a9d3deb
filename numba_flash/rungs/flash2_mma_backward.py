"""flash2_mma_backward as the host sees it. The kernel is in numba_flash/kernels/flash2_mma_backward.py."""

from __future__ import annotations

from itertools import accumulate

from numba_flash.arrays import ITEMSIZE, Array, empty
from numba_flash.config import (
    LANES,
    Device,
    Fragments,
    GradientTiles,
    TransposedFragments,
)
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import (
    choose_mma_tiles,
    keys_together,
    kind_of_adds,
    kind_of_parts,
    mma_reasons,
    option_bytes,
    reasons_against,
    score_arguments,
)
from numba_flash.rungs.passes import clear
from numba_flash.rungs.passes import collect as collect_pass
from numba_flash.rungs.passes import rows as rows_pass
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, count_query_blocks, round_up
from numba_flash.traffic import Traffic

WIDTH, REAL = 2, 4  # bytes of a number in a shared tile and in a sum

# The key is that of flash2_forward. Eight warps share the scores in pieces of 32 keys.
CONFIGS = {
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


def pieces(t: GradientTiles) -> tuple[TransposedFragments, Fragments, Fragments, Fragments, Fragments]:
    """A thread's pieces of S (and dP), of the products that make it, of dK, dV and dQ."""
    rows, height, columns = 8 * t.KG, t.WM // 8, t.WN // 4
    products, keys, values = (Fragments(rows, height, width) for width in (columns, t.D // t.CG, t.DV // t.CG))
    queries = Fragments(t.Br // (t.dq_rows // 8), t.dq_rows // 8, t.dq_step // 4)
    return TransposedFragments(rows, columns, height), products, keys, values, queries


def offsets(t: GradientTiles) -> tuple[int, ...]:
    """Where in shared memory Vj, Q, dO, rows, P and dS start, and how much there is; Kj comes first."""
    scores, rows = t.Br * t.Bc * WIDTH, t.stages * t.Br
    sizes = (t.Bc * t.D, t.Bc * t.DV, rows * t.D, rows * t.DV)
    return tuple(accumulate((*(WIDTH * size for size in sizes), 2 * REAL * rows, scores, scores)))


def shared_bytes(t: GradientTiles, itemsize: int) -> int:
    """In 16 bits whatever the arithmetic, but for LSE and delta of rows; and the block's number."""
    return offsets(t)[-1] + clear.NUMBER


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why this kernel cannot solve the problem on the device; empty if it can."""
    if ITEMSIZE[problem.dtype] != WIDTH:
        return mma_reasons(device)  # the ladder says which dtypes they take
    return mma_reasons(device) + reasons_against(CONFIGS, shared_bytes, problem, device)


def launches(problem: AttentionProblem, device: Device, x: Operands, dq: Array, dk: Array, dv: Array) -> list[Launch]:
    """The launches that write dq (B, Hq, Nq, d), dk (B, Hk, Nk, d) and dv (B, Hk, Nk, dv), all contiguous."""
    t, adds = choose_mma_tiles(CONFIGS, shared_bytes, problem, device), kind_of_adds(device)
    filled = problem.B, problem.Hq, round_up(problem.Nq, t.Br)
    blocks = problem.B * problem.Hk * cdiv(problem.Nk, t.Bc)
    rows, dq_sums = empty(x.q, (*filled, 2), problem.real), empty(x.q, (*filled, t.D), problem.real)
    turns, cleared = clear.turn_launches(problem, t, x.q)
    loads = kind_of_parts(problem, problem.d, problem.dv)
    pairs = problem.d % 2 == 0 == problem.dv % 2
    config = (t, problem.dtype, loads, pairs, problem.score, adds, problem.deterministic)
    kernel = Kernel("flash2_mma_backward", config, t.threads, shared_bytes(t, REAL), t.blocks)
    assert x.do is not None
    inputs = (x.do, x.do.strides, x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides)
    outputs = (Written(dq_sums), turns, Written(dk), Written(dv))
    arguments = (*inputs, rows, *outputs, *score_arguments(problem, x), keys_together(problem, device, t.D))
    made = [*rows_pass.launches(problem, x, rows, dq_sums), *cleared, Launch(kernel, blocks, arguments)]
    return [*made, *collect_pass.launches(problem, t, adds, dq_sums, dq)]


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads of the launches move where N is a multiple of the tiles, without a gradient of LSE.

    An addition to dQ reads it and writes it.
    """
    t = choose_mma_tiles(CONFIGS, shared_bytes, problem, device)
    filled = round_up(problem.Nq, t.Br)
    around = rows_pass.traffic(problem, filled, t.D) + collect_pass.traffic(problem, filled, t.D)
    return around + own_traffic(problem, t) + clear.turn_traffic(problem, t)


def read_columns(problem: AttentionProblem, t: GradientTiles) -> int:
    """How many columns of Q and dO, or of K and V, are read: copies leave out the ones beyond d and dv."""
    copied = kind_of_parts(problem, problem.d, problem.dv) != "elements"
    return problem.d + problem.dv if copied else t.D + t.DV


def own_traffic(p: AttentionProblem, t: GradientTiles) -> Traffic:
    """What the blocks that own keys move: K and V once, Q, dO, rows and dQ in every step."""
    blocks = p.B * p.Hk * cdiv(p.Nk, t.Bc)
    heads = blocks * (p.Hq // p.Hk)
    steps = p.B * p.Hq * count_query_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    slopes, pairs = option_bytes(p.score)
    width, rows = t.D + t.DV, 2 * t.Br * REAL
    scores = t.warps * (t.WM + t.WN) * width * WIDTH
    own = t.warps * t.WN * width // t.QG * WIDTH
    other = (t.QG - 1) * (own + t.warps * t.WM * t.WN * 2 * WIDTH)
    queries = t.warps * t.Bc * (t.dq_rows * t.dq_columns // t.dq_step + t.dq_columns) * WIDTH
    read = scores + own + other + queries + t.warps * t.WN * LANES // 4 * 2 * REAL
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
