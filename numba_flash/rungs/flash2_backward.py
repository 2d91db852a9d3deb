"""flash2_backward as the host sees it. The kernel is in numba_flash/kernels/flash2_backward.py."""

from __future__ import annotations

from typing import Any

from numba_flash.arrays import ITEMSIZE, Array, empty
from numba_flash.config import Adds, Device, Piece, Tiles, padded
from numba_flash.problem import AttentionProblem, Operands
from numba_flash.rungs.arguments import (
    choose_tiles,
    kind_of_loads,
    option_bytes,
    read_columns,
    reasons_against,
    score_arguments,
)
from numba_flash.rungs.passes import convert as convert_pass
from numba_flash.rungs.passes import delta as delta_pass
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, count_key_blocks, count_query_blocks
from numba_flash.traffic import Traffic

# As in flash2_forward. A thread's piece of dK and dV is Bc/RG rows high, read in fours where that is a multiple of 4.
KEY_CONFIGS = {
    (4, 32): [
        Tiles(64, 64, 32, 32, 4, 8, full=True),
        Tiles(32, 64, 32, 32, 2, 8),
    ],
    (4, 64): [
        Tiles(64, 64, 64, 64, 4, 8, 2, full=True),
        Tiles(32, 64, 64, 64, 2, 8),
    ],
    (4, 128): [
        Tiles(64, 64, 128, 128, 4, 16, full=True),
        Tiles(32, 32, 128, 128, 4, 16),
        Tiles(16, 32, 128, 128, 2, 16),
    ],
    (4, 256): [
        Tiles(32, 64, 256, 256, 2, 16, full=True),
        Tiles(16, 32, 256, 256, 2, 16, full=True),
        Tiles(16, 32, 256, 256, 1, 16),
        Tiles(8, 16, 256, 256, 2, 16, full=True),
        Tiles(8, 16, 256, 256, 1, 16),
    ],
    (8, 32): [
        Tiles(32, 64, 32, 32, 2, 8, full=True),
        Tiles(16, 64, 32, 32, 1, 8),
    ],
    (8, 64): [
        Tiles(64, 64, 64, 64, 4, 16, full=True),
        Tiles(32, 64, 64, 64, 2, 16),
        Tiles(16, 32, 64, 64, 2, 16),
    ],
    (8, 128): [
        Tiles(32, 64, 128, 128, 2, 16, full=True),
        Tiles(16, 32, 128, 128, 2, 16, full=True),
        Tiles(16, 32, 128, 128, 2, 32),
        Tiles(8, 16, 128, 128, 2, 16, full=True),
        Tiles(8, 16, 128, 128, 1, 16),
    ],
    (8, 256): [
        Tiles(16, 32, 256, 256, 2, 32, full=True),
        Tiles(16, 16, 256, 256, 1, 16),
        Tiles(8, 16, 256, 256, 1, 16),
    ],
}


QUERY_CONFIGS = {
    (4, 32): [
        Tiles(64, 64, 32, 32, 4, 8),
    ],
    (4, 64): [
        Tiles(64, 64, 64, 64, 4, 8, full=True),
        Tiles(64, 32, 64, 64, 4, 8),
    ],
    (4, 128): [
        Tiles(64, 64, 128, 128, 4, 16),
        Tiles(32, 32, 128, 128, 4, 16),
        Tiles(16, 32, 128, 128, 2, 16),
    ],
    (4, 256): [
        Tiles(64, 32, 256, 256, 4, 16),
        Tiles(32, 32, 256, 256, 4, 16),
        Tiles(16, 16, 256, 256, 2, 16),
        Tiles(8, 16, 256, 256, 1, 16),
    ],
    (8, 32): [
        Tiles(64, 32, 32, 32, 4, 8),
        Tiles(32, 32, 32, 32, 2, 8),
    ],
    (8, 64): [
        Tiles(64, 64, 64, 64, 4, 16),
        Tiles(64, 32, 64, 64, 4, 8),
        Tiles(16, 32, 64, 64, 2, 16),
    ],
    (8, 128): [
        Tiles(64, 32, 128, 128, 4, 16),
        Tiles(32, 32, 128, 128, 4, 16),
        Tiles(16, 16, 128, 128, 2, 16),
        Tiles(8, 16, 128, 128, 1, 16),
    ],
    (8, 256): [
        Tiles(32, 16, 256, 256, 4, 16),
        Tiles(16, 16, 256, 256, 2, 16),
        Tiles(8, 16, 256, 256, 1, 16),
    ],
}


def shared_bytes(t: Tiles, itemsize: int) -> int:
    """Kj, Vj, Qi, dOi, and one tile for P or dS; of either kernel."""
    rows = (t.Br + t.Bc) * (padded(t.D, itemsize) + padded(t.DV, itemsize))
    return (rows + t.Br * padded(t.Bc, itemsize)) * itemsize


def pieces(t: Tiles) -> tuple[Piece, Piece, Piece, Piece]:
    """A thread's pieces of S (and dP), dQ, dK and dV."""
    RG, CG = t.RG, t.CG
    height = t.Bc // RG
    keys, values = (Piece(RG, CG, height, width // CG, 4 if height % 4 == 0 else 1, 4) for width in (t.D, t.DV))
    return Piece(RG, CG, t.rows, t.Bc // CG), Piece(RG, CG, t.rows, t.D // CG, V=4), keys, values


def why_not(problem: AttentionProblem, device: Device) -> list[str]:
    """Why these kernels cannot solve the problem on the device; empty if they can."""
    keys = reasons_against(KEY_CONFIGS, shared_bytes, problem, device)
    return keys or reasons_against(QUERY_CONFIGS, shared_bytes, problem, device)


def kind_of_adds(problem: AttentionProblem, device: Device) -> Adds | None:
    """How dQ is summed up in global memory; None where a second kernel computes it.

    That is also where a thread of the first has no registers left for the sum: each of its 16 columns of dQ in float64
    needs an address and a limit, beside those of element loads.
    """
    crowded = problem.real == "float64" and max(problem.d, problem.dv) > 128 and not problem.vector
    if problem.deterministic or crowded:
        return None
    vectors = problem.real == "float32" and problem.d % 4 == 0 and device.compute_capability >= (9, 0)
    return "vectors" if vectors else "scalars"


def kernel_of(part: str, tiles: Tiles, problem: AttentionProblem, variant: tuple[Any, ...]) -> Kernel:
    """One of the two kernels, for its tile sizes."""
    shared = shared_bytes(tiles, ITEMSIZE[problem.real])
    return Kernel("flash2_backward", (tiles, *variant), tiles.threads, shared, tiles.blocks, part)


def launches(problem: AttentionProblem, device: Device, x: Operands, dq: Array, dk: Array, dv: Array) -> list[Launch]:
    """The launches that write dq, dk and dv, contiguous, and their scratch: delta, and dq's sum for 16-bit floats."""
    assert x.do is not None and x.lse is not None
    delta = empty(x.q, (problem.B, problem.Hq, problem.Nq), problem.real)
    key_tiles = choose_tiles(KEY_CONFIGS, shared_bytes, problem, device)
    assert key_tiles is not None  # why_not found some
    variant, adds = (problem.dtype, kind_of_loads(problem, device), problem.score), kind_of_adds(problem, device)
    inputs = (
        x.do, x.do.strides, x.q, x.q.strides, x.k, x.k.strides, x.v, x.v.strides, x.lse, (*x.lse.strides, 0), delta,
    )  # fmt: skip
    tail = score_arguments(problem, x)
    same = problem.dtype == problem.real
    dq_sum = None if adds is None else dq if same else empty(dq, dq.shape, problem.real)
    keys = Launch(
        kernel_of("keys", key_tiles, problem, (*variant, adds)),
        cdiv(problem.Nk, key_tiles.Bc) * problem.B * problem.Hk,
        (*inputs, dq_sum and Written(dq_sum), Written(dk), Written(dv), *tail),
    )
    before = [*delta_pass.launches(problem, x, delta, dq_sum), keys]
    if dq_sum is not None:
        return before if same else [*before, *convert_pass.launches(dq_sum, dq)]
    query_tiles = choose_tiles(QUERY_CONFIGS, shared_bytes, problem, device)
    assert query_tiles is not None
    queries = Launch(
        kernel_of("queries", query_tiles, problem, variant),
        cdiv(problem.Nq, query_tiles.Br) * problem.B * problem.Hq,
        (*inputs, Written(dq), *tail),
    )
    return [*before, queries]


def traffic(problem: AttentionProblem, device: Device) -> Traffic:
    """What all threads of the launches move, without a gradient of LSE. An addition to dQ reads it and writes it."""
    summed = kind_of_adds(problem, device) is not None
    both = delta_pass.traffic(problem, clears=summed) + key_traffic(problem, device)
    if not summed:
        return both + query_traffic(problem, device)
    return both if problem.dtype == problem.real else both + convert_pass.traffic(problem)


def key_traffic(p: AttentionProblem, device: Device) -> Traffic:
    """What the blocks that own keys move: K and V once, Q, dO, LSE and delta in every step, and dQ if it is summed."""
    t = choose_tiles(KEY_CONFIGS, shared_bytes, p, device)
    assert t is not None
    stored, real, group = ITEMSIZE[p.dtype], ITEMSIZE[p.real], p.Hq // p.Hk
    scores, queries, keys, values = pieces(t)
    blocks = p.B * p.Hk * cdiv(p.Nk, t.Bc)
    steps = p.B * p.Hq * count_query_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    slopes, pairs = option_bytes(p.score)
    read = (blocks * t.Bc + steps * t.Br) * sum(read_columns(p, t, device)) * stored
    rows = steps * 2 * t.Br * t.CG * real  # LSE and delta, by every lane of a row
    products = scores.reads(t.D + t.DV) + keys.reads(t.Br) + values.reads(t.Br)
    added = 0
    if kind_of_adds(p, device) is not None:
        products += queries.reads(t.Bc)
        added = steps * t.Br * p.d * real
    return Traffic(
        global_read=read + rows + blocks * group * t.threads * slopes + steps * t.Br * t.Bc * pairs + added,
        global_written=p.B * p.Hk * p.Nk * (p.d + p.dv) * stored + added,
        shared_read=steps * t.threads * products * real,
        shared_written=((blocks * t.Bc + steps * t.Br) * (t.D + t.DV) + steps * 2 * t.Br * t.Bc) * real,
    )


def query_traffic(p: AttentionProblem, device: Device) -> Traffic:
    """What the blocks that own queries move: Q and dO once, K, V, LSE and delta in every step."""
    t = choose_tiles(QUERY_CONFIGS, shared_bytes, p, device)
    assert t is not None
    stored, real, heads = ITEMSIZE[p.dtype], ITEMSIZE[p.real], p.B * p.Hq
    scores, queries, _, _ = pieces(t)
    blocks = heads * cdiv(p.Nq, t.Br)
    steps = heads * count_key_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    slopes, pairs = option_bytes(p.score)
    read = (blocks * t.Br + steps * t.Bc) * sum(read_columns(p, t, device)) * stored
    rows = steps * 2 * t.Br * t.CG * real
    return Traffic(
        global_read=read + rows + blocks * t.threads * slopes + steps * t.Br * t.Bc * pairs,
        global_written=heads * p.Nq * p.d * stored,
        shared_read=steps * t.threads * (scores.reads(t.D + t.DV) + queries.reads(t.Bc)) * real,
        shared_written=((blocks * t.Br + steps * t.Bc) * (t.D + t.DV) + steps * t.Br * t.Bc) * real,
    )
