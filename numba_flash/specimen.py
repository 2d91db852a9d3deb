"""A problem of each operation and the launches that solve it: for looking at kernels rather than at results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numba_flash.arrays import NUMPY, NUMPY_DTYPES, Array, wrap
from numba_flash.config import Device
from numba_flash.ladder import BACKWARD, FORWARD, MATMUL, SOFTMAX, Rung
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.problem import AttentionProblem, Operands, ScoreOptions
from numba_flash.runtime import Launch
from numba_flash.softmax_problem import SoftmaxProblem

ATTENTION = (FORWARD, BACKWARD)
EVERY_OPTION: dict[str, Any] = {
    "softcap": 1.0,
    "score": ScoreOptions(softcap=True, alibi="float32", bias="float32", mask=True),
}


def specimen(operation: str, dtype: str = "float32", *, N: int = 64, d: int = 64, H: int = 1, **more: Any) -> Any:
    """A problem of an operation: H heads of N positions and width d, or a product of two N x N matrices.

    `more` replaces other fields of the problem.
    """
    if operation == MATMUL:
        return MatmulProblem(**{"B": 1, "M": N, "N": N, "K": N, "dtype": dtype, "out_dtype": dtype, **more})
    if operation in ATTENTION:
        sizes = {"B": 1, "Hq": H, "Hk": H, "Nq": N, "Nk": N, "d": d, "dv": d}
        return AttentionProblem(**{**sizes, "dtype": dtype, "scale": d**-0.5, "first": -N, "last": N, **more})
    if operation == SOFTMAX:
        return SoftmaxProblem(**{"B": 1, "M": N, "N": N, "dtype": dtype, **more})
    raise NotImplementedError(f"no specimen of operation {operation!r}")


def specimen_launches(rung: Rung, problem: Any, device: Device) -> list[Launch]:
    """The launches with which a rung solves a problem whose operands are contiguous zeros in host memory."""
    if rung.operation == SOFTMAX:
        x, y = (zeros((problem.B, problem.M, problem.N), problem.dtype) for _ in range(2))
        return rung.load().launches(problem, device, x, y)
    operands, outputs = matmul_arrays(problem) if rung.operation == MATMUL else attention_arrays(rung, problem)
    return rung.load().launches(problem, device, operands, *outputs)


def matmul_arrays(p: MatmulProblem) -> tuple[Sequence[Array], list[Array]]:
    """a and b, and the product's memory."""
    return (zeros((p.B, p.M, p.K), p.dtype), zeros((p.B, p.K, p.N), p.dtype)), [zeros((p.B, p.M, p.N), p.out_dtype)]


def attention_arrays(rung: Rung, p: AttentionProblem) -> tuple[Operands, list[Array]]:
    """The operands of a forward or backward pass, options among them, and its results' memory."""
    rows, pairs = (p.B, p.Hq, p.Nq), (p.B, p.Hq, p.Nq, p.Nk)
    q, k, v = (*rows, p.d), (p.B, p.Hk, p.Nk, p.d), (p.B, p.Hk, p.Nk, p.dv)
    o, lse = (*rows, p.dv), zeros(rows, p.real)
    inputs = {"q": zeros(q, p.dtype), "k": zeros(k, p.dtype), "v": zeros(v, p.dtype)}
    if p.score.bias is not None:
        inputs["bias"] = zeros(pairs, p.score.bias)
    if p.score.mask:
        inputs["mask"] = zeros(pairs, "bool")
    if p.score.alibi is not None:
        inputs["slopes"] = zeros((p.B, p.Hq), p.score.alibi)
    if rung.operation == FORWARD:
        return Operands(**inputs), [zeros(o, p.dtype), lse]
    inputs |= {"do": zeros(o, p.dtype), "o": zeros(o, p.dtype), "lse": lse}
    return Operands(**inputs), [zeros(shape, p.dtype) for shape in (q, k, v)]


def zeros(shape: Sequence[int], dtype: str) -> Array:
    """A contiguous array in host memory, which takes none before it is written."""
    return wrap(np.zeros(tuple(shape), NUMPY_DTYPES[dtype]), NUMPY)
