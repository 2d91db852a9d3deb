"""Attention and its gradient evaluated naively: the whole score matrix at once, in the dtype of the inputs.

How far these results are from the exact ones is a kernel's measure (see `allowed_error`). One evaluation can be exact
by luck, above all of a small problem, so there are several, which differ in rounding only.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from numba_flash.mods import Mod, read_mod
from numba_flash.reference import Array, expand_heads, of_pairs, visible

NUDGE = 2  # units in the last place: what `ex2.approx` may be off
STEP = 16  # terms that one `mma` adds to a sum
SLACK = 8
BETWEEN = (
    "score_mod",
    "mask_mod",
    "softcap",
    "alibi_slopes",
    "bias",
    "mask",
)  # what comes between a product and its exponential


@dataclass(frozen=True)
class Evaluation:
    """One of several equally good ways to evaluate the formula.

    reverse : sums run backward
    scale_first : scale*q before the product with k
    from_results : gradients from the rounded O and LSE, as P = e^(S - LSE) and rowsum(dO*O)
    wide : P and dS are not rounded to 16 bits
    base2 : P = 2^(s*unit - m), one multiply-add whose factor may hold the scale; rounded before it is divided by l
    below : m of each row lies below its largest s, by up to `SLACK` powers of 2, as where it seldom changes; so P of a
        row that sees one key alone is rounded too
    terms : how many are added to the sums of a product at once, as in `summed_in_order`; by default as NumPy likes
    nudge : every intermediate result is off by NUDGE, "up", "down" or, with a number as seed, at random
    """

    reverse: bool = False
    scale_first: bool = False
    from_results: bool = False
    wide: bool = False
    base2: bool = False
    below: bool = False
    terms: int | None = None
    nudge: str | int | None = None

    def multiply(self, a: Array, b: Array) -> Array:
        """The matrix product a @ b."""
        if self.terms is not None:
            return summed_in_order(a, b, self.terms)
        return self.rounded(a[..., ::-1] @ b[..., ::-1, :] if self.reverse else a @ b)

    def stored(self, x: Array, dtype: Any) -> Array:
        """P or dS as they enter the next product."""
        return x if self.wide else x.astype(dtype).astype(x.dtype)

    @property
    def nat(self) -> float:
        """What e is a power of: 2, or itself."""
        return math.log2(math.e) if self.base2 else 1

    def pivot(self, s: Array, unit: Any) -> Array:
        """m of each row, (..., 1): its largest s*unit, or below."""
        m = s.max(axis=-1, keepdims=True, initial=-np.inf) * unit
        return m - np.random.default_rng(m.size).uniform(0, SLACK, m.shape).astype(m.dtype) if self.below else m

    def power(self, s: Array, m: Array, unit: Any) -> Array:
        """e^(s - m), or 2^(s*unit - m), where it shows by how much m has been rounded."""
        return np.exp2((s.astype(np.float64) * unit - m).astype(s.dtype)) if self.base2 else np.exp(s - m)

    def rounded(self, x: Array) -> Array:
        """x with the nudge."""
        if self.nudge is None:
            return x
        if isinstance(self.nudge, int):
            seed = (self.nudge, zlib.crc32(x.tobytes()))  # so that no two intermediate results cancel
            signs = 2 * np.random.default_rng(seed).integers(2, size=x.shape) - 1
        else:
            signs = np.array({"up": 1, "down": -1}[self.nudge])
        return x * (1 + signs * NUDGE * np.finfo(x.dtype).eps).astype(x.dtype)


EVALUATIONS = (
    Evaluation(),
    Evaluation(reverse=True, scale_first=True, from_results=True),
    Evaluation(from_results=True, wide=True, nudge="up"),
    Evaluation(from_results=True, wide=True, nudge="down"),
    Evaluation(from_results=True, wide=True, nudge=0),
    Evaluation(reverse=True, scale_first=True, from_results=True, wide=True, nudge=1),
)
AGAIN = tuple(Evaluation(from_results=True, wide=True, nudge=seed) for seed in range(2, 6))
SMALL = 2**15  # elements of operands that are cheap to evaluate again, and may well be exact by luck
IN_ORDER = Evaluation(from_results=True, terms=1)
IN_BASE_2 = tuple(Evaluation(from_results=True, wide=True, base2=True, nudge=seed) for seed in range(2))
ON_TENSOR_CORES = (
    Evaluation(from_results=True, base2=True, terms=STEP),
    Evaluation(from_results=True, base2=True, below=True),
)


def summed_in_order(a: Array, b: Array, terms: int) -> Array:
    """a @ b in a's dtype, so many terms at a time; a sum of several of them is cut off, as on tensor cores."""
    sums = np.zeros((a[..., :0] @ b[..., :0, :]).shape, a.dtype)
    for k in range(0, a.shape[-1], terms):
        left, right = a[..., k : k + terms], b[..., k : k + terms, :]
        sums = sums + left * right if terms == 1 else cut_off(sums + left.astype(np.float64) @ right.astype(np.float64))
    return sums


def cut_off(x: Array) -> Array:
    """x rounded to float32 toward zero."""
    nearest = x.astype(np.float32)
    return np.where(np.abs(nearest) > np.abs(x), np.nextafter(nearest, np.float32(0)), nearest)


def naive_attention(q: Array, k: Array, v: Array, **options: Any) -> tuple[Array, Array]:
    """O and LSE by the formula, in q's dtype; the first axis counts evaluations.

    Arithmetic is float32's for 16-bit inputs, with O rounded to 16 bits, and P too unless an evaluation is `wide`.

    Parameters
    ----------
    q, k, v : arrays (..., Hq, Nq, d), (..., Hk, Nk, d), (..., Hk, Nk, dv)
    **options : causal, q_offset, window, scale, softcap, alibi_slopes, bias, mask, score_mod, mask_mod, as in
        `numba_flash.flash_attention`

    Returns
    -------
    o : array (n, ..., Hq, Nq, dv) of q's dtype
    lse : array (n, ..., Hq, Nq), float32 (float64 for float64)
    """
    results = [evaluate(how, *operands, **options) for how, operands in evaluations(q, k, v)]
    o, lse = np.stack([r.o for r in results]), np.stack([r.lse for r in results])
    return o.astype(q.dtype), lse.astype(real_of(q.dtype))


def naive_gradients(do: Array, q: Array, k: Array, v: Array, dlse: Any = None, **options: Any) -> tuple[Array, ...]:
    """dQ, dK and dV by the formula, in q's dtype; as `naive_attention`, with dS rounded like P."""
    results = [evaluate_gradients(how, do, q, k, v, dlse, **options) for how, (do, q, k, v) in evaluations(do, q, k, v)]
    return tuple(np.stack(gradients).astype(q.dtype) for gradients in zip(*results, strict=True))


def naive_matmul(a: Array, b: Array, out_dtype: Any) -> Array:
    """a @ b in float32 (float64 for float64), rounded to `out_dtype`; the first axis counts evaluations.

    One of them adds up term by term, as a thread does that owns an element: NumPy's sums of sums err less.
    """
    wide = [x.astype(real_of(x.dtype)) for x in (a, b)]
    several = [*evaluations(*wide, stored=a.dtype), (IN_ORDER, wide)]
    return np.stack([how.multiply(*operands) for how, operands in several]).astype(out_dtype)


def naive_softmax(x: Array) -> Array:
    """Softmax along the last axis in float32 (float64 for float64), rounded to x's dtype; as `naive_matmul`."""
    results = []
    for how, (s,) in evaluations(x.astype(real_of(x.dtype))):
        m = s.max(axis=-1, keepdims=True, initial=-np.inf)
        e = how.rounded(np.exp(s - np.where(np.isneginf(m), s.dtype.type(0), m)))
        l = (e[..., ::-1] if how.reverse else e).sum(axis=-1, keepdims=True)
        results.append(how.rounded(np.where(l > 0, e / np.where(l > 0, l, 1), 0)).astype(x.dtype))
    return np.stack(results)


def evaluations(*operands: Array, stored: Any = None) -> list[tuple[Evaluation, Any]]:
    """How to evaluate, and from which operands; `stored` is their dtype if they are wider by now.

    Small ones are evaluated some more times. Kernels compute powers of float32 in base 2, and 16-bit operands may meet
    on tensor cores. Float64 gets an evaluation in the longest double: it shows how far the float64 reference itself is
    off.
    """
    itemsize = np.dtype(operands[0].dtype if stored is None else stored).itemsize
    ways = EVALUATIONS + (AGAIN if sum(x.size for x in operands) <= SMALL else ())
    if itemsize == 8:
        wider = [x.astype(np.longdouble) for x in operands]
        return [*((how, list(operands)) for how in ways), (Evaluation(), wider)]
    ways += IN_BASE_2 + (ON_TENSOR_CORES if itemsize == 2 else ())
    return [(how, list(operands)) for how in ways]


@dataclass(frozen=True)
class Naive:
    """What one evaluation leaves for its gradient: S, P and the score's derivative (..., Hq, Nq, Nk), O and LSE.

    S*unit is in powers of 2 if the evaluation is in base 2, else `unit` is 1 and S in powers of e.
    """

    s: Array
    unit: Any
    p: Array
    derivative: Array
    o: Array
    lse: Array


def real_of(dtype: Any) -> Any:
    """The dtype that arithmetic on `dtype` is done in."""
    return np.float32 if np.dtype(dtype).itemsize < 8 else np.dtype(dtype).type


def factor(q: Array, scale: float | None) -> Any:
    """`scale` or its default, in the dtype of arithmetic."""
    return real_of(q.dtype)(1 / np.sqrt(q.shape[-1]) if scale is None else scale)


def evaluate(how: Evaluation, q: Array, k: Array, v: Array, *, scale: Any = None, **options: Any) -> Naive:
    """S, P, O and LSE, each a whole matrix."""
    stored, real = q.dtype, real_of(q.dtype)
    k, v = (expand_heads(x.astype(real), q.shape[-3]) for x in (k, v))
    nat, by = real(how.nat), factor(q, scale)
    plain = all(options.get(name) is None for name in BETWEEN)
    by, unit = (real(1), by * nat) if how.base2 and plain and by > 0 else (by, nat)
    with np.errstate(all="ignore"):
        s, derivative = naive_scores(how, q.astype(real), k, scale=by, **options)
        m = how.pivot(s, unit)
        e = how.rounded(how.power(s, np.where(np.isneginf(m), real(0), m), unit))
        l = e.sum(axis=-1, keepdims=True)
        p, divisor = np.where(l > 0, e / l, real(0)), np.where(l > 0, l, real(1))
        o = how.multiply(how.stored(e, stored), v) / divisor if how.base2 else how.multiply(how.stored(p, stored), v)
        lse = np.where(l > 0, how.rounded(m / nat + np.log(l)), -np.inf)[..., 0]
    return Naive(s, unit, how.stored(p, stored), derivative, o.astype(stored), lse)


def naive_scores(
    how: Evaluation,
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
) -> tuple[Array, Array]:
    """S, -inf where nothing may be seen, and its derivative by the scaled product, in q's dtype."""
    Nq, Nk, real = q.shape[-2], k.shape[-2], q.dtype.type
    kt, by = k.swapaxes(-1, -2), factor(q, scale)
    s = how.multiply(q * by, kt) if how.scale_first else how.multiply(q, kt) * by
    s, bent = bend(how, s, score_mod)
    t = np.zeros_like(s) if softcap is None else how.rounded(np.tanh(s / real(softcap)))
    s = s if softcap is None else real(softcap) * t
    if alibi_slopes is not None:
        offset = Nk - Nq if q_offset is None else q_offset
        distance = np.abs(np.arange(Nq)[:, None] + offset - np.arange(Nk)).astype(real)
        s = s - np.asarray(alibi_slopes).astype(real)[..., None, None] * distance
    if bias is not None:
        s = s + np.asarray(bias).astype(real)
    keep = visible(Nq, Nk, causal, q_offset, window)
    keep = keep if mask is None else keep & mask
    keep = keep if mask_mod is None else keep & (of_pairs(mask_mod, np.ones(s.shape, bool)) != 0)
    return np.where(keep, how.rounded(s), real(-np.inf)), bent * (1 - t * t)


def bend(how: Evaluation, s: Array, score_mod: Any) -> tuple[Array, Any]:
    """score_mod of every score, and its derivative, in s's dtype."""
    mod = read_mod("score_mod", score_mod, differentiated=True)
    if mod is None:
        return s, 1
    assert isinstance(mod, Mod)
    function, scores = mod.value_and_derivative(s.dtype.name, compiled=False), how.rounded(s)
    flat = scores.reshape(-1, *s.shape[-3:]) if s.ndim > 2 else scores[None, None]
    pairs = [function(x, *place) for place, x in np.ndenumerate(flat)]
    made = np.array(pairs, s.dtype).reshape(*s.shape, 2)
    return how.rounded(made[..., 0]), how.rounded(made[..., 1])


def evaluate_gradients(
    how: Evaluation, do: Array, q: Array, k: Array, v: Array, dlse: Any, **options: Any
) -> tuple[Array, ...]:
    """dQ, dK and dV from whole matrices."""
    Hq, Hk, stored, real = q.shape[-3], k.shape[-3], q.dtype, real_of(q.dtype)
    saved, scale = evaluate(how, q, k, v, **options), factor(q, options.get("scale"))
    q, do, k, v = (x.astype(real) for x in (q, do, expand_heads(k, Hq), expand_heads(v, Hq)))
    dp = how.multiply(do, v.swapaxes(-1, -2))
    p, delta = saved.p, (saved.p * dp).sum(axis=-1, keepdims=True)
    if how.from_results:
        lse = np.where(np.isneginf(saved.lse), np.inf, saved.lse * real(how.nat))[..., None]
        p = how.rounded(how.power(saved.s, lse, saved.unit))
        delta = (do * saved.o.astype(real)).sum(axis=-1, keepdims=True)
    delta = delta if dlse is None else delta - np.asarray(dlse, real)[..., None]
    ds = how.stored(p * (dp - delta) * saved.derivative, stored)

    def sum_group(x: Array) -> Array:
        return x.reshape(*x.shape[:-3], Hk, Hq // Hk, *x.shape[-2:]).sum(axis=-3)

    dq, dk = how.multiply(ds, k) * scale, how.multiply(ds.swapaxes(-1, -2), q) * scale
    dv = how.multiply(p.swapaxes(-1, -2), do)
    return tuple(x.astype(stored) for x in (dq, sum_group(dk), sum_group(dv)))
