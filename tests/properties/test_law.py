"""The law of `algorithms.monoid`, by itself: (m, l, O) with merge is a commutative monoid."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_flash import reference
from numba_flash.algorithms.monoid import State, identity, merge

from .agreement import assert_same

LEAST = np.finfo(np.float64).eps
ROWS, DV = 5, 3


def key(x, v):
    """The states of one key for each row: scores x (ROWS,) and a value v (DV,)."""
    return State(x, np.ones_like(x), np.broadcast_to(v, (*x.shape, DV)))


@st.composite
def states(draw):
    """States of no to four keys a row: scores up to +-10^4, some of them -inf."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16 - 1)))
    size = draw(st.sampled_from((0.0, 1.0, 100.0, 1e4)))
    x = size * rng.standard_normal((draw(st.integers(0, 4)), ROWS))
    x[rng.random(x.shape) < draw(st.sampled_from((0.0, 0.5, 1.0)))] = -np.inf
    nothing = identity((ROWS,), DV, np.float64)
    return reduce(merge, [key(x_j, rng.standard_normal(DV)) for x_j in x], nothing)


def assert_close(a, b):
    """States agree up to rounding; O may be as large as l times the largest value, and values are below 8."""
    np.testing.assert_array_equal(a.m, b.m)
    np.testing.assert_allclose(a.l, b.l, rtol=16 * LEAST, atol=0)
    assert (np.abs(a.O - b.O) <= 16 * LEAST * 8 * a.l[:, None]).all()


@given(states(), states(), states())
def test_associative(a, b, c):
    assert_close(merge(merge(a, b), c), merge(a, merge(b, c)))


@given(states(), states())
def test_commutative(a, b):
    """Bit by bit: a maximum and sums of two numbers."""
    assert_same(merge(a, b), merge(b, a))


@given(states())
def test_identity(a):
    """Bit by bit."""
    nothing = identity((ROWS,), DV, np.float64)
    assert_same(merge(a, nothing), a)
    assert_same(merge(nothing, a), a)


@given(states())
def test_hidden_keys_are_no_keys(a):
    """A score of -inf merges as the identity does, whatever the value."""
    assert_same(merge(a, key(np.full(ROWS, -np.inf), np.full(DV, 7.0))), a)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@given(data=st.data())
def test_any_order_and_any_brackets_give_attention(scale, data):
    """Keys merged in a random order, pairs anywhere in the line, end as softmax(x) @ v and its LSE."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16 - 1)))
    x, v = scale * rng.standard_normal((ROWS, data.draw(st.integers(1, 12)))), rng.standard_normal((12, DV))
    x[rng.random(x.shape) < 1 / 4] = -np.inf
    v = v[: x.shape[1]]
    line = [key(x[:, j], v[j]) for j in rng.permutation(x.shape[1])]
    while len(line) > 1:
        at = rng.integers(len(line) - 1)
        line[at : at + 2] = [merge(*line[at : at + 2])]
    (state,) = line
    state = merge(state, identity((ROWS,), DV, np.float64))  # a single key that is hidden has l = 1 until it is merged
    l = np.where(state.l == 0, 1, state.l)
    expected = reference.softmax(x) @ v
    assert np.abs(state.O / l[:, None] - expected).max() <= 128 * LEAST * np.abs(v).max()
    lse = reference.logsumexp(x)
    seen = np.isfinite(lse)
    assert np.isneginf(state.m[~seen]).all() and not state.l[~seen].any()
    np.testing.assert_allclose((state.m + np.log(l))[seen], lse[seen], rtol=0, atol=128 * LEAST * max(1, scale))
