"""The online softmax of a register tile whose rows are spread over the lanes of a warp."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import cuda

from numba_flash.config import Fragments, Piece
from numba_flash.device.exp2 import exp2_float32
from numba_flash.device.number import number
from numba_flash.device.products import make_element
from numba_flash.ptx import device

ALL_LANES = 0xFFFFFFFF
SLACK = np.float32(8)  # P~ is 2^8 at most: far from what float16 can hold


@cache
def make_online_softmax(piece: Piece | Fragments, dtype: str, multiplied: int = 0, lazy: bool = False):
    """Make online_softmax(s, m, l, alpha, unit): s becomes P~; m and l advance; alpha rescales what came before.

    P~ = power(s*unit - m), one multiply-add and the power: `unit` is `number(dtype).nat`, times the scale (positive) if
    that has not been applied yet, and m is the row's largest s in this unit, rounded. So alpha is exactly 1 while the
    maximum stays. A row lives in CG lanes. Each lane's l sums its own columns only, until `make_row_sum`.

    multiplied : of eight powers of float32 so many are computed by multiply-adds
    lazy : m stays while the largest s exceeds it by no more than `SLACK`: alpha is 1 nearly always
    """
    CG, TM, TN = piece.CG, piece.TM, piece.TN
    N = number(dtype)
    ZERO, NEG_INF, power = N.zero, N.neg_inf, N.power
    row_max, at = make_row_max(CG, piece.apart), make_element(piece)

    @device
    def always(m, largest):
        return max(m, largest)

    @device
    def seldom(m, largest):
        return largest if largest > m + SLACK else m

    renewed = seldom if lazy else always

    @device
    def by_instruction(c, x):
        return power(x)

    @device
    def by_either(c, x):
        return exp2_float32(x) if c % 8 < multiplied else power(x)

    power_of = by_either if multiplied else by_instruction

    @device
    def online_softmax(s, m, l, alpha, unit):
        for r in range(TM):
            largest = NEG_INF
            for c in range(TN):
                largest = max(largest, s[at(r, c)])
            m_new = renewed(m[r], row_max(largest) * unit)
            pivot = ZERO if m_new == NEG_INF else m_new  # a row that saw nothing yet: e^(-inf - 0) = 0, not NaN
            alpha[r] = power(m[r] - pivot)
            m[r] = m_new
            l[r] *= alpha[r]
            for c in range(TN):
                s[at(r, c)] = power_of(c, s[at(r, c)] * unit - pivot)
                l[r] += s[at(r, c)]

    return online_softmax


@cache
def make_row_max(CG: int, apart: int = 1):
    """Make row_max(x): the largest x of the CG lanes, `apart` from one another, that share a row."""

    @device
    def row_max(x):
        step = apart
        while step < apart * CG:
            x = max(x, cuda.shfl_xor_sync(ALL_LANES, x, step))
            step *= 2
        return x

    return row_max


@cache
def make_row_sum(CG: int, apart: int = 1):
    """Make row_sum(x): the sum of x over the CG lanes, `apart` from one another, that share a row."""

    @device
    def row_sum(x):
        step = apart
        while step < apart * CG:
            x += cuda.shfl_xor_sync(ALL_LANES, x, step)
            step *= 2
        return x

    return row_sum


@cache
def make_rescale(piece: Piece | Fragments):
    """Make rescale(acc, alpha): every row of an accumulator times its factor."""
    TM, TN, at = piece.TM, piece.TN, make_element(piece)

    @device
    def rescale(acc, alpha):
        for r in range(TM):
            for c in range(TN):
                acc[at(r, c)] *= alpha[r]

    return rescale


@cache
def make_finish(piece: Fragments, dtype: str, packed: int = 1):
    """Make finish(acc, m, l, LSEh, rg, cg, row0, Nq): O = diag(l)^-1 O, and L = m + log(l) is written.

    As `make_online_softmax` leaves them; a row that saw no key gives 0 and -inf. Of so many heads `packed` into the
    tile, each query has a row for each, one behind the other; LSEh is that of the first.
    """
    TM, N = piece.TM, number(dtype)
    ZERO, ONE, NEG_INF, NATS, REAL = N.zero, N.one, N.neg_inf, N.one / N.nat, N.real
    rescale, row_sum = make_rescale(piece), make_row_sum(piece.CG, piece.apart)

    @device
    def finish(acc, m, l, LSEh, rg, cg, row0, Nq):
        for r in range(TM):
            row, h, total = row0 + (rg + 8 * r) // packed, (rg + 8 * r) % packed, row_sum(l[r])
            l[r] = ZERO if total == ZERO else ONE / total
            if cg == 0 and row < Nq:
                LSEh[h * Nq + row] = NEG_INF if total == ZERO else m[r] * NATS + REAL(math.log(total))
        rescale(acc, l)

    return finish


@cache
def make_join(dtype: str):
    """Make join(lse1, lse2): LSE of two disjoint sets of keys together, and the share of either's O in theirs.

    The shares sum to 1, or are both 0 where no key was seen; not e^(lse1 - LSE): that would round LSE first.
    """
    n = number(dtype)
    REAL, ZERO, ONE, NEG_INF, exp = n.real, n.zero, n.one, n.neg_inf, n.exp

    @device
    def join(lse1, lse2):
        m = max(lse1, lse2)
        pivot = ZERO if m == NEG_INF else m
        alpha, beta = exp(lse1 - pivot), exp(lse2 - pivot)
        l = alpha + beta
        share = ZERO if l == ZERO else ONE / l
        return NEG_INF if l == ZERO else m + REAL(math.log(l)), alpha * share, beta * share

    return join
