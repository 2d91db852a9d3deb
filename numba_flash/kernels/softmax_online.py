"""Softmax in two passes.        New here: a sum that is corrected whenever the maximum grows needs no pass for it.

Paper      the online softmax, equations (4) and (5) of the derivation; Milakov & Gimelshein 2018, arXiv:1805.02867,
           Alg. 3, and section 3.1 for the merge of partial results
Grid       (B*M,)     Threads T: a block owns a row, thread t its elements t, t + T, t + 2T...
Shapes     X (B, M, N), any strides -> Y (B, M, N), contiguous
On chip    | ms T | ls T |   shared, in float32 (float64), T = 256: one state a thread, merged in log2(T) steps
Invariant  after element i: m = max x, l = sum e^(x - m) over the thread's elements up to i (the papers' d'_i); after
           the merge over the row: l = d'_N = d_N
Units      x in nats; 16-bit inputs compute in float32
Edges      a row of -inf gives zeros; a NaN or +inf makes its row NaN
Traffic    reads X twice, writes Y once: 3*B*M*N elements of global memory; a row reads 3T - 2 and writes 2T - 1 states
           in shared memory
"""

from __future__ import annotations

from functools import cache

from numba import cuda

from numba_flash.device.number import number
from numba_flash.ptx import device, global_view


@cache
def make_softmax_online(dtype: str, T: int):
    """The kernel for one dtype and one number of threads."""
    n = number(dtype)
    STORED, REAL, ZERO, ONE, NEG_INF = n.stored, n.real, n.zero, n.one, n.neg_inf
    exp, to_real, to_stored = n.exp, n.to_real, n.to_stored

    @device
    def merge(m1, l1, m2, l2):  # of two sets of elements: a commutative monoid, see numba_flash/algorithms/monoid.py
        m = max(m1, m2)
        pivot = ZERO if m == NEG_INF else m  # nothing but -inf so far: e^(-inf - 0) = 0, not NaN
        return m, l1 * exp(m1 - pivot) + l2 * exp(m2 - pivot)

    def softmax_online(X, X_strides, Y, M, N):
        ms, ls = cuda.shared.array(T, REAL), cuda.shared.array(T, REAL)
        t, row, step = cuda.threadIdx.x, cuda.blockIdx.x, X_strides[2]
        x = global_view(X, row // M * X_strides[0] + row % M * X_strides[1], STORED)
        y = global_view(Y, row * N, STORED)
        m, l = NEG_INF, ZERO
        for i in range(t, N, T):
            m, l = merge(m, l, to_real(x[i * step]), ONE)  # (4): a single element has the state (x, 1)
        ms[t], ls[t] = m, l
        half = T // 2
        while half > 0:
            cuda.syncthreads()  # the upper half is written before the lower half reads it
            if t < half:
                ms[t], ls[t] = merge(ms[t], ls[t], ms[t + half], ls[t + half])
            half //= 2
        cuda.syncthreads()  # the row's state is written before everyone reads it
        m, l = ms[0], ls[0]
        pivot, divisor = ZERO if m == NEG_INF else m, ONE if l == ZERO else l
        for i in range(t, N, T):
            y[i] = to_stored(exp(to_real(x[i * step]) - pivot) / divisor)  # (5)

    return softmax_online
