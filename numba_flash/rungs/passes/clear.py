"""clear as the host sees it. The kernel is in numba_flash/kernels/passes/clear.py."""

from __future__ import annotations

from numba_flash.arrays import Array, empty
from numba_flash.config import LANES, WARPGROUP, GradientTiles, WarpgroupGradientTiles
from numba_flash.problem import AttentionProblem
from numba_flash.runtime import Kernel, Launch, Written
from numba_flash.tiling import cdiv, count_query_blocks
from numba_flash.traffic import Traffic

NUMBER = 4  # bytes of a counter


def launches(like: Array, count: int) -> tuple[Written, list[Launch]]:
    """So many counters, where `like` is, and the launch that makes them 0."""
    counters = Written(empty(like, (count,), "float32"))  # for 4 bytes each
    return counters, [Launch(Kernel("passes.clear", (), WARPGROUP), cdiv(count, WARPGROUP), (counters, count))]


def turn_launches(
    problem: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles, like: Array
) -> tuple[Written | None, list[Launch]]:
    """Counters of turns at dQ (numba_flash/device/turns.py), where its bits are to repeat."""
    return launches(like, count_turns(problem, t)) if problem.deterministic else (None, [])


def count_turns(problem: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles) -> int:
    """How many counters: how many blocks have started, and for every query block how many have added."""
    return 1 + problem.B * problem.Hq * cdiv(problem.Nq, t.Br)


def turn_traffic(p: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles) -> Traffic:
    """What those counters move: a warp awaits each turn, which is counted afterwards."""
    if not p.deterministic:
        return Traffic()
    blocks = p.B * p.Hk * cdiv(p.Nk, t.Bc)
    turns = p.B * p.Hq * count_query_blocks(t.Br, t.Bc, p.Nq, p.Nk, p.first, p.last)
    return Traffic(
        global_read=(blocks + (LANES + 1) * turns) * NUMBER,
        global_written=(count_turns(p, t) + blocks + turns) * NUMBER,
        shared_read=blocks * t.threads * NUMBER,
        shared_written=blocks * NUMBER,
    )
