"""Rows depend on what they see, and on nothing else in memory."""

from dataclasses import replace

import numpy as np
from hypothesis import assume

from numba_flash.testing.strategies import HIDING, OPTIONS

from .agreement import assert_attention, assert_gradients, assert_same, visibility
from .for_all import for_all


def unseen_keys(case, options):
    """(keys that some row cannot see, rows that can see none of these), over all heads; the row is drawn."""
    sees = visibility(case, **options).any(axis=(0, 1))
    keys = ~sees[case.rng().integers(case.Nq)]
    return keys, ~sees[:, keys].any(axis=-1)


LARGEST = {"float16": 65504.0, "bfloat16": 3e38, "float32": 3e38, "float64": 1.7e308}  # products overflow


@for_all(options=OPTIONS - {"hidden_rows"})
def test_unseen_keys_may_hold_anything_finite(backend, case):
    """O, LSE and dQ of the rows that cannot see them stay the same, bit by bit."""
    x, options = case.arrays(), case.options()
    keys, rows = unseen_keys(case, options)
    assume(keys.any())
    kv = [y.copy() for y in (x.k, x.v)]  # lying like those with other keys: other kernels read other layouts
    junk = [np.where(keys[:, None], LARGEST[case.dtype], y.astype(np.float64)).astype(case.dtype) for y in kv]
    clean, dirty = (backend.results(x.do, x.q, *kv, x.dlse, deterministic=True, **options) for kv in (kv, junk))
    for before, after in zip(clean[:3], dirty[:3], strict=True):
        assert_same([before[:, :, rows]], [after[:, :, rows]])


@for_all(options=OPTIONS - HIDING - {"alibi", "bias"})
def test_skipped_blocks_may_hold_nan(backend, case):
    """Keys far outside of a window, to its left and right, are NaN; nobody reads them, and their gradients are 0."""
    case = replace(case, Nq=min(case.Nq, case.Nk), Nk=max(case.Nq, case.Nk))
    x, options = case.arrays(), {**case.options(), "window": (0, case.Nk - case.Nq)}
    far_away = 2 * max(backend.sizes["tiles"])
    gap = np.zeros((case.B, case.Hk, far_away, 1)), np.full((case.B, case.Hk, far_away, 1), np.nan)

    def surrounded(y):
        zeros, nans = (np.broadcast_to(g, (*g.shape[:-1], y.shape[-1])).astype(y.dtype) for g in gap)
        return np.concatenate([nans, zeros, y, zeros, nans], axis=-2)

    k, v = surrounded(x.k), surrounded(x.v)
    far, near = {**options, "q_offset": 2 * far_away}, {**options, "q_offset": 0}
    o, lse, dq, dk, dv = backend.results(x.do, x.q, k, v, x.dlse, **far)
    assert_attention((o, lse), case, x.q, x.k, x.v, **near)
    inner = slice(2 * far_away, 2 * far_away + case.Nk)
    gradients = dq, dk[..., inner, :], dv[..., inner, :]
    assert_gradients(gradients, case, x.do, x.q, x.k, x.v, x.dlse, **near)
    for gradient in (dk, dv):
        assert not np.delete(gradient, inner, axis=-2).any()


@for_all()
def test_rows_that_see_nothing(backend, case):
    """O = 0, LSE = -inf, dQ = 0; keys that nobody sees get gradients of 0."""
    x, options = case.arrays(), case.options()
    if "mask" in backend.options:
        blind = case.rng().random((case.Nq, 1)) < 0.5
        options["mask"] = np.broadcast_to(options.get("mask", True), (case.B, case.Hq, case.Nq, case.Nk)) & ~blind
    else:
        options |= {"causal": True, "q_offset": -int(case.rng().integers(1, case.Nq + 1))}
    sees = visibility(case, **options)
    rows, keys = sees.any(axis=-1), sees.reshape(case.B, case.Hk, -1, case.Nk).any(axis=-2)
    o, lse, dq, dk, dv = backend.results(x.do, x.q, x.k, x.v, x.dlse, **options)
    assert not o[~rows].any() and np.isneginf(lse[~rows]).all() and not dq[~rows].any()
    assert np.isfinite(o.astype(np.float64)).all() and np.isfinite(lse[rows]).all()
    assert not dk[~keys].any() and not dv[~keys].any()
    assert_gradients((dq, dk, dv), case, x.do, x.q, x.k, x.v, x.dlse, **options)
