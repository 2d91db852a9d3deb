"""Softmax in three passes.        New here: subtract the row's maximum, so that no exponential overflows.

Paper      the safe softmax, equations (1) to (3) of the derivation; Milakov & Gimelshein 2018, arXiv:1805.02867, Alg. 2
Grid       (B*M,)     Threads T: a block owns a row, thread t its elements t, t + T, t + 2T...
Shapes     X (B, M, N), any strides -> Y (B, M, N), contiguous
On chip    | partial T |   shared, in float32 (float64), T = 256: one result a thread, combined in log2(T) steps
Invariant  after pass 1: m = max x; after pass 2: l = sum e^(x - m), between 1 and N (the papers call it d)
Units      x in nats; 16-bit inputs compute in float32
Edges      a row of -inf gives zeros; a NaN or +inf makes its row NaN
Traffic    reads X three times, writes Y once: 4*B*M*N elements of global memory; a row reads 2*(3T - 2) and writes
           2*(2T - 1) numbers of shared memory
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import cuda

from numba_flash.device.number import number
from numba_flash.ptx import device, global_view


@device
def larger(x, y):
    return max(x, y)


@device
def plus(x, y):
    return x + y


@cache
def make_reduce(T: int, combine: Any):
    """Make reduce(partial, x): the x of all T threads combined, for every thread; `partial` is shared, T elements."""

    @device
    def reduce(partial, x):
        t, half = cuda.threadIdx.x, T // 2
        cuda.syncthreads()  # everyone has read the last result before it changes
        partial[t] = x
        while half > 0:
            cuda.syncthreads()  # the upper half is written before the lower half reads it
            if t < half:
                partial[t] = combine(partial[t], partial[t + half])
            half //= 2
        cuda.syncthreads()  # the result is written before everyone reads it
        return partial[0]

    return reduce


@cache
def make_softmax_safe(dtype: str, T: int):
    """The kernel for one dtype and one number of threads."""
    n = number(dtype)
    STORED, REAL, ZERO, ONE, NEG_INF = n.stored, n.real, n.zero, n.one, n.neg_inf
    exp, to_real, to_stored = n.exp, n.to_real, n.to_stored
    reduce_max, reduce_sum = make_reduce(T, larger), make_reduce(T, plus)

    def softmax_safe(X, X_strides, Y, M, N):
        partial = cuda.shared.array(T, REAL)
        t, row, step = cuda.threadIdx.x, cuda.blockIdx.x, X_strides[2]
        x = global_view(X, row // M * X_strides[0] + row % M * X_strides[1], STORED)
        y = global_view(Y, row * N, STORED)
        m = NEG_INF
        for i in range(t, N, T):
            m = max(m, to_real(x[i * step]))  # (1)
        m = reduce_max(partial, m)
        pivot = ZERO if m == NEG_INF else m  # a row of -inf: e^(-inf - 0) = 0, not NaN
        l = ZERO
        for i in range(t, N, T):
            l += exp(to_real(x[i * step]) - pivot)  # (2)
        l = reduce_sum(partial, l)
        divisor = ONE if l == ZERO else l
        for i in range(t, N, T):
            y[i] = to_stored(exp(to_real(x[i * step]) - pivot) / divisor)  # (3)

    return softmax_safe
