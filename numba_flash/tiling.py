"""The integers of tiling: which blocks there are and which of them a query or a key block meets.

Plain Python functions that numba also compiles (`compilable`), so that the CPU path, the kernels and the tests run the
same lines.
Visibility is a band of diagonals: query i sees key j if i + first <= j <= i + last (`band`).

Tensor cores multiply small matrices that the 32 lanes of a warp hold together. Which lane holds which element is told
by `a_place`, `b_place` and `accumulator_place`, after the PTX ISA's figures of mma.m16n8k16. Shared tiles for them have
rows of 16-byte chunks in an order that `swizzle` says, so that no two lanes wait for one bank (`wavefronts`).
"""

from __future__ import annotations


def cdiv(a, b):
    """The smallest integer not below a / b, for a >= 0 and b > 0: how many tiles of b cover a."""
    return (a + b - 1) // b


def quotient(a, b):
    """a // b, for 0 <= a, 0 < b, both below 2^31; a GPU divides such numbers much faster than any."""
    return a // b


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


def key_blocks_around(i, Br, Bc, Nq, Nk, first, last):
    """The key blocks that query block i meets, in an order in which edges come first: blocks with a pair not seen.

    How many blocks there are; how many edges; and the order (`block_around`): how many edges are to the right of what
    all rows see, which come from the last one on, then the first of all blocks and the one behind the last.
    """
    row, behind = i * Br, min((i + 1) * Br, Nq)
    begin, end = key_blocks(i, Br, Bc, Nq, Nk, first, last)
    if begin == end:
        return 0, 0, (0, 0, 0)
    low, high = cdiv(max(0, behind - 1 + first), Bc), max(0, min(Nk, row + last + 1)) // Bc  # by every row
    if high <= low:
        return end - begin, end - begin, (end - begin, begin, end)
    return end - begin, end - begin - (high - low), (end - high, begin, end)


def block_around(n, right, begin, end):
    """Number n of the key blocks in an order of `key_blocks_around`."""
    return end - 1 - n if n < right else begin + n - right


def longest_first(block, Tr, heads, together):
    """Which query block of which head is number `block` of the Tr * heads blocks that a GPU starts in order.

    If the mask is causal, later query blocks see more keys. So that none of these starts last, when other
    multiprocessors have nothing left to do, all last query blocks come first, then those before them: not of all heads,
    whose keys and values the cache could not hold at once, but of so many `together`; fewer at first, if they do not
    divide the heads, since too few blocks at the end would leave multiprocessors idle, too. (Of key blocks, the first
    ones meet most queries: the order turned round.)
    """
    behind = Tr * heads - 1 - block
    first = quotient(behind, Tr * together) * together
    width, place = min(together, heads - first), behind - first * Tr
    i = quotient(place, width)
    return i, first + place - i * width


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


def a_place(lane, n):
    """The (row, column) of element n of a lane's eight of A (16 x 16): two to a register, the lower half first."""
    return lane // 4 + n // 2 % 2 * 8, lane % 4 * 2 + n % 2 + n // 4 * 8


def b_place(lane, n):
    """The (row, column) of element n of a lane's four of B (16 x 8): two to a register, the lower half first."""
    return lane % 4 * 2 + n % 2 + n // 2 * 8, lane // 4


def accumulator_place(lane, n):
    """The (row, column) of element n of a lane's four float32 of C (16 x 8), one to a register."""
    return lane // 4 + n // 2 * 8, lane % 4 * 2 + n % 2


def a_place_tf32(lane, n):
    """The (row, column) of register n of a lane's four of A (16 x 8) in mma.m16n8k8, for 32-bit elements."""
    return lane // 4 + n % 2 * 8, lane % 4 + n // 2 * 4


def b_place_tf32(lane, n):
    """The (row, column) of register n of a lane's two of B (8 x 8) in mma.m16n8k8, for 32-bit elements."""
    return lane % 4 + n * 4, lane // 4


def holders(place, elements):
    """The same the other way round: {(row, column): (lane, n)} for the `elements` of each lane."""
    return {place(lane, n): (lane, n) for lane in range(32) for n in range(elements)}


def down_then_right(lane):
    """The (row, column) in a 16 x 16 matrix of the 8 elements that a lane points ldmatrix.x4 to.

    The four 8 x 8 matrices follow one another downwards first: A as it lies in memory, or B as it lies, transposed by
    the load.
    """
    return lane % 16, lane // 16 * 8


def right_then_down(lane):
    """The same, to the right first: B whose transpose lies in memory, or A whose transpose does, transposed back."""
    return lane % 8 + lane // 16 * 8, lane // 8 % 2 * 8


def swizzle(row, chunk, chunks):
    """Where in its row chunk number `chunk` lies, in a shared tile of `chunks` (a power of 2) chunks of 16 bytes a row.

    Any eight neighbouring rows, from a multiple of eight on, have the same chunk in eight different groups of banks.
    """
    ways = min(chunks, 8)
    return chunk ^ (row * ways >> 3 & ways - 1)


def swizzled(row, column, columns):
    """Where in its row a 16-bit element lies, in a swizzled tile with so many columns."""
    return swizzle(row, column >> 3, columns >> 3) << 3 | column & 7


def wavefronts(addresses, nbytes):
    """How many turns shared memory takes for one access of a warp; without bank conflicts 32 * nbytes / 128.

    `addresses` are those of the lanes, in bytes; each reads or writes `nbytes`, 4, 8 or 16. A turn gives each of the 32
    banks one 4-byte word, to any number of lanes. As many lanes as need 128 bytes are served together: 8 lanes for 16
    bytes; for ldmatrix, the eight rows of one 8 x 8 matrix.
    """
    together, turns = 128 // nbytes, 0
    for first in range(0, len(addresses), together):
        words = {a // 4 + n for a in addresses[first : first + together] for n in range(nbytes // 4)}
        turns += max(sum(word % 32 == bank for word in words) for bank in range(32))
    return turns


def grouped(index, tiles_m, tiles_n, group):
    """The (row, column) of tile `index` of tiles_m x tiles_n, `group` rows at a time: column after column of the group.

    Blocks that run at the same time then share rows of A and columns of B, which caches keep.
    """
    strip = index // (group * tiles_n)
    height = min(group, tiles_m - strip * group)
    within = index - strip * group * tiles_n
    return strip * group + within % height, within // height
