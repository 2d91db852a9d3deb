"""The rung cpu_forward: `flash2_forward` of this folder on a validated problem."""

from __future__ import annotations

from numba_flash.arrays import Array
from numba_flash.cpu.forward import flash2_forward
from numba_flash.cpu.operands import real_array, scoring
from numba_flash.problem import AttentionProblem, Operands


def run(problem: AttentionProblem, x: Operands, o: Array, lse: Array) -> None:
    """Write o (B, Hq, Nq, dv) and lse (B, Hq, Nq)."""
    q, k, v = (real_array(operand, problem) for operand in (x.q, x.k, x.v))
    o.data[...], lse.data[...] = flash2_forward(q, k, v, **scoring(problem, x))
