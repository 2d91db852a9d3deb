r"""The law under every rung: softmax-weighted sums of disjoint sets of keys form a commutative monoid.

A set of keys with scores x_j and values v_j has the state

.. math:: m = \max_j x_j, \qquad l = \sum_j e^{x_j - m}, \qquad O = \sum_j e^{x_j - m} v_j

so that O / l is the softmax-weighted mean of the values and m + log(l) their LSE. A single key with a finite score has
the state (x, 1, v); the empty set, like keys that are hidden by x = -inf, has (-inf, 0, 0), for which `merge` also
takes (-inf, 1, v). It makes the state of a union from those of its parts. **It is associative and commutative, and
(-inf, 0, 0) is its identity.**

*Proof.* Write a state with its scale taken out of the exponent: (m, L, A) with L = e^m l and A = e^m O, e^-inf being 0.
Nothing is lost, since l = e^-m L and O = e^-m A for finite m, and m = -inf goes with l = 0 and O = 0 only. With
m = max(m1, m2), what `merge` computes satisfies

.. math:: e^m l = e^m (e^{m_1 - m} l_1 + e^{m_2 - m} l_2) = e^{m_1} l_1 + e^{m_2} l_2 = L_1 + L_2

and likewise e^m O = A_1 + A_2. In the other notation a merge is therefore (max(m1, m2), L1 + L2, A1 + A2): max and two
sums, each of them associative and commutative, with identities -inf, 0 and 0. The way back is one-to-one, so the same
holds for (m, l, O). ∎

The sums L and A overflow, which is why no rung stores them; e^(m1 - m) and e^(m2 - m) are at most 1. In floating-point
numbers commutativity and the identity stay exact, bit by bit, and associativity holds up to rounding.

What rests on it: keys may be met in any order, in blocks of any size, by any number of threads, and partial results may
be joined later. The rungs' recurrences are `merge` with one key (`softmax_online`) or with one block of keys (the
attention rungs); a tree of threads is `merge` with the brackets moved; `numba_flash.merge` is the same law for O / l
and m + log(l).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numba_flash.reference import Array


class State(NamedTuple):
    """What is known of some keys: m (...,), l (...,) and O (..., dv)."""

    m: Array
    l: Array
    O: Array


def identity(shape: tuple[int, ...], dv: int, dtype: np.typing.DTypeLike) -> State:
    """The state of no keys: (-inf, 0, 0)."""
    return State(np.full(shape, -np.inf, dtype), np.zeros(shape, dtype), np.zeros((*shape, dv), dtype))


def merge(a: State, b: State) -> State:
    """The state of two disjoint sets of keys together."""
    m = np.maximum(a.m, b.m)
    pivot = np.where(np.isneginf(m), 0, m)  # of two empty sets: e^(-inf - 0) = 0, not NaN
    alpha, beta = np.exp(a.m - pivot), np.exp(b.m - pivot)
    return State(m, alpha * a.l + beta * b.l, alpha[..., None] * a.O + beta[..., None] * b.O)
