"""Turns: which blocks of queries and keys meet at the same time, so that no two tasks add to the same rows.

A task takes one run I of RUN query blocks and one key block j, and adds to dQ of the run and to dK, dV of the block.
A turn is one diagonal j - RUN*I modulo n, the number of blocks on the longer side: each I and each j occurs in it at
most once. Turns follow one another, so the order of every sum is that of the turns and not of the threads.

         I  0  1  2
    j=0     0  4  2        RUN = 2, six key blocks, six query blocks in three runs: the number is the turn,
    j=1     1  5  3        j - 2*I mod 6
    j=2     2  0  4
    j=3     3  1  5
    j=4     4  2  0
    j=5     5  3  1
"""

from __future__ import annotations

from numba.extending import register_jitable

from numba_flash.cpu.tiles import BLOCK
from numba_flash.tiling import cdiv, query_blocks

RUN = 2  # query blocks that share one loading of their key block


@register_jitable
def turns(Nq, Nk, first, last):
    """The diagonals j - RUN*I that meet the band i + first <= j <= i + last, as (begin, end); n of them at most."""
    begin, end = first // BLOCK, cdiv(last, BLOCK) + RUN
    return begin, min(end, begin + longer_side(Nq, Nk))


@register_jitable
def longer_side(Nq, Nk):
    """Number of key blocks, or of query blocks in whole runs."""
    return max(RUN * cdiv(Nq, RUN * BLOCK), cdiv(Nk, BLOCK))


@register_jitable
def list_pairs(runs, keys, turn, Nq, Nk, first, last):
    """Write the pairs (I, j) of a turn that see one another to `runs` and `keys`; return how many there are."""
    count = 0
    for I in range(cdiv(Nq, RUN * BLOCK)):
        j = (RUN * I + turn) % longer_side(Nq, Nk)
        begin, end = query_blocks(j, RUN * BLOCK, BLOCK, Nq, Nk, first, last)
        if j * BLOCK < Nk and begin <= I < end:
            runs[count], keys[count] = I, j
            count += 1
    return count
