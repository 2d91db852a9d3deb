"""Is a result right? The tolerance rule, and the relative error that people quote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numba_flash.arrays import tensor_to_numpy
from numba_flash.testing.tolerance import allowed_error


@dataclass(frozen=True)
class Check:
    """How far a result is from the definition.

    error, allowed : the largest difference, and the largest that the rule of `numba_flash.testing.tolerance` allows,
        of the worst array
    relative_error : ||x - ref|| / ||ref|| of the worst array
    """

    error: float
    allowed: float
    relative_error: float

    @property
    def ok(self) -> bool:
        """NaN is not."""
        return self.error <= self.allowed


def check(results: Sequence[Any], references: Sequence[Any], naive: Sequence[Any], dtype: str) -> Check:
    """The worst of several arrays, each beside the exact one (float64) and the formula's in the same dtype."""
    checks = [check_one(*arrays, dtype) for arrays in zip(results, references, naive, strict=True)]
    worst = max(checks, key=lambda c: c.error / c.allowed if np.isfinite(c.error) else np.inf)
    return Check(worst.error, worst.allowed, max(c.relative_error for c in checks))


def check_one(x: Any, ref: Any, naive: Any, dtype: str) -> Check:
    """One array."""
    difference = np.asarray(x, np.float64) - ref
    error = float(np.abs(difference).max())
    return Check(error, allowed_error(ref, naive, dtype), float(np.linalg.norm(difference) / np.linalg.norm(ref)))


def to_host(x: Any) -> np.ndarray:
    """A NumPy copy of a CuPy array or a torch tensor, or the NumPy array itself."""
    if hasattr(x, "get"):
        return x.get()
    return tensor_to_numpy(x.detach().cpu()) if hasattr(x, "detach") else np.asarray(x)
