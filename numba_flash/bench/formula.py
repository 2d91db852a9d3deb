"""Attention by its formula, score matrix and all: a peer, and the measure of every result."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba_flash.demo import naive_attention

WIDE = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}  # of arithmetic


class Operands(NamedTuple):
    """Arrays (B, H, N, d)."""

    do: Any
    q: Any
    k: Any
    v: Any

    def astype(self, dtype: str) -> Operands:
        """In another dtype; the same arrays if they have it already."""
        return Operands(*(x.astype(dtype, copy=False) for x in self))


def attention(xp: Any, x: Operands, causal: bool, stored: str = "") -> Any:
    """O, with P rounded to the dtype `stored` before its product with V."""
    o, p = naive_attention(xp, x.q, x.k, x.v, causal)
    return rounded(p, stored) @ x.v if stored else o


def gradients(xp: Any, x: Operands, causal: bool, stored: str = "") -> tuple[Any, Any, Any]:
    """dQ, dK, dV, with P and dS rounded to the dtype `stored` before their products."""
    p = naive_attention(xp, x.q, x.k, x.v, causal)[1]
    ds = x.do @ x.v.swapaxes(-1, -2)
    ds -= (p * ds).sum(axis=-1, keepdims=True)
    ds *= p
    if stored:
        p, ds = rounded(p, stored), rounded(ds, stored)
    scale = x.q.dtype.type(x.q.shape[-1] ** -0.5)
    return ds @ x.k * scale, ds.swapaxes(-1, -2) @ x.q * scale, p.swapaxes(-1, -2) @ x.do


def rounded(x: Any, dtype: str) -> Any:
    """To another dtype and back."""
    return x.astype(dtype).astype(x.dtype)


def softmax(xp: Any, x: Any) -> Any:
    """As one writes it, along the last axis."""
    e = xp.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
