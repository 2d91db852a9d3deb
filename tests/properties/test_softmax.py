"""Softmax agrees with the definition, and does to scores what a softmax does, by every kernel."""

import numpy as np
import pytest

from numba_flash import reference, simulator
from numba_flash.algorithms.monoid import State, merge
from numba_flash.testing.backends import SIMULATOR, Backend
from numba_flash.testing.naive import naive_softmax
from numba_flash.testing.tiles import block_threads
from numba_flash.testing.tolerance import allowed_error, assert_close

from .agreement import assert_same
from .for_all import for_all
from .test_memory import GuardedMemory


def by_every_kernel(backend, x):
    """(kernel, softmax(x)) for the kernels of a backend."""
    return [(kernel, backend.softmax(x, kernel=kernel)) for kernel in backend.softmaxes]


def assert_softmax(y, x, what):
    """y is the definition's softmax of x."""
    assert_close(y, reference.softmax(x.astype(np.float64)), naive_softmax(x), x.dtype, what)


@for_all(times=2, cases=Backend.softmax_cases)
def test_softmax(backend, case):
    """Also of scores of 10^4, of -inf here and there, and of rows of nothing else, which give zeros."""
    x = case.array()
    for kernel, y in by_every_kernel(backend, x):
        assert_softmax(y, x, kernel)


@for_all(cases=Backend.softmax_cases)
def test_rows_sum_to_one(backend, case):
    """And no element is negative."""
    x = case.array()
    sees = np.isfinite(x.astype(np.float64)).any(axis=-1).astype(np.float64)
    allowed = allowed_error(sees, naive_softmax(x).astype(np.float64).sum(axis=-1), case.real)
    for kernel, y in by_every_kernel(backend, x):
        assert (y >= 0).all()
        assert np.abs(y.astype(np.float64).sum(axis=-1) - sees).max() <= allowed, kernel


@for_all(cases=Backend.softmax_cases)
def test_shifting_a_row_changes_no_bit(backend, case):
    """Whole numbers up to 256 and their differences are exact in every dtype, and a softmax sees differences only."""
    rng = case.rng()
    x = rng.integers(-8, 9, case.shape)
    shifts = rng.choice([-200, -3, 0, 64, 240], (*case.shape[:-1], 1))
    x, shifted = (case.laid_out(values.astype(case.dtype)) for values in (x, x + shifts))
    for kernel in backend.softmaxes:
        assert_same([backend.softmax(shifted, kernel=kernel)], [backend.softmax(x, kernel=kernel)])


@for_all(cases=Backend.softmax_cases)
def test_order_does_not_matter(backend, case):
    """A permutation of the scores is that of the result: a merge is commutative and associative."""
    x = case.array()
    order = case.rng().permutation(case.shape[-1])
    for kernel, y in by_every_kernel(backend, x[..., order]):
        assert_softmax(y[..., np.argsort(order)], x, kernel)


def state_of(x, y, values):
    """The state (m, l, O) of scores whose softmax is y."""
    e, _ = reference.exponentials(x)
    l = e.sum(axis=-1)
    return State(x.max(axis=-1, initial=-np.inf), l, l[..., None] * (y @ values))


@for_all(cases=Backend.softmax_cases)
def test_the_whole_is_the_merge_of_its_halves(backend, case):
    """With unit vectors for values a softmax is an attention, and so obeys the law of `algorithms.monoid`."""
    x = case.array()
    N = case.shape[-1]
    cut = case.rng().integers(N + 1)
    halves, values = (x[..., :cut], x[..., cut:]), np.split(np.eye(N), [cut])
    scores = [part.astype(np.float64) for part in (x, *halves)]
    near = [naive_softmax(part) for part in (x, *halves)]
    allowed = sum(allowed_error(reference.softmax(s), y, case.dtype) for s, y in zip(scores, near, strict=True))
    for kernel, whole in by_every_kernel(backend, x):
        parts = [
            state_of(s, backend.softmax(half, kernel=kernel).astype(np.float64), v)
            for s, half, v in zip(scores[1:], halves, values, strict=True)
        ]
        _, l, O = merge(*parts)
        merged = O / np.where(l == 0, 1, l)[..., None]
        assert np.abs(merged - whole).max() <= allowed, kernel


@for_all(cases=Backend.softmax_cases)
def test_rows_mind_their_own_business(backend, case):
    """A row with a NaN or with +inf is NaN, and changes no bit of another row."""
    x = case.array()
    rng = case.rng()
    spoilt = rng.random(case.shape[:-1]) < 1 / 2
    values = np.array(x)
    values[..., rng.integers(case.shape[-1])] = np.where(spoilt, rng.choice([np.nan, np.inf]), values[..., 0])
    clean = np.where(spoilt[..., None], 0, values).astype(case.dtype)
    for kernel in backend.softmaxes:
        with np.errstate(invalid="ignore"):
            y = backend.softmax(case.laid_out(values), kernel=kernel)
        assert np.isnan(y[spoilt].astype(np.float64)).all(), kernel
        assert_same([y[~spoilt]], [backend.softmax(clean, kernel=kernel)[~spoilt]])


@for_all(cases=Backend.softmax_cases)
def test_views_give_what_their_copies_give(backend, case):
    """Bit by bit, and twice the same; what lies between the elements of a view is NaN. x stays as it is."""
    x, same = case.array(), case.array()
    for kernel, y in by_every_kernel(backend, x):
        assert_same([y, y], [backend.softmax(np.array(x, order="C"), kernel=kernel), backend.softmax(x, kernel=kernel)])
    assert x.tobytes() == same.tobytes()


@for_all(cases=Backend.softmax_cases)
def test_the_order_of_threads_changes_no_bit(backend, case):
    """Nor that of blocks: whatever one thread reads of another, a barrier stands before it."""
    if backend is not SIMULATOR:
        pytest.skip("only the simulator can choose an order")
    x = case.array()
    for kernel, y in by_every_kernel(backend, x):
        with simulator.options(seed=case.seed):
            assert_same([backend.softmax(x, kernel=kernel)], [y])


@for_all(cases=Backend.softmax_cases)
def test_outputs_are_written_once_and_nothing_else(backend, case):
    memory = GuardedMemory(backend.library)
    with memory.used():
        by_every_kernel(backend, case.array())
    memory.assert_guards_hold(backend.to_numpy)


@pytest.mark.parametrize("T", [1, 2, 32, 64])
def test_any_number_of_threads_agrees(backend, T):
    if "softmax_safe" not in backend.softmaxes:
        pytest.skip("it has no blocks of threads")
    with block_threads(T):
        few_cases(backend)


@for_all(times=1 / 4, cases=Backend.softmax_cases)
def few_cases(backend, case):
    test_softmax.holds(backend, case)
