"""Turns at which blocks add to dQ, where its bits are to repeat: numba_flash/device/turns.py."""

from __future__ import annotations

from numba_flash.arrays import Array
from numba_flash.config import LANES, GradientTiles, WarpgroupGradientTiles
from numba_flash.problem import AttentionProblem
from numba_flash.rungs.passes import clear
from numba_flash.runtime import Launch, Written
from numba_flash.tiling import cdiv, count_query_blocks
from numba_flash.traffic import Traffic

NUMBER = 4  # bytes


def count_turns(problem: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles) -> int:
    """How many counters: how many blocks have started, and for every query block how many have added."""
    return 1 + problem.B * problem.Hq * cdiv(problem.Nq, t.Br)


def launches(
    problem: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles, like: Array
) -> tuple[Written | None, list[Launch]]:
    """The counters, at 0: only where they are needed."""
    return clear.launches(like, count_turns(problem, t)) if problem.deterministic else (None, [])


def traffic(p: AttentionProblem, t: GradientTiles | WarpgroupGradientTiles) -> Traffic:
    """What they move: each turn is awaited, and counted."""
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
