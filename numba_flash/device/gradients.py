"""From scores to P and dS on tensor cores: what a lane does with its fragments of S^T and dP^T.

Of a query row two numbers are needed, which lie side by side as `passes.rows` wrote them: LSE in base 2 and delta. LSE
is +inf for a row that saw no key, and for one that only fills a tile up, so that its P is zero.
"""

from __future__ import annotations

from functools import cache

from numba import int32, uint64

from numba_flash.config import AnyPiece
from numba_flash.device.fragments import lane
from numba_flash.device.number import number
from numba_flash.device.products import make_element, make_rows_and_columns
from numba_flash.device.tiles import clipped
from numba_flash.problem import ScoreOptions
from numba_flash.ptx import device, ex2, load4


@cache
def make_read_rows(TM: int):
    """Make read_rows(LSE_log2, delta, rows, top): a lane's rows from shared memory, two neighbours of every eight.

    The first one lies at `top`, an even number.
    """

    @device
    def read_rows(LSE_log2, delta, rows, top):
        for r in range(0, TM, 2):
            LSE_log2[r], delta[r], LSE_log2[r + 1], delta[r + 1] = load4(rows, 2 * (top + 4 * r))

    return read_rows


@cache
def make_read_boxed_rows(TM: int):
    """Make read_boxed_rows(LSE_log2, delta, rows, top): the same where a box has brought them.

    Then 16 rows are one of shared memory, of 128 bytes, swizzled: the lane's first ones lie in rows[top].
    """

    @device
    def read_boxed_rows(LSE_log2, delta, rows, top):
        for r in range(0, TM, 2):
            row, chunk = top + r // 4, r // 2 % 2 * 4 + lane() % 4
            at = uint64(row), uint64((chunk ^ row & 7) * 4)
            LSE_log2[r], delta[r], LSE_log2[r + 1], delta[r + 1] = load4(rows, at)

    return read_boxed_rows


@cache
def make_probabilities(piece: AnyPiece):
    """Make probabilities(s, factor, LSE_log2): s becomes P = 2^(factor*s - LSE_log2), as in `make_gradient_base2`."""
    TM, TN = piece.TM, piece.TN
    at = make_element(piece)

    @device
    def probabilities(s, factor, LSE_log2):
        for r in range(TM):
            for c in range(TN):
                s[at(r, c)] = ex2(s[at(r, c)] * factor - LSE_log2[r])

    return probabilities


@cache
def make_score_gradient(score: ScoreOptions):
    """Make score_gradient(p, dp, derivative, delta): dS = P*(dP - delta), times a bent score's derivative."""
    BENDS, HIDES = score.bends, score.hides
    ZERO = number("float32").zero

    @device
    def score_gradient(p, dp, derivative, delta):
        ds = p * (dp - delta)
        if BENDS:
            ds *= derivative
        return ZERO if HIDES and p == ZERO else ds  # dP of a key that a mask hides may be infinite or NaN

    return score_gradient


@cache
def make_score_gradients(piece: AnyPiece, score: ScoreOptions):
    """Make score_gradients(dp, p, derivative, delta): dp becomes dS; delta of the piece's rows is a local array."""
    TM, TN = piece.TM, piece.TN
    at, score_gradient = make_element(piece), make_score_gradient(score)

    @device
    def score_gradients(dp, p, derivative, delta):
        for r in range(TM):
            for c in range(TN):
                x = at(r, c)
                dp[x] = score_gradient(p[x], dp[x], derivative[x], delta[r])

    return score_gradients


@cache
def make_gradient_base2(piece: AnyPiece, score: ScoreOptions):
    """Make gradient(s, dp, derivative, factor, LSE_log2, delta): s becomes P, dp becomes dS, in float32.

    P = 2^(factor*s - LSE_log2) and dS = P*(dP - delta), times the `derivative` of a score that bends; LSE_log2 and
    delta of the piece's rows are local arrays. What the band hides may be infinite or NaN until `make_hide_gradient`.
    """
    TM, TN = piece.TM, piece.TN
    at, score_gradient = make_element(piece), make_score_gradient(score)

    @device
    def gradient(s, dp, derivative, factor, LSE_log2, delta):
        for r in range(TM):
            for c in range(TN):
                x = at(r, c)
                p = ex2(s[x] * factor - LSE_log2[r])
                s[x] = p
                dp[x] = score_gradient(p, dp[x], derivative[x], delta[r])

    return gradient


@device
def diagonals(n, most):
    """n between -most and most, in 32 bits."""
    return int32(min(max(n, -most), most))


@cache
def make_hide_gradient(piece: AnyPiece):
    """Make hide_gradient(p, ds, rg, cg, row0, col0, Nk, first, last): zeros where `make_hide` would hide the score."""
    TM, TN = piece.TM, piece.TN
    (row_of, column_of), at = make_rows_and_columns(piece), make_element(piece)
    FAR = piece.RG * TM + piece.CG * TN  # no two elements of the tile are as many diagonals apart
    ZERO = number("float32").zero

    @device
    def hide_gradient(p, ds, rg, cg, row0, col0, Nk, first, last):
        row, col = row0 + row_of(rg, 0), col0 + column_of(cg, 0)
        lowest, beyond = diagonals(first + row - col, FAR), diagonals(last + 1 + row - col, FAR)
        width = clipped(Nk - col, FAR)
        for r in range(TM):
            for c in range(TN):
                right, diagonal = int32(column_of(0, c)), int32(column_of(0, c) - row_of(0, r))
                if right >= width or diagonal < lowest or diagonal >= beyond:
                    p[at(r, c)] = ZERO
                    ds[at(r, c)] = ZERO

    return hide_gradient
