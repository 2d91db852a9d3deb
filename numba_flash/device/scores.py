"""From the product q.k to the score that softmax sees: scale, softcap, ALiBi, bias, masks, in this order.

Every thread holds a `Piece` of a score tile at (row0, col0).
"""

from __future__ import annotations

import math
from functools import cache

from numba import int32, uint64

from numba_flash.config import AnyPiece
from numba_flash.device.number import LOG2_E, number
from numba_flash.device.products import make_element, make_rows_and_columns
from numba_flash.device.tiles import clipped
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import device, ex2


@device
def strides_within(strides, inside):
    """The row and column strides, for a thread that reads inside the matrix.

    Were they the same in every step, the compiler would keep their multiples, two registers for each row and column of
    a piece, from one step to the next.
    """
    return (strides[2], strides[3]) if inside else (0, 0)


@cache
def make_modify(piece: AnyPiece, score: ScoreOptions, dtype: str):
    """Make modify(s, derivative, rg, cg, row0, col0, Nq, Nk, scale, softcap, slope, q_offset, bias, ..., mask, ...).

    It turns products s into scores with scale, softcap, ALiBi, bias and mask, and with softcap sets `derivative` to
    that of the capped score by the scaled product. `bias` and `mask` are views of one head, each followed by its
    (batch, head, row, column) strides; pairs beyond Nq or Nk are not read.
    """
    TM, TN = piece.TM, piece.TN
    (row_of, column_of), at = make_rows_and_columns(piece), make_element(piece)
    HEIGHT, WIDTH = piece.RG * TM, piece.CG * TN  # of the tile
    N = number(dtype)
    ONE, NEG_INF, REAL = N.one, N.neg_inf, N.real
    SOFTCAP, ALIBI, BIAS, MASK = score.softcap, score.alibi is not None, score.bias is not None, score.mask
    bias_to_real = number(score.bias or dtype).to_real

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
    ):
        for x in range(TM * TN):
            s[x] *= scale
        if SOFTCAP:
            for x in range(TM * TN):
                t = REAL(math.tanh(s[x] / softcap))
                s[x] = softcap * t
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

    P = e^(s - LSE) and dS = P*(dP - delta), times softcap's derivative. Rows beyond Nq and rows that saw no key get
    LSE = +inf here, which makes their P zero.
    """
    TM, TN = piece.TM, piece.TN
    (row_of, _), at = make_rows_and_columns(piece), make_element(piece)
    N = number(dtype)
    ZERO, NEG_INF, POS_INF, exp = N.zero, N.neg_inf, -N.neg_inf, N.exp
    SOFTCAP = score.softcap

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
                if SOFTCAP:
                    ds *= derivative[at(r, c)]
                dp[at(r, c)] = ZERO if p == ZERO else ds  # dP of a hidden key may be infinite or NaN

    return gradient


@cache
def make_hide_gradient(piece: AnyPiece):
    """Make hide_gradient(p, ds, rg, cg, row0, col0, Nk, first, last): zeros where `make_hide` would hide the score."""
    TM, TN = piece.TM, piece.TN
    (row_of, column_of), at = make_rows_and_columns(piece), make_element(piece)
    SIZE = piece.RG * TM + piece.CG * TN  # no two elements of the tile are as many diagonals apart
    ZERO = number("float32").zero

    @device
    def hide_gradient(p, ds, rg, cg, row0, col0, Nk, first, last):
        row, col = row0 + row_of(rg, 0), col0 + column_of(cg, 0)
        lowest, beyond = diagonals(first + row - col, SIZE), diagonals(last + 1 + row - col, SIZE)
        width = clipped(Nk - col, SIZE)
        for r in range(TM):
            for c in range(TN):
                right, diagonal = int32(column_of(0, c)), int32(column_of(0, c) - row_of(0, r))
                if right >= width or diagonal < lowest or diagonal >= beyond:
                    p[at(r, c)] = ZERO
                    ds[at(r, c)] = ZERO

    return hide_gradient


@device
def diagonals(n, most):
    """n between -most and most, in 32 bits."""
    return int32(min(max(n, -most), most))


@cache
def make_base2(score: ScoreOptions):
    """Make base2(lse, exists): LSE in base 2, and +inf, which makes P zero, for a row that saw no key or is none.

    Without score options that takes nothing: s is finite, zeros stand for Q and dO of a row that is none, and all keys
    of a row that saw no key are outside the band.
    """
    MODIFIES = score != ScoreOptions()
    NEG_INF, POS_INF = number("float32").neg_inf, -number("float32").neg_inf

    @device
    def base2(lse, exists):
        if MODIFIES and (lse == NEG_INF or not exists):
            return POS_INF
        return lse * LOG2_E

    return base2


@cache
def make_read_rows(piece: AnyPiece, score: ScoreOptions):
    """Make read_rows(LSE_log2, delta, LSEs, deltas, top, left): both of a piece's rows from shared memory, row 0 at top.

    So many rows are `left` from there on.
    """
    TM, base2 = piece.TM, make_base2(score)
    row_of, _ = make_rows_and_columns(piece)

    @device
    def read_rows(LSE_log2, delta, LSEs, deltas, top, left):
        for r in range(TM):
            row = row_of(0, r)
            LSE_log2[r] = base2(LSEs[uint64(top + row)], row < left)
            delta[r] = deltas[uint64(top + row)]

    return read_rows


@cache
def make_load_rows(piece: AnyPiece, score: ScoreOptions):
    """Make load_rows(LSE_log2, delta, LSE, LSE_strides, deltas, row, Nq): the same from global memory, row 0 at `row`."""
    TM, base2 = piece.TM, make_base2(score)
    row_of, _ = make_rows_and_columns(piece)
    ZERO = number("float32").zero

    @device
    def load_rows(LSE_log2, delta, LSE, LSE_strides, deltas, row, Nq):
        for r in range(TM):
            x = row + row_of(0, r)
            exists = x < Nq
            lse = LSE[x * LSE_strides[2] if exists else 0]
            LSE_log2[r] = base2(lse if exists else ZERO, exists)
            delta[r] = deltas[x] if exists else ZERO

    return load_rows


@cache
def make_gradient_base2(piece: AnyPiece, score: ScoreOptions):
    """Make gradient(s, dp, derivative, factor, LSE_log2, delta): s becomes P, dp becomes dS, in float32.

    P = 2^(factor*s - LSE_log2) and dS = P*(dP - delta), times softcap's derivative; LSE_log2 and delta of the piece's
    rows are local arrays. What the band hides may be infinite or NaN until `make_hide_gradient`.
    """
    TM, TN = piece.TM, piece.TN
    at = make_element(piece)
    SOFTCAP, HIDES = score.softcap, score.bias is not None or score.mask
    ZERO = number("float32").zero

    @device
    def gradient(s, dp, derivative, factor, LSE_log2, delta):
        for r in range(TM):
            for c in range(TN):
                x = at(r, c)
                p = ex2(s[x] * factor - LSE_log2[r])
                ds = p * (dp[x] - delta[r])
                if SOFTCAP:
                    ds *= derivative[x]
                s[x] = p
                dp[x] = ZERO if HIDES and p == ZERO else ds  # dP of a key that a mask hides may be infinite or NaN

    return gradient
