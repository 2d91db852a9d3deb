r"""How far from the exact result a kernel may be: twice as far as the formula, evaluated naively in the same dtype.

.. math:: \max|out - ref| \le 2 \max|naive - ref| + 2 \max|((ref + 0.3) - 0.3) - ref|

`ref` is `numba_flash.reference` in float64; `naive` is `naive_attention` or `naive_gradients`; the last term, what
rounding alone does to the result, is computed in the output's dtype. There is no other tolerance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_flash.reference import Array


def assert_close(out: Any, ref: Any, naive: Any, dtype: Any, what: str) -> None:
    """Check one result against the rule at the top of this module.

    Parameters
    ----------
    out : array
        The result, whose dtype must be `dtype`.
    ref : array
        The same, exact, in float64. Where it is -inf (LSE of a row that sees nothing), out must be -inf too.
    naive : array
        One or, along axes before ref's, several naive evaluations.
    dtype : dtype or its name
    what : str
        Names the result in the message.

    Raises
    ------
    AssertionError
        if shape or dtype differ, or some element is too far away or NaN; it states the figures
    ValueError
        as `allowed_error`

    Examples
    --------
    >>> from numba_flash import flash_attention, reference
    >>> from numba_flash.testing import naive_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 5, 4)).astype(np.float16)
    >>> o, lse = flash_attention(q, k, v, return_lse=True)
    >>> ref_o, ref_lse = reference.attention(q, k, v)
    >>> naive_o, naive_lse = naive_attention(q, k, v)
    >>> assert_close(o, ref_o, naive_o, "float16", "o")
    >>> assert_close(lse, ref_lse, naive_lse, "float32", "lse")
    """
    out, ref, dtype = np.asarray(out), np.asarray(ref, np.float64), np.dtype(dtype)
    if out.shape != ref.shape or out.dtype != dtype:
        raise AssertionError(f"{what} is {out.dtype} {out.shape}, not {dtype} {ref.shape}")
    if out.size == 0:
        return
    allowed = allowed_error(ref, naive, dtype)
    wide = out.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where(wide == ref, 0.0, np.abs(wide - ref))
    error = np.where(np.isnan(error), np.inf, error)
    at = np.unravel_index(error.argmax(), error.shape)
    if not error[at] <= allowed:
        budget = f"2*{largest_difference(naive, ref):.3g} (naive) + 2*{rounding_floor(ref, dtype):.3g} (rounding)"
        place = f"at {tuple(map(int, at))} out is {wide[at]}, ref {ref[at]}"
        raise AssertionError(f"{what}: max|out - ref| = {error[at]:.3g} > {allowed:.3g} = {budget}; {place}")


def allowed_error(ref: Any, naive: Any, dtype: Any) -> float:
    """How far from `ref` a result in `dtype` may be; arguments as in `assert_close`.

    Raises
    ------
    ValueError
        if the naive result or ref's rounding is not finite where ref is: such a case decides nothing
    """
    ref = np.asarray(ref, np.float64)
    allowed = 2 * largest_difference(naive, ref) + 2 * rounding_floor(ref, dtype)
    if not np.isfinite(allowed):
        raise ValueError(f"the result does not fit {np.dtype(dtype)}")
    return allowed


def rounding_floor(ref: Any, dtype: Any) -> float:
    """max|((ref + 0.3) - 0.3) - ref| over ref's finite elements, sum and difference rounded to `dtype`."""
    ref, shift = np.asarray(ref, np.float64), np.asarray(0.3, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return largest_difference(ref.astype(dtype) + shift - shift, ref)


def largest_difference(x: Any, ref: Array) -> float:
    """max|x - ref| where ref is finite; 0 over no elements, NaN if x is NaN somewhere."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.asarray(x, np.float64) - ref)
    return float(difference.max(where=np.broadcast_to(np.isfinite(ref), difference.shape), initial=0.0))
