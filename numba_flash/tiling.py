"""The integers of tiling: which blocks there are and which of them a query or a key block meets.

Plain Python functions that numba also compiles (`compilable`), so that the CPU path, the kernels and the tests run the
same lines.
Visibility is a band of diagonals: query i sees key j if i + first <= j <= i + last (`band`).
"""

from __future__ import annotations


def cdiv(a, b):
    """The smallest integer not below a / b, for a >= 0 and b > 0: how many tiles of b cover a."""
    return (a + b - 1) // b


def round_up(a, b):
    """The smallest multiple of b that is not below a."""
    return cdiv(a, b) * b


def band(Nq, Nk, causal, q_offset, window):
    """The diagonals (first, last) that queries see: i + first <= j <= i + last.

    A band with no limit on a side, or one beyond the matrix, is clipped to where it stops mattering, so both numbers
    stay within -Nq - 1 .. Nk + 1 whatever q_offset and window are.
    """
    left, right = (None, None) if window is None else window
    if causal:
        right = 0 if right is None else min(right, 0)
    first = -Nq if left is None else q_offset - left
    last = Nk if right is None else q_offset + right
    return max(-Nq - 1, min(first, Nk + 1)), max(-Nq - 1, min(last, Nk + 1))


def sees(i, j, Nk, first, last):
    """Does query i see key j, which may lie beyond the last one?"""
    return j < Nk and i + first <= j <= i + last


def seen_keys(i, Nk, first, last):
    """The keys [begin, end) that query i sees."""
    begin = max(0, i + first)
    return begin, max(begin, min(Nk, i + last + 1))


def key_blocks(i, Br, Bc, Nq, Nk, first, last):
    """Key blocks [begin, end) with a key that some row of query block i sees."""
    low = max(0, i * Br + first)
    high = min(Nk, min((i + 1) * Br, Nq) + last)
    if high <= low:
        return 0, 0
    return low // Bc, cdiv(high, Bc)


def query_blocks(j, Br, Bc, Nq, Nk, first, last):
    """Query blocks [begin, end) with a row that sees some key of key block j."""
    low = max(0, j * Bc - last)
    high = min(Nq, min((j + 1) * Bc, Nk) - first)
    if high <= low:
        return 0, 0
    return low // Br, cdiv(high, Br)


def count_key_blocks(Br, Bc, Nq, Nk, first, last):
    """How many key blocks all query blocks of one head meet."""
    met = (key_blocks(i, Br, Bc, Nq, Nk, first, last) for i in range(cdiv(Nq, Br)))
    return sum(end - begin for begin, end in met)


def count_query_blocks(Br, Bc, Nq, Nk, first, last):
    """How many query blocks all key blocks of one head meet."""
    met = (query_blocks(j, Br, Bc, Nq, Nk, first, last) for j in range(cdiv(Nk, Bc)))
    return sum(end - begin for begin, end in met)


def all_visible(row, col, Br, Bc, Nk, first, last):
    """Does every row of the (Br, Bc) tile at (row, col) see every key of it?"""
    return col + Bc <= Nk and row + Br - 1 + first <= col and col + Bc - 1 <= row + last
