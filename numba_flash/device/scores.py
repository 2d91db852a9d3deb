"""From the product q.k to the score that softmax sees: scale, score_mod, softcap, ALiBi, bias, masks, in this order.

Every thread holds a `Piece` of a score tile at (row0, col0).
"""

from __future__ import annotations

from functools import cache

from numba import int32

from numba_flash.config import AnyPiece
from numba_flash.device.mods import make_bend, make_hide_by_mod
from numba_flash.device.number import number
from numba_flash.device.products import make_element, make_rows_and_columns
from numba_flash.device.tiles import clipped
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import device


@device
def strides_within(strides, inside):
    """The row and column strides, for a thread that reads inside the matrix.

    Were they the same in every step, the compiler would keep their multiples, two registers for each row and column of
    a piece, from one step to the next.
    """
    return (strides[2], strides[3]) if inside else (0, 0)


@cache
def make_modify(piece: AnyPiece, score: ScoreOptions, dtype: str, differentiated: bool = False):
    """Make modify(s, derivative, rg, cg, row0, col0, Nq, Nk, scale, softcap, slope, q_offset, bias, ..., b, h).

    It turns products s into scores of head h of batch entry b. Where that bends them it sets `derivative` to that of
    the score by the scaled product; for a score_mod only if `differentiated`. `bias` and `mask` are views of one head,
    each followed by its (batch, head, row, column) strides; pairs beyond Nq or Nk are not read.
    """
    TM, TN = piece.TM, piece.TN
    (row_of, column_of), at = make_rows_and_columns(piece), make_element(piece)
    HEIGHT, WIDTH = piece.RG * TM, piece.CG * TN  # of the tile
    N = number(dtype)
    ONE, NEG_INF, REAL, tanh = N.one, N.neg_inf, N.real, N.tanh
    SOFTCAP, ALIBI, BIAS, MASK = score.softcap, score.alibi is not None, score.bias is not None, score.mask
    BENT = score.score_mod is not None and differentiated  # before the softcap, and `derivative` tells how
    bias_to_real = number(score.bias or dtype).to_real
    bend, hide_by_mod = make_bend(piece, score, dtype, differentiated), make_hide_by_mod(piece, score, dtype)

    @device
    def modify(
        s,
        derivative,
        rg,
        cg,
        row0,
        col0,
        Nq,
        Nk,
        scale,
        softcap,
        slope,
        q_offset,
        bias,
        bias_strides,
        mask,
        mask_strides,
        b,
        h,
    ):
        for x in range(TM * TN):
            s[x] *= scale
        bend(s, derivative, rg, cg, row0, col0, Nq, Nk, b, h)
        if SOFTCAP:
            per_softcap = ONE / softcap
            for x in range(TM * TN):
                t = tanh(s[x] * per_softcap)
                s[x] = softcap * t
                if BENT:
                    derivative[x] *= ONE - t * t
                else:
                    derivative[x] = ONE - t * t
        if ALIBI:
            for r in range(TM):
                for c in range(TN):
                    row, col = row0 + row_of(rg, r), col0 + column_of(cg, c)
                    s[at(r, c)] -= slope * REAL(abs(row + q_offset - col))
        first_row, first_col = row0 + row_of(rg, 0), col0 + column_of(cg, 0)
        height, width = clipped(Nq - first_row, HEIGHT), clipped(Nk - first_col, WIDTH)  # from there on
        inside = min(height, width) > 0
        if BIAS:
            down, across = strides_within(bias_strides, inside)
            start = first_row * bias_strides[2] + first_col * bias_strides[3]
            for r in range(TM):
                for c in range(TN):
                    row, col = row_of(0, r), column_of(0, c)
                    if row < height and col < width:
                        s[at(r, c)] += REAL(bias_to_real(bias[start + row * down + col * across]))
        if MASK:
            down, across = strides_within(mask_strides, inside)
            start = first_row * mask_strides[2] + first_col * mask_strides[3]
            for r in range(TM):
                for c in range(TN):
                    row, col = row_of(0, r), column_of(0, c)
                    if row < height and col < width and mask[start + row * down + col * across] == 0:
                        s[at(r, c)] = NEG_INF
        hide_by_mod(s, derivative, rg, cg, row0, col0, Nq, Nk, b, h)

    return modify


@cache
def make_hide(piece: AnyPiece, dtype: str):
    """Make hide(s, rg, cg, row0, col0, Nk, first, last): -inf where the key is outside the band or beyond Nk."""
    TM, TN = piece.TM, piece.TN
    (row_of, column_of), at = make_rows_and_columns(piece), make_element(piece)
    NEG_INF = number(dtype).neg_inf
    WIDTH = piece.CG * TN  # of the tile

    @device
    def hide(s, rg, cg, row0, col0, Nk, first, last):
        for r in range(TM):
            row = row0 + row_of(rg, r)
            lowest = clipped(row + first - col0, WIDTH)  # columns of the tile
            beyond = clipped(min(row + last + 1, Nk) - col0, WIDTH)
            for c in range(TN):
                col = int32(column_of(cg, c))
                if col < lowest or col >= beyond:
                    s[at(r, c)] = NEG_INF

    return hide


@cache
def make_hide_here(piece: AnyPiece, dtype: str, packed: int = 1):
    """Make hide_here(s, rg, cg, first, last, beyond): -inf in (r, c) unless r + first <= c <= r + last and c < beyond.

    The band and the end of the keys are those of the tile itself: 32 bits hold them. Of so many heads `packed` into the
    tile, each query has a row for each, one behind the other.
    """
    TM, TN, HEIGHT = piece.TM, piece.TN, piece.RG * piece.TM
    (row_of, column_of), at = make_rows_and_columns(piece), make_element(piece)
    NEG_INF = number(dtype).neg_inf

    @device
    def hide_left(s, rg, cg, first):
        for r in range(TM):
            begin = int32(row_of(rg, r) // packed + first - column_of(cg, 0))  # of the lane's columns
            for c in range(TN):
                if column_of(0, c) < begin:
                    s[at(r, c)] = NEG_INF

    @device
    def hide_right(s, rg, cg, last, beyond):
        for r in range(TM):
            end = int32(min(int32(row_of(rg, r) // packed + last + 1), int32(beyond)) - column_of(cg, 0))
            for c in range(TN):
                if column_of(0, c) >= end:
                    s[at(r, c)] = NEG_INF

    @device
    def hide_here(s, rg, cg, first, last, beyond):
        if first + HEIGHT > 1:  # the band begins within the tile for some row: not, if it is causal alone
            hide_left(s, rg, cg, first)
        hide_right(s, rg, cg, last, beyond)

    return hide_here


@cache
def make_slope(score: ScoreOptions, dtype: str):
    """Make slope_of(slopes, at): the ALiBi slope at an element of a view, 0 without ALiBi."""
    ZERO, REAL = number(dtype).zero, number(dtype).real
    ALIBI, to_real = score.alibi is not None, number(score.alibi or dtype).to_real

    @device
    def slope_of(slopes, at):
        return REAL(to_real(slopes[at])) if ALIBI else ZERO

    return slope_of


@cache
def make_gradient(piece: AnyPiece, score: ScoreOptions, dtype: str):
    """Make gradient(s, dp, derivative, rg, row0, Nq, LSE, LSE_strides, delta): s becomes P, dp becomes dS.

    P = e^(s - LSE) and dS = P*(dP - delta), times the `derivative` of a score that bends. Rows beyond Nq and rows that
    saw no key get LSE = +inf here, which makes their P zero.
    """
    TM, TN = piece.TM, piece.TN
    (row_of, _), at = make_rows_and_columns(piece), make_element(piece)
    N = number(dtype)
    ZERO, NEG_INF, POS_INF, exp = N.zero, N.neg_inf, -N.neg_inf, N.exp
    BENDS = score.bends

    @device
    def gradient(s, dp, derivative, rg, row0, Nq, LSE, LSE_strides, delta):
        for r in range(TM):
            row = row0 + row_of(rg, r)
            exists = row < Nq
            lse = LSE[row * LSE_strides[2] if exists else 0]
            delta_row = delta[row if exists else 0] if exists else ZERO
            if lse == NEG_INF or not exists:
                lse = POS_INF
            for c in range(TN):
                p = exp(s[at(r, c)] - lse)
                s[at(r, c)] = p
                ds = p * (dp[at(r, c)] - delta_row)
                if BENDS:
                    ds *= derivative[at(r, c)]
                dp[at(r, c)] = ZERO if p == ZERO else ds  # dP of a hidden key may be infinite or NaN

    return gradient
