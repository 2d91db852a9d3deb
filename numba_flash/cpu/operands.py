"""What the CPU's passes take: NumPy arrays of one dtype of arithmetic, and a problem's options as keywords."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_flash.arrays import Array
from numba_flash.problem import AttentionProblem, Operands


def real_array(x: Array, problem: AttentionProblem) -> np.ndarray:
    """The operand itself, or a float32 copy of a 16-bit one."""
    return x.data.astype(problem.real, copy=False)


def real_distinct(x: Array | None, problem: AttentionProblem) -> np.ndarray | None:
    """A broadcast operand in the dtype of arithmetic, converted before its axes of stride 0 repeat."""
    if x is None or x.dtype == problem.real:
        return None if x is None else x.data
    once = tuple(slice(None) if stride else slice(1) for stride in x.strides)
    return np.broadcast_to(x.data[once].astype(problem.real), x.shape)


def scoring(problem: AttentionProblem, x: Operands) -> dict[str, Any]:
    """The keywords of `flash2_forward` and `flash2_backward` that say how scores are made."""
    return {
        "scale": problem.scale,
        "first": problem.first,
        "last": problem.last,
        "q_offset": problem.q_offset,
        "softcap": problem.softcap,
        "alibi_slopes": real_distinct(x.slopes, problem),
        "bias": real_distinct(x.bias, problem),
        "mask": None if x.mask is None else x.mask.data,
        "score_mod": problem.score.score_mod,
        "mask_mod": problem.score.mask_mod,
    }
