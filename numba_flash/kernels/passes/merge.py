"""Merging two partial results.        New here: (LSE, O) of disjoint sets of keys is a commutative monoid.

Paper      the online softmax's law, Milakov & Gimelshein 2018, arXiv:1805.02867, section 3.1; the proof is in
           numba_flash/algorithms/monoid.py
Grid       (B*N,)     Threads 128: a block owns one row
Shapes     O1, O2 (B, N, dv), LSE1, LSE2 (B, N), any strides -> O (B, N, dv), LSE (B, N), contiguous
On chip    nothing
Invariant  m = max(LSE1, LSE2), alpha = e^(LSE1 - m), beta = e^(LSE2 - m), l = alpha + beta:
           LSE = m + log(l), O = (alpha O1 + beta O2) / l
Units      LSE in nats
Edges      the identity is (-inf, 0): a row that saw no key on either side stays O = 0, LSE = -inf
Traffic    reads both O once, writes O once
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.device.softmax import make_join
from numba_flash.ptx import global_view


@cache
def make_merge(dtype: str, threads: int):
    """The kernel for one storage dtype, in blocks of so many threads."""
    n = number(dtype)
    STORED, REAL, to_real, to_stored = n.stored, n.real, n.to_real, n.to_stored
    join = make_join(dtype)

    def merge(O1, O1_strides, LSE1, LSE1_strides, O2, O2_strides, LSE2, LSE2_strides, O, LSE, N, dv):
        b, row = cuda.blockIdx.x // N, cuda.blockIdx.x % N
        lse1 = global_view(LSE1, b * LSE1_strides[0], REAL)[row * LSE1_strides[1]]
        lse2 = global_view(LSE2, b * LSE2_strides[0], REAL)[row * LSE2_strides[1]]
        lse, share1, share2 = join(lse1, lse2)
        o1 = global_view(O1, b * O1_strides[0] + row * O1_strides[1], STORED)
        o2 = global_view(O2, b * O2_strides[0] + row * O2_strides[1], STORED)
        o = global_view(O, cuda.blockIdx.x * dv, STORED)
        for c in range(cuda.threadIdx.x, dv, threads):
            o[c] = to_stored(share1 * to_real(o1[c * O1_strides[2]]) + share2 * to_real(o2[c * O2_strides[2]]))
        if cuda.threadIdx.x == 0:
            global_view(LSE, 0, REAL)[cuda.blockIdx.x] = lse

    return merge
