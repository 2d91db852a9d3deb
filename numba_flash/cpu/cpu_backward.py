"""The rung cpu_backward: `flash2_backward` of this folder on a validated problem."""

from __future__ import annotations

from numba_flash.arrays import Array
from numba_flash.cpu.backward import flash2_backward
from numba_flash.cpu.operands import real_array, scoring
from numba_flash.problem import AttentionProblem, Operands


def run(problem: AttentionProblem, x: Operands, dq: Array, dk: Array, dv: Array) -> None:
    """Write dq, dk and dv."""
    assert x.do is not None and x.o is not None and x.lse is not None
    do, q, k, v, o = (real_array(operand, problem) for operand in (x.do, x.q, x.k, x.v, x.o))
    dlse = None if x.dlse is None else x.dlse.data
    gradients = flash2_backward(do, q, k, v, o, x.lse.data, dlse=dlse, **scoring(problem, x))
    for target, gradient in zip((dq, dk, dv), gradients, strict=True):
        target.data[...] = gradient
