"""Empty problems, rows that see nothing, hidden garbage, strides, and inputs left alone."""

import numpy as np
import pytest

from .problems import EVERYTHING, Problem, assert_same


@pytest.mark.parametrize("sizes", [{"Nq": 0}, {"Nk": 0}, {"B": 0}, {"Nq": 0, "Nk": 0}])
def test_empty(sizes):
    problem = Problem(**sizes)
    o, lse = problem.forward()
    assert o.shape == problem.do.shape and not o.any()
    assert lse.shape == problem.q.shape[:3] and np.isneginf(lse).all()
    for gradient, x in zip(problem.backward(), (problem.q, problem.k, problem.v), strict=True):
        assert gradient.shape == x.shape and gradient.dtype == x.dtype and not gradient.any()


def hide_rows(problem, how, rows):
    """Make these queries see nothing."""
    shape = problem.q.shape[:3] + problem.k.shape[2:3]
    if how == "mask":
        problem.scoring["mask"] = np.ones(shape, bool)
        problem.scoring["mask"][:, :, rows] = False
    elif how == "bias":
        problem.scoring["bias"] = np.zeros(shape, problem.dtype)
        problem.scoring["bias"][:, :, rows] = -np.inf
    else:
        problem.scoring["last"] = -rows.stop


@pytest.mark.parametrize("how", ["mask", "bias", "band"])
@pytest.mark.parametrize("rows", [slice(0, 3), slice(0, 130)], ids=["some", "block"])
def test_rows_that_see_nothing(how, rows):
    problem = Problem(Nq=140, Nk=150)
    hide_rows(problem, how, rows)
    o, lse = problem.forward()
    assert not o[:, :, rows].any() and np.isneginf(lse[:, :, rows]).all()
    assert np.isfinite(lse[:, :, rows.stop :]).all()
    dq, dk, dv = problem.backward()
    assert not dq[:, :, rows].any() and np.isfinite(dk).all() and np.isfinite(dv).all()
    problem.check()


def test_rows_with_one_visible_key_copy_its_value():
    problem = Problem(Nq=131, Nk=131, first=0, last=0, scale=1e4)
    o, lse = problem.forward()
    np.testing.assert_array_equal(o, np.repeat(problem.v, 2, axis=1))
    assert np.isfinite(lse).all()


@pytest.mark.parametrize("garbage", [3e38, -3e38])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_finite_garbage_in_hidden_keys_changes_nothing(garbage, softcap):
    clean, dirty = (Problem(Nq=120, Nk=150, last=10, softcap=softcap) for _ in range(2))
    hidden = ~clean.band.any(axis=0)
    mask = np.broadcast_to(np.arange(150) % 3 > 0, (1, 2, 120, 150))
    hidden |= ~mask[0, 0, 0]
    for problem in (clean, dirty):
        problem.scoring["mask"] = mask
    dirty.k[:, :, hidden] = garbage * np.sign(dirty.k[:, :, hidden])
    dirty.v[:, :, hidden] = garbage
    assert_same(dirty.forward(), clean.forward())
    assert_same(dirty.backward(), clean.backward())


def test_nan_in_skipped_blocks_leaks_nowhere():
    clean, dirty = (Problem(Nq=96, Nk=400, last=0) for _ in range(2))
    dirty.k[:, :, 200:] = np.nan
    dirty.v[:, :, 200:] = np.inf
    assert_same(dirty.forward(), clean.forward())
    assert_same(dirty.backward(), clean.backward())


def test_nan_reaches_the_rows_that_see_it():
    problem = Problem(Nq=100, Nk=100, last=0)
    problem.q[0, 0, 7] = np.nan
    problem.k[0, 0, 60] = np.nan
    o, lse = problem.forward()
    expected = np.zeros((2, 100), bool)
    expected[0, 7] = expected[:, 60:] = True
    np.testing.assert_array_equal(np.isnan(lse[0]), expected)
    np.testing.assert_array_equal(np.isnan(o[0]).all(axis=-1), expected)
    assert np.isnan(problem.backward()[0][0, 0, 7]).all()


def test_infinite_logit_makes_nan():
    problem = Problem(Nq=5, Nk=9, scale=1.0)
    problem.q[0, 0, 2] = 3e38
    problem.k[...] = 3e38
    o, lse = problem.forward()
    assert np.isnan(lse[0, 0, 2]) and np.isnan(o[0, 0, 2]).all()


def strided(x, how):
    """The same values with other strides."""
    if how == "heads last":
        return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    if how == "last axis":
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    if how == "reversed":
        return np.ascontiguousarray(x[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1]
    if how == "every second":
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    packed = np.zeros(x.shape, np.dtype([("pad", "u1"), ("x", x.dtype)]))
    packed["x"] = x
    return packed["x"]


@pytest.mark.parametrize("how", ["heads last", "last axis", "reversed", "every second", "misaligned"])
def test_strides_do_not_matter(how):
    plain, other = (Problem(B=2, Hq=4, Hk=2, last=20) for _ in range(2))
    other.q, other.k, other.v, other.do = (strided(x, how) for x in (plain.q, plain.k, plain.v, plain.do))
    assert other.q.strides != plain.q.strides
    assert_same(other.forward(), plain.forward())
    assert_same(other.backward(), plain.backward())


def test_repeated_operands():
    plain, other = (Problem(B=2, Hq=3, Hk=3) for _ in range(2))
    for name in ("q", "k", "v", "do"):
        x = np.broadcast_to(getattr(plain, name)[:1, :1], getattr(plain, name).shape)
        setattr(plain, name, x.copy())
        setattr(other, name, x)
    assert_same(other.forward(), plain.forward())
    assert_same(other.backward(), plain.backward())


def test_read_only_inputs_are_read():
    problem = Problem(bias=np.zeros((1, 2, 97, 131), np.float32), mask=np.ones((1, 2, 97, 131), bool))
    problem.dlse = np.zeros((1, 2, 97), np.float32)
    arrays = [problem.q, problem.k, problem.v, problem.do, problem.dlse, *problem.scoring.values()]
    for x in arrays:
        if isinstance(x, np.ndarray):
            x.setflags(write=False)
    problem.check()


def test_inputs_are_not_written():
    problem = Problem(Nq=130, last=0)
    before = [x.copy() for x in (problem.q, problem.k, problem.v, problem.do)]
    problem.backward()
    assert_same((problem.q, problem.k, problem.v, problem.do), before)


def test_band_wider_than_the_matrix():
    far = EVERYTHING**9
    wide, whole = Problem(first=-far, last=far, q_offset=far), Problem(first=-97, last=131)
    assert_same(wide.backward(), whole.backward())
