"""The definition: softmax attention, its gradient and the merge of partial results, in NumPy float64.

Everything else in this package is measured against this file. It forms the whole score matrix, checks nothing and
knows no tiles; shapes and options are those of `numba_flash.flash_attention`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def softmax(x: Array) -> Array:
    """e^x over its sum along the last axis; a row of -inf gives zeros."""
    e, _ = exponentials(x)
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1.0, total)


def logsumexp(x: Array) -> Array:
    """log(sum(e^x)) along the last axis; -inf for a row of -inf and for an empty one."""
    e, pivot = exponentials(x)
    with np.errstate(divide="ignore"):
        return pivot[..., 0] + np.log(e.sum(axis=-1))


def exponentials(x: Array) -> tuple[Array, Array]:
    """e^(x - pivot) and the pivot, the row's largest number, or 0 where that is -inf; (..., N) and (..., 1)."""
    m = x.max(axis=-1, keepdims=True, initial=-np.inf)
    pivot = np.where(np.isneginf(m), 0.0, m)
    return np.exp(x - pivot), pivot


def expand_heads(x: Array, Hq: int) -> Array:
    """Repeat KV heads so that query head h meets KV head h // (Hq // Hk)."""
    return np.repeat(x, Hq // x.shape[-3], axis=-3)


def visible(Nq: int, Nk: int, causal: bool = False, q_offset: int | None = None, window: Any = None) -> Array:
    """(Nq, Nk) bool: may query i see key j? Query i stands at position i + q_offset (default Nk - Nq)."""
    offset = Nk - Nq if q_offset is None else q_offset
    i, j = np.arange(Nq)[:, None] + offset, np.arange(Nk)
    left, right = (None, None) if window is None else window
    keep = np.ones((Nq, Nk), bool)
    if causal:
        keep &= j <= i
    if left is not None:
        keep &= j >= i - left
    if right is not None:
        keep &= j <= i + right
    return keep


def scores(
    q: Array,
    k: Array,
    *,
    causal: bool = False,
    q_offset: int | None = None,
    window: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    bias: Any = None,
    mask: Any = None,
    score_mod: Any = None,
    mask_mod: Any = None,
) -> Array:
    """S (..., Hq, Nq, Nk): scale*q.k, score_mod, softcap, then ALiBi and bias, then -inf where nothing may be seen."""
    (Hq, Nq, d), Nk = q.shape[-3:], k.shape[-2]
    s = q @ expand_heads(k, Hq).swapaxes(-1, -2) * (1 / math.sqrt(d) if scale is None else scale)
    keep = visible(Nq, Nk, causal, q_offset, window) & np.ones(s.shape, bool)
    if mask is not None:
        keep = keep & mask
    if mask_mod is not None:
        keep = keep & (of_pairs(mask_mod, keep) != 0)
    if score_mod is not None:
        s = of_pairs(score_mod, keep, s)
    if softcap is not None:
        s = softcap * np.tanh(s / softcap)
    if alibi_slopes is not None:
        offset = Nk - Nq if q_offset is None else q_offset
        distance = np.abs(np.arange(Nq)[:, None] + offset - np.arange(Nk))
        s = s - np.asarray(alibi_slopes, np.float64)[..., None, None] * distance
    if bias is not None:
        s = s + np.asarray(bias, np.float64)
    return np.where(keep, s, -np.inf)


def of_pairs(mod: Any, keep: Array, *numbers: Array) -> Array:
    """A mod of every pair that is kept, 0 elsewhere: of `numbers` (..., H, Nq, Nk) and of (b, h, i, j)."""
    made = np.zeros(keep.shape)
    flat = [x.reshape(-1, *keep.shape[-3:]) if keep.ndim > 2 else x[None, None] for x in (made, keep, *numbers)]
    for b, h, i, j in np.argwhere(flat[1]).tolist():
        flat[0][b, h, i, j] = mod(*(float(x[b, h, i, j]) for x in flat[2:]), b, h, i, j)
    return made


def attention(q: Array, k: Array, v: Array, **options: Any) -> tuple[Array, Array]:
    """O = softmax(S) V and LSE = logsumexp(S), in float64.

    Parameters
    ----------
    q, k, v : arrays (..., Hq, Nq, d), (..., Hk, Nk, d), (..., Hk, Nk, dv)
    **options : causal, q_offset, window, scale, softcap, alibi_slopes, bias, mask, score_mod, mask_mod, as in `scores`

    Returns
    -------
    o : (..., Hq, Nq, dv) float64; zeros where a row sees no key
    lse : (..., Hq, Nq) float64; -inf where a row sees no key
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    s = scores(q, k, **options)
    return softmax(s) @ expand_heads(v, q.shape[-3]), logsumexp(s)


def attention_vjp(do: Array, q: Array, k: Array, v: Array, dlse: Any = None, **options: Any) -> tuple[Array, ...]:
    """dQ, dK, dV of sum(do*o) + sum(dlse*lse), in float64.

    With P = softmax(S):  dV = P^T dO,  dP = dO V^T,  dS = P*(dP - rowsum(P*dP) + dLSE); softcap multiplies dS by
    1 - tanh(s/softcap)^2;  dQ = scale dS K,  dK = scale dS^T Q. KV heads sum over their group of query heads.
    """
    do, q, k, v = (np.asarray(x, np.float64) for x in (do, q, k, v))
    Hq, Hk, d = q.shape[-3], k.shape[-3], q.shape[-1]
    scale, softcap, score_mod = options.get("scale"), options.get("softcap"), options.get("score_mod")
    scale = 1 / math.sqrt(d) if scale is None else scale
    ke, ve = expand_heads(k, Hq), expand_heads(v, Hq)
    p = softmax(scores(q, k, **options))
    dp = do @ ve.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
    if dlse is not None:
        ds = ds + p * np.asarray(dlse, np.float64)[..., None]
    s = scale * (q @ ke.swapaxes(-1, -2))
    if score_mod is not None:
        bent = of_pairs(score_mod, p > 0, s)
        ds = ds * of_pairs(derivative_of(score_mod), p > 0, s)
        s = bent
    if softcap is not None:
        ds = ds * (1 - np.tanh(s / softcap) ** 2)

    def sum_group(x: Array) -> Array:
        return x.reshape(*x.shape[:-3], Hk, Hq // Hk, *x.shape[-2:]).sum(axis=-3)

    dq, dk, dv = scale * (ds @ ke), scale * (ds.swapaxes(-1, -2) @ q), p.swapaxes(-1, -2) @ do
    return dq, sum_group(dk), sum_group(dv)


def derivative_of(score_mod: Any) -> Any:
    """d score_mod / d score, by a central difference: exact to about ten digits where the function is smooth."""

    def derivative(score: float, *place: int) -> float:
        step = 6e-6 * max(1.0, abs(score))
        return (score_mod(score + step, *place) - score_mod(score - step, *place)) / (2 * step)

    return derivative


def merge(o1: Array, lse1: Array, o2: Array, lse2: Array) -> tuple[Array, Array]:
    """Attention over two disjoint sets of keys from the attention over each.

    (LSE, O) with this operation is a commutative monoid with identity (-inf, 0): LSE = log(e^lse1 + e^lse2) and
    O = e^(lse1 - LSE) o1 + e^(lse2 - LSE) o2.
    """
    both = np.stack([np.asarray(lse1, np.float64), np.asarray(lse2, np.float64)], axis=-1)
    weights = softmax(both)
    o = weights[..., :1] * np.asarray(o1, np.float64) + weights[..., 1:] * np.asarray(o2, np.float64)
    return o, logsumexp(both)
