"""One softmax problem, validated, with every complaint about the input in one error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numba_flash.arrays import Array, fold_leading
from numba_flash.problem import FLOATS, Reasons, real_of


@dataclass(frozen=True)
class SoftmaxProblem:
    """Y = softmax(X) along the last of three axes (B, M, N), none of them empty: sizes and dtype."""

    B: int
    M: int
    N: int
    dtype: str
    device: int | None = None

    @property
    def rows(self) -> int:
        """How many softmaxes."""
        return self.B * self.M

    @property
    def real(self) -> str:
        """The dtype of arithmetic."""
        return real_of(self.dtype)


@dataclass(frozen=True)
class SoftmaxRequest:
    """A validated call: one problem for each group of rows (see `fold_leading`), each with its (B, M, N) operand."""

    problems: list[tuple[SoftmaxProblem, Array]]
    x: Array  # the result's library, shape, dtype and device


def softmax_request(reasons: Reasons, x: Any) -> SoftmaxRequest:
    """Check a call of `softmax` and fold its operand to three axes; one error with every reason."""
    X = reasons.read("x", x)
    if X is not None and X.dtype not in FLOATS:
        reasons.add(f"x is {X.dtype} (needs one of {', '.join(FLOATS)})", TypeError)
    if X is not None and not X.shape:
        reasons.add("x needs at least one axis")
    reasons.raise_if_any()
    assert X is not None
    if 0 in X.shape:
        return SoftmaxRequest([], X)
    missing = max(0, 3 - len(X.shape))
    folded = fold_leading([X.strided((*[1] * missing, *X.shape), (*[0] * missing, *X.strides))], keep=2)
    problems = []
    for (rows,) in folded:
        assert rows is not None
        B, M, N = rows.shape
        problems.append((SoftmaxProblem(B, M, N, X.dtype, X.device), rows))
    return SoftmaxRequest(problems, X)
