"""Comparing what a backend gave with the definition, within the tolerance rule."""

import numpy as np

from numba_flash import reference
from numba_flash.testing.layouts import misaligned, padded
from numba_flash.testing.naive import naive_attention, naive_gradients
from numba_flash.testing.tolerance import assert_close


def assert_attention(results, case, q, k, v, **options):
    """o and lse are those of the definition for these operands."""
    exact, naive = reference.attention(q, k, v, **options), naive_attention(q, k, v, **options)
    dtypes = (case.dtype, case.real)
    for out, ref, near, dtype, what in zip(results, exact, naive, dtypes, ("o", "lse"), strict=True):
        assert_close(out, ref, near, dtype, what)


def assert_gradients(gradients, case, do, q, k, v, dlse=None, **options):
    """dq, dk and dv are those of the definition for these operands."""
    exact = reference.attention_vjp(do, q, k, v, dlse, **options)
    naive = naive_gradients(do, q, k, v, dlse, **options)
    for out, ref, near, what in zip(gradients, exact, naive, ("dq", "dk", "dv"), strict=True):
        assert_close(out, ref, near, case.dtype, what)


def assert_same(results, others):
    """The same bits, but for the sign of a zero."""
    for x, y in zip(results, others, strict=True):
        np.testing.assert_array_equal(np.asarray(x, np.float64), np.asarray(y, np.float64), strict=True)


def assert_same_as_copies(call, operands):
    """call(*operands) has the bits that it has for copies of the operands, whose rows start on 16 bytes or do not.

    Which of the two, a kernel's tile sizes may depend on, and they the order of its sums.
    """
    results = call(*operands)
    aligned, others = ([layout(np.array(x)) for x in operands] for layout in (padded, misaligned))
    try:
        assert_same(results, call(*aligned))
    except AssertionError:
        assert_same(results, call(*others))


def visibility(case, **options):
    """(B, Hq, Nq, Nk): may this query see this key?"""
    nothing = np.zeros((case.B, case.Hq, 1, 1))
    s = reference.scores(*(np.broadcast_to(nothing, (case.B, case.Hq, n, 1)) for n in (case.Nq, case.Nk)), **options)
    return np.isfinite(s)
