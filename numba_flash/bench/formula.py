"""Attention by its formula, score matrix and all: a peer, and the measure of every result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numba_flash.testing.naive import NUDGE

WIDE = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}  # of arithmetic

Stored = Callable[[Any], Any]


class Operands(NamedTuple):
    """Arrays (B, H, N, d)."""

    do: Any
    q: Any
    k: Any
    v: Any

    def astype(self, dtype: str) -> Operands:
        """In another dtype; the same arrays if they have it already."""
        return Operands(*(x.astype(dtype, copy=False) for x in self))


def unchanged(p: Any) -> Any:
    """P or dS as it is."""
    return p


def nudged(p: Any) -> Any:
    """P or dS too large by what `ex2.approx` may be off."""
    return p * (1 + NUDGE * np.finfo(p.dtype).eps).astype(p.dtype)


def rounded(p: Any, dtype: str) -> Any:
    """P or dS rounded to another dtype, as tensor cores take it."""
    return p.astype(dtype).astype(p.dtype)


def probabilities(xp: Any, x: Operands, causal: bool) -> Any:
    """P."""
    p = x.q @ x.k.swapaxes(-1, -2)
    p *= x.q.dtype.type(x.q.shape[-1] ** -0.5)
    if causal:
        p[..., ~xp.tri(x.q.shape[-2], dtype=bool)] = -np.inf
    p -= p.max(axis=-1, keepdims=True)
    xp.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def attention(xp: Any, x: Operands, causal: bool, stored: Stored = unchanged) -> Any:
    """O, from what `stored` makes of P."""
    return stored(probabilities(xp, x, causal)) @ x.v


def gradients(xp: Any, x: Operands, causal: bool, stored: Stored = unchanged) -> tuple[Any, Any, Any]:
    """dQ, dK, dV, from what `stored` makes of P and dS; so rowsum(dO*O) is off as if from a stored O."""
    p = stored(probabilities(xp, x, causal))
    ds = x.do @ x.v.swapaxes(-1, -2)
    ds -= (p * ds).sum(axis=-1, keepdims=True)
    ds *= p
    ds = stored(ds)
    scale = x.q.dtype.type(x.q.shape[-1] ** -0.5)
    return ds @ x.k * scale, ds.swapaxes(-1, -2) @ x.q * scale, p.swapaxes(-1, -2) @ x.do


def softmax(xp: Any, x: Any) -> Any:
    """As one writes it, along the last axis."""
    e = xp.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
