"""Products of shared tiles, accumulated in registers: the register tiling that all kernels share.

A block's threads form a grid of row groups times column groups, and each owns a `Piece` of the result in a local array
(row-major). Each product is named after how its operands lie: `atb` is A^T B, both operands depth-first, the fastest;
`ab` reads A along its rows; `abt` reads both along their rows. Operands are read four elements at a time, a few steps
of the depth at once; all other loops have constant trip counts, so the compiler unrolls them and the arrays become
registers.

Why `atb` is the fastest: a multiprocessor reads one even and one odd register a cycle, and an FFMA wants three. One of
them may be kept from the FFMA before; if the other two are both even or both odd, a cycle is lost. In an outer product
acc[r, c] always meets registers a[r] and b[c] of the same two parities, so the compiler can give it the right one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cuda, uint64

from numba_flash.config import APART, AnyPiece, Fragments, Piece, TransposedFragments
from numba_flash.ptx import device, load4


@cache
def make_place(CG: int):
    """Make place(): the (rg, cg) of this thread. Lanes l and l^1 share cg; lanes l and l^2 share rg, if CG > 1.

    A warp's 16-byte reads of shared memory take two cycles where every lane reads what lane^1 or lane^2 reads, four
    otherwise (measured on an H100), whatever else they share. Rows and columns by turns make both operands' reads
    the fast kind; the plain order, cg = thread % CG, only one's.
    """

    @device
    def place():
        x = cuda.threadIdx.x
        return x // (APART * CG) * APART + x % APART, x // APART % CG

    return place


@cache
def make_rows_and_columns(piece: AnyPiece):
    """Make row(rg, r) and column(cg, c): where in the tile an element of a thread's piece is."""
    if isinstance(piece, Fragments):
        return fragment_row, fragment_column
    if isinstance(piece, TransposedFragments):
        return fragment_column, fragment_row
    RG, CG, U, V = piece.RG, piece.CG, piece.U, piece.V

    @device
    def row(rg, r):
        return U * (rg + RG * (r // U)) + r % U

    @device
    def column(cg, c):
        return V * (cg + CG * (c // V)) + c % V

    return row, column


@device
def fragment_row(rg, r):
    return rg + 8 * r


@device
def fragment_column(cg, c):
    return 8 * (c // 2) + 2 * cg + c % 2


@cache
def make_element(piece: AnyPiece):
    """Make element(r, c): where in a thread's local array row r, column c of its piece is."""
    TM, TN = piece.TM, piece.TN

    @device
    def row_by_row(r, c):
        return r * TN + c

    @device
    def fragment_by_fragment(r, c):
        return r // 2 * 2 * TN + 4 * (c // 2) + 2 * (r % 2) + c % 2

    @device
    def transposed_fragment_by_fragment(r, c):
        return c // 2 * 2 * TM + 4 * (r // 2) + 2 * (c % 2) + r % 2

    if isinstance(piece, TransposedFragments):
        return transposed_fragment_by_fragment
    return fragment_by_fragment if isinstance(piece, Fragments) else row_by_row


@device
def to_and_fro(r, n, count):
    """n in an even row, in an odd one counted from the other end: neighbouring FFMA share a[r] or b[c]."""
    return n if r % 2 == 0 else count - 1 - n


def in_fours(TM: int, real: Any) -> bool:
    """Are products of so many rows faster in fours, four columns of each row at a time? They are on an H100.

    Not those of doubles, each of which lies in an even and an odd register.
    """
    return TM == 4 and real.bitwidth == 32


@cache
def make_outer_product(TM: int, TN: int, real: Any):
    """Make outer_product(acc, a, b, first_a, first_b): acc[r, c] += a[first_a + r] * b[first_b + c].

    It goes along whole rows or `in_fours`. As with `walk`, all that changes is how well ptxas chooses registers.
    """
    WIDTH = 4 if in_fours(TM, real) and TN % 4 == 0 else TN

    @device
    def outer_product(acc, a, b, first_a, first_b):
        for first in range(0, TN, WIDTH):
            for r in range(TM):
                for n in range(WIDTH):
                    c = first + to_and_fro(r, n, WIDTH)
                    acc[r * TN + c] += a[first_a + r] * b[first_b + c]

    return outer_product


def walk(steps: Any, depth: int, STEPS: int, downwards: bool) -> Any:
    """The product made of steps(acc, A, B, rg, cg, x), for every STEPS of the depth.

    Which way it goes changes only how well ptxas chooses registers; each kernel takes the way that measured faster.
    """

    @device
    def up(acc, A, B, rg, cg):
        for x in range(0, depth, STEPS):
            steps(acc, A, B, rg, cg, x)

    @device
    def down(acc, A, B, rg, cg):
        x = depth
        while x > 0:
            x -= STEPS
            steps(acc, A, B, rg, cg, x)

    assert depth % STEPS == 0
    return down if downwards else up


def steps_of(sums: int) -> int:
    """How much of the depth `make_multiply_atb` takes at once: more hides more of the loads, but takes registers."""
    return 2 if sums >= 64 else 4


@cache
def make_multiply_atb(piece: Piece, depth: int, real: Any, downwards: bool = False):
    """Make multiply_atb(acc, A, B, rg, cg): acc += A.T @ B, A (depth, RG*TM), B (depth, CG*TN)."""
    RG, CG, TM, TN, U, V = piece.RG, piece.CG, piece.TM, piece.TN, piece.U, piece.V
    STEPS = steps_of(piece.size) if U == 4 else 1  # runs of one row: pieces that leave few registers
    A_SIZE, B_SIZE = STEPS * TM, STEPS * TN
    outer_product = make_outer_product(TM, TN, real)

    @device
    def steps(acc, A, B, rg, cg, x):
        a, b = cuda.local.array(A_SIZE, real), cuda.local.array(B_SIZE, real)
        for y in range(STEPS):
            for r in range(0, TM, U):
                n = y * TM + r
                if U == 4:
                    a[n], a[n + 1], a[n + 2], a[n + 3] = load4(A, (x + y, 4 * rg + RG * r))
                else:
                    a[n] = A[uint64(x + y), uint64(rg + RG * r)]
            for c in range(0, TN, V):
                n = y * TN + c
                if V == 4:
                    b[n], b[n + 1], b[n + 2], b[n + 3] = load4(B, (x + y, 4 * cg + CG * c))
                else:
                    b[n] = B[x + y, cg + CG * c]
            outer_product(acc, a, b, y * TM, y * TN)

    return walk(steps, depth, STEPS, downwards)


@cache
def make_multiply_ab(piece: Piece, depth: int, real: Any, downwards: bool = False):
    """Make multiply_ab(acc, A, B, rg, cg): acc += A @ B, A (RG*TM, depth), B (depth, CG*TN); U is 1 and V is 4."""
    RG, CG, TM, TN = piece.RG, piece.CG, piece.TM, piece.TN
    assert (piece.U, piece.V) == (1, 4)
    A_SIZE, B_SIZE = 4 * TM, 4 * TN

    @device
    def steps(acc, A, B, rg, cg, x):
        a, b = cuda.local.array(A_SIZE, real), cuda.local.array(B_SIZE, real)
        for r in range(TM):
            a[4 * r], a[4 * r + 1], a[4 * r + 2], a[4 * r + 3] = load4(A, (rg + RG * r, x))
        for y in range(4):
            for c in range(0, TN, 4):
                n = y * TN + c
                b[n], b[n + 1], b[n + 2], b[n + 3] = load4(B, (x + y, 4 * cg + CG * c))
            for r in range(TM):
                for n in range(TN):
                    c = to_and_fro(r, n, TN)
                    acc[r * TN + c] += a[4 * r + y] * b[y * TN + c]

    return walk(steps, depth, 4, downwards)


@cache
def make_multiply_abt(piece: Piece, depth: int, real: Any, downwards: bool = False):
    """Make multiply_abt(acc, A, B, rg, cg): acc += A @ B.T, A (RG*TM, depth), B (CG*TN, depth); U and V are 1."""
    RG, CG, TM, TN = piece.RG, piece.CG, piece.TM, piece.TN
    assert (piece.U, piece.V) == (1, 1)
    A_SIZE, B_SIZE = 4 * TM, 4 * TN

    @device
    def steps(acc, A, B, rg, cg, x):
        a, b = cuda.local.array(A_SIZE, real), cuda.local.array(B_SIZE, real)
        for r in range(TM):
            a[4 * r], a[4 * r + 1], a[4 * r + 2], a[4 * r + 3] = load4(A, (rg + RG * r, x))
        for c in range(TN):
            b[4 * c], b[4 * c + 1], b[4 * c + 2], b[4 * c + 3] = load4(B, (cg + CG * c, x))
        for y in range(4):
            for r in range(TM):
                for n in range(TN):
                    c = to_and_fro(r, n, TN)
                    acc[r * TN + c] += a[4 * r + y] * b[4 * c + y]

    return walk(steps, depth, 4, downwards)
