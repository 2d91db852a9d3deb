"""Gradients are derivatives: by their sums, and by finite differences."""

import numpy as np

from numba_flash import reference
from numba_flash.testing.naive import naive_gradients
from numba_flash.testing.strategies import OPTIONS
from numba_flash.testing.tolerance import assert_close

from .for_all import for_all


@for_all(options=OPTIONS - {"softcap"})
def test_rows_of_ds_sum_to_dlse(backend, case):
    """If all keys are the same vector c, then dQ = scale * rowsum(dS) c, and rowsum(dS) is dLSE, or 0 without."""
    x, options = case.arrays(), case.options()
    k = np.broadcast_to(x.k[:, :, :1], x.k.shape)
    dq, _, _ = backend.gradients(x.do, x.q, k, x.v, x.dlse, **options)
    naive_dq, _, _ = naive_gradients(x.do, x.q, k, x.v, x.dlse, **options)
    _, lse = reference.attention(x.q, k, x.v, **options)
    row_sum = np.where(np.isfinite(lse), 0 if x.dlse is None else x.dlse, 0)
    scale = 1 / np.sqrt(case.d) if case.scale is None else case.scale
    ref = scale * row_sum[..., None] * reference.expand_heads(x.k[:, :, :1].astype(np.float64), case.Hq)
    assert_close(dq, ref, naive_dq, case.dtype, "dq")


@for_all(dtypes=("float64",), regimes=("normal",))
def test_directional_derivative(backend, case):
    """(f(x + hu) - f(x - hu)) / 2h is <gradient, u>, as exactly as it is for the definition."""
    x, options, h = case.arrays(), case.options(), 1e-4
    directions = [case.rng().standard_normal(y.shape) for y in (x.q, x.k, x.v)]

    def derivative(attention):
        ahead, behind = (
            attention(*(y + step * u for y, u in zip((x.q, x.k, x.v), directions, strict=True)), **options)
            for step in (h, -h)
        )
        do, dlse = (0 if y is None else y for y in (x.do, x.dlse))
        sees = np.isfinite(ahead[1])
        change = (do * (ahead[0] - behind[0])).sum() + (dlse * np.where(sees, ahead[1], 0)).sum()
        return (change - (dlse * np.where(sees, behind[1], 0)).sum()) / (2 * h)

    def along(gradients):
        return sum((g * u).sum() for g, u in zip(gradients, directions, strict=True))

    operands = (x.do, x.q, x.k, x.v, x.dlse)
    exact = along(reference.attention_vjp(*operands, **options))
    allowed = 2 * abs(derivative(reference.attention) - exact) + 2 * abs(exact + 0.3 - 0.3 - exact)
    found = along(backend.gradients(*operands, **options))
    rounding = np.finfo(np.float64).eps * x.do.size / h
    assert abs(derivative(backend.attention) - found) <= allowed + rounding
