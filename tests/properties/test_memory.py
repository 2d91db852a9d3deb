"""Operations read views in place, write their outputs and nothing else, and repeat bit by bit if they are asked to."""

from unittest.mock import patch

import numpy as np
import pytest

from .agreement import assert_same, assert_same_as_copies
from .for_all import for_all, simulated

GUARD = 64  # elements on either side of an output


def both(backend, x, options, deterministic=True):
    """o, lse, dq, dk and dv."""
    return backend.results(x.do, x.q, x.k, x.v, x.dlse, deterministic=deterministic, **options)


@for_all()
def test_views_give_what_their_copies_give(backend, case):
    """Bit by bit; what lies between the elements of a view and beyond its rows is NaN."""
    x, options = case.arrays(), case.options()

    def call(do, q, k, v):
        return both(backend, x._replace(do=do, q=q, k=k, v=v), options)

    assert_same_as_copies(call, (x.do, x.q, x.k, x.v))


@for_all(times=1 / 2)
def test_repeats_bit_by_bit(backend, case):
    """In any order of blocks and threads, several of them at a time, as the simulator's options say."""
    x, options = case.arrays(), case.options()
    first = both(backend, x, options)
    with simulated(seed=case.seed, blocks=3):
        assert_same(first, both(backend, x, options))


@for_all(times=1 / 2)
def test_a_cpu_repeats_bit_by_bit_unasked(backend, case):
    if backend.kernel != "cpu":
        pytest.skip("a GPU adds up dQ in any order")
    x, options = case.arrays(), case.options()
    results = [both(backend, x, options, deterministic) for deterministic in (False, False, True)]
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@for_all(times=1 / 2)
def test_inputs_stay_as_they_are(backend, case):
    x, options, same = case.arrays(), case.options(), case.arrays()
    both(backend, x, options)
    for mine, fresh in zip(x, same, strict=True):
        assert mine is None or mine.tobytes() == fresh.tobytes()


class GuardedMemory:
    """Allocates outputs full of NaN between bands of NaN."""

    def __init__(self, library):
        self.library, self.empty = library, library.empty
        self.allocated = []

    def guarded(self, shape, dtype, device):
        """As the library's `empty`."""
        count = int(np.prod(shape))
        base = self.empty((count + 2 * GUARD,), dtype, device)
        base[...] = np.nan
        self.allocated.append(base)
        return base[GUARD : GUARD + count].reshape(shape)

    def used(self):
        """While this is entered, calls allocate here."""
        return patch.object(self.library, "empty", self.guarded)

    def assert_guards_hold(self, to_numpy):
        """Nothing was written outside of an output, and all of it was written."""
        for base in self.allocated:
            x = to_numpy(base)
            guards, inside = np.concatenate([x[:GUARD], x[-GUARD:]]), x[GUARD:-GUARD]
            assert np.isnan(guards.astype(np.float64)).all()
            assert not np.isnan(inside.astype(np.float64)).any()


@for_all(times=1 / 2)
def test_outputs_are_written_once_and_nothing_else(backend, case):
    x, options = case.arrays(), case.options()
    memory = GuardedMemory(backend.library)
    with memory.used():
        for deterministic in (False, True):
            both(backend, x, options, deterministic)
    memory.assert_guards_hold(backend.to_numpy)
