"""From products q.k to the scores that softmax sees, in place on a tile St (Bc, Br): a row per key, a lane per query.

    s = scale * q.k;   s = score_mod(s);   s = softcap * tanh(s / softcap);   s = s - slope * |i + q_offset - j|
    s = s + bias;   s = -inf  unless  i + first <= j <= i + last  and  mask  and  mask_mod

A step is one pass over the tile, and is skipped where nobody asked for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from numba_flash.cpu.compiling import inner, read_only
from numba_flash.cpu.exponential import tanh
from numba_flash.cpu.mods import Place, address_of, call_tile


class Scoring(NamedTuple):
    """What makes a score of q.k for one query head. Without effect: softcap 0, slope 0, an empty bias, no mod (0)."""

    scale: Any
    softcap: Any
    first: int
    last: int
    q_offset: int
    slope: Any
    bias: Any  # (Nq, Nk)
    mask: Any  # (Nq, Nk) bool
    score_mod: int  # the address of its tile function
    mask_mod: int
    b: int
    h: int
    Nq: int
    Nk: int
    rows: int  # of a tile are queries: 1; keys: 0


def scoring_types(real: types.Float) -> tuple[types.Type, ...]:
    """The numba types of `scoring_arguments`."""
    integer = types.int64
    heads, pairs, flags = read_only(real, 2), read_only(real, 4), read_only(types.boolean, 4)
    return real, real, integer, integer, integer, heads, pairs, flags, integer, integer


def scoring_arguments(
    q, k, *, scale, first, last, q_offset, softcap=None, alibi_slopes=None, bias=None, mask=None, score_mod=None,
    mask_mod=None, differentiated=False,
):  # fmt: skip
    """The scoring of all heads as arguments of a pass: None becomes a value without effect, integers fit 64 bits."""
    B, Hq, Nq, _ = q.shape
    Nk = k.shape[2]
    zero = q.dtype.type(0)
    first, last = (min(max(diagonal, -Nq), Nk) for diagonal in (first, last))
    q_offset = min(max(q_offset, -(2**62)), 2**62)
    slopes = np.broadcast_to(zero, (B, Hq)) if alibi_slopes is None else alibi_slopes
    bias = np.broadcast_to(zero, (B, Hq, 0, 0)) if bias is None else bias
    mask = np.broadcast_to(np.False_, (B, Hq, 0, 0)) if mask is None else mask
    mods = address_of(score_mod, q.dtype, differentiated), address_of(mask_mod, q.dtype)
    return q.dtype.type(scale), q.dtype.type(softcap or 0), first, last, q_offset, slopes, bias, mask, *mods


@inner
def place_of(scoring, row, col):
    """Where the tile whose first query is `row`, first key `col` lies."""
    i0, j0 = (col, row) if scoring.rows else (row, col)  # `exchanged` has both exchanged
    return Place(scoring.b, scoring.h, i0, j0, scoring.Nq - 1, scoring.Nk - 1, scoring.rows)


@inner
def scale_and_modify(St, derivative, scoring, row, col):
    """s = scale * s, then score_mod; its derivative, if it is asked for, to another tile."""
    for c in range(St.shape[0]):
        for r in range(St.shape[1]):
            St[c, r] *= scoring.scale
    if scoring.score_mod != 0:
        call_tile(scoring.score_mod, St, derivative, place_of(scoring, row, col))


@inner
def cap(St, softcap):
    """s = softcap * tanh(s / softcap) if softcap > 0."""
    if softcap > 0:
        for c in range(St.shape[0]):
            for r in range(St.shape[1]):
                St[c, r] = softcap * tanh(St[c, r] / softcap)


@inner
def add_positions(St, slope, distance):
    """s = s - slope * |distance + r - c|."""
    for c in range(St.shape[0]):
        for r in range(St.shape[1]):
            St[c, r] -= slope * St.dtype.type(abs(distance + r - c))


@inner
def add_bias(St, bias, row, col, rows):
    """s = s + bias."""
    for c in range(St.shape[0]):
        for r in range(rows):
            St[c, r] += bias[row + r, col + c]


@inner
def hide_outside_band(St, first, last):
    """s = -inf unless r + first <= c <= r + last."""
    Br = St.shape[1]
    for c in range(St.shape[0]):
        for r in range(min(c - last, Br)):
            St[c, r] = -np.inf
        for r in range(max(0, c - first + 1), Br):
            St[c, r] = -np.inf


@inner
def hide_masked(St, mask, row, col, rows):
    """s = -inf where the mask is False."""
    for c in range(St.shape[0]):
        for r in range(rows):
            if not mask[row + r, col + c]:
                St[c, r] = -np.inf


@inner
def bias_and_hide(St, scoring, row, col, rows):
    """What follows the softcap, for the tile whose first query is `row`, first key `col`; `rows` queries exist."""
    Bc, Br = St.shape
    if scoring.slope != 0:
        add_positions(St, scoring.slope, row + scoring.q_offset - col)
    if scoring.bias.size > 0:
        add_bias(St, scoring.bias, row, col, rows)
    first, last = row + scoring.first - col, row + scoring.last - col
    if Br - 1 + first > 0 or Bc - 1 > last:
        hide_outside_band(St, first, last)
    if scoring.mask.size > 0:
        hide_masked(St, scoring.mask, row, col, rows)
    if scoring.mask_mod != 0:
        call_tile(scoring.mask_mod, St, St, place_of(scoring, row, col))
