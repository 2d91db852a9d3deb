"""The tiled algorithms against the definition, for every small shape and every small tile."""

import itertools
from functools import partial

import numpy as np
import pytest

from numba_flash import algorithms, reference
from numba_flash.tiling import band

from .helpers import assert_same, normal

LENGTHS = range(10)
TILES = tuple(itertools.product(range(1, 6), repeat=2))
VISIBILITY = (
    {},
    {"causal": True},
    {"causal": True, "q_offset": 0},
    {"causal": True, "q_offset": -2},
    {"window": (1, 0)},
    {"window": (2, 1), "q_offset": 1},
    {"window": (0, None), "q_offset": 12},
)


def problem(Nq, Nk, seed=0, d=3, dv=2):
    """Q, K, V and dO of one head."""
    return normal(seed, Nq, d), normal(seed + 1, Nk, d), normal(seed + 2, Nk, dv), normal(seed + 3, Nq, dv)


def one_head(*arrays):
    return (x[None] for x in arrays)


def cases(Nq, Nk):
    """Every pair of tiles, with rules of visibility and scales in turn."""
    rules, scales = itertools.cycle(VISIBILITY), itertools.cycle((0.6, -1.0, 0.0, 3.0))
    for (Br, Bc), rule, scale in zip(TILES, rules, scales, strict=False):
        limits = band(Nq, Nk, rule.get("causal", False), rule.get("q_offset", Nk - Nq), rule.get("window"))
        yield (Br, Bc, scale, *limits), {**rule, "scale": scale}


FORWARD = {
    "flash1": algorithms.flash1_forward,
    "flash2": algorithms.flash2_forward,
    "flash3": algorithms.flash3_forward,
}
BACKWARD = {
    "flash1": algorithms.flash1_backward,
    "flash2": algorithms.flash2_backward,
    "flash2, deterministic": partial(algorithms.flash2_backward, deterministic=True),
}
UNTILED = (algorithms.attention_naive, algorithms.attention_two_pass, algorithms.attention_one_pass)


@pytest.mark.parametrize("forward", UNTILED, ids=lambda forward: forward.__name__)
def test_untiled(forward):
    for Nq, Nk in itertools.product(LENGTHS, repeat=2):
        Q, K, V, _ = problem(Nq, Nk)
        for (_, _, *limits), options in itertools.islice(cases(Nq, Nk), 2 * len(VISIBILITY)):
            O, LSE = forward(Q, K, V, *limits)
            (O_ref,), (LSE_ref,) = reference.attention(*one_head(Q, K, V), **options)
            assert_same(O, O_ref)
            assert_same(LSE, LSE_ref)


@pytest.mark.parametrize("Nq", LENGTHS)
@pytest.mark.parametrize("family", FORWARD)
def test_forward(family, Nq):
    for Nk in LENGTHS:
        Q, K, V, _ = problem(Nq, Nk)
        for tiles, options in cases(Nq, Nk):
            O, LSE = FORWARD[family](Q, K, V, *tiles)
            (O_ref,), (LSE_ref,) = reference.attention(*one_head(Q, K, V), **options)
            assert_same(O, O_ref)
            assert_same(LSE, LSE_ref)


@pytest.mark.parametrize("Nq", LENGTHS)
@pytest.mark.parametrize("family", BACKWARD)
def test_backward(family, Nq):
    for Nk in LENGTHS:
        Q, K, V, dO = problem(Nq, Nk)
        for n, (tiles, options) in enumerate(cases(Nq, Nk)):
            dLSE = normal(n, Nq) if n % 2 else None
            (O,), (LSE,) = reference.attention(*one_head(Q, K, V), **options)
            gradients = BACKWARD[family](dO, Q, K, V, O, LSE, *tiles, dLSE)
            extra = {} if dLSE is None else {"dlse": dLSE[None]}
            expected = reference.attention_vjp(*one_head(dO, Q, K, V), **extra, **options)
            for actual, (of_head,) in zip(gradients, expected, strict=True):
                assert_same(actual, of_head)


@pytest.mark.parametrize("family", FORWARD)
def test_every_rule_of_visibility_with_every_tile(family):
    Q, K, V, dO = problem(7, 9)
    for rule in VISIBILITY:
        limits = band(7, 9, rule.get("causal", False), rule.get("q_offset", 2), rule.get("window"))
        (O_ref,), (LSE_ref,) = reference.attention(*one_head(Q, K, V), scale=1.0, **rule)
        gradients_ref = reference.attention_vjp(*one_head(dO, Q, K, V), scale=1.0, **rule)
        for Br, Bc in TILES:
            O, LSE = FORWARD[family](Q, K, V, Br, Bc, 1.0, *limits)
            assert_same(O, O_ref)
            assert_same(LSE, LSE_ref)
            backward = BACKWARD.get(family, algorithms.flash2_backward)
            gradients = backward(dO, Q, K, V, O, LSE, Br, Bc, 1.0, *limits)
            for actual, (expected,) in zip(gradients, gradients_ref, strict=True):
                assert_same(actual, expected)


ALL_FORWARD = {
    **{f.__name__: f for f in UNTILED},
    **{family: lambda *args, f=f: f(*args[:3], 2, 4, *args[3:]) for family, f in FORWARD.items()},
}


@pytest.mark.parametrize("name", ALL_FORWARD)
def test_scores_beyond_the_exponential(name):
    Q, K, V, _ = problem(5, 6)
    O, LSE = ALL_FORWARD[name](Q, K, V, 1e4, -5, 6)
    (O_ref,), (LSE_ref,) = reference.attention(*one_head(Q, K, V), scale=1e4)
    assert np.abs(LSE_ref).max() > 1e4
    assert_same(LSE, LSE_ref)
    assert_same(O, O_ref, magnitude=np.abs(LSE_ref).max())


@pytest.mark.parametrize("name", ALL_FORWARD)
def test_arithmetic_is_that_of_the_operands(name):
    Q, K, V, dO = (x.astype(np.float32) for x in problem(5, 6))
    results = O, LSE = ALL_FORWARD[name](Q, K, V, 0.5, -5, 6)
    if name in BACKWARD:
        results += BACKWARD[name](dO, Q, K, V, O, LSE, 2, 4, 0.5, -5, 6)
    assert {x.dtype for x in results} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ALL_FORWARD)
def test_parts_merge_to_the_whole(name):
    """(LSE, O) with merge is a commutative monoid: the keys may be cut in two anywhere."""
    Q, K, V, _ = problem(5, 6)
    for cut in range(7):
        left = ALL_FORWARD[name](Q, K[:cut], V[:cut], 0.5, -5, 2)
        right = ALL_FORWARD[name](Q, K[cut:], V[cut:], 0.5, -5 - cut, 2 - cut)
        O, LSE = reference.merge(*left, *right)
        for actual, expected in zip((O, LSE), ALL_FORWARD[name](Q, K, V, 0.5, -5, 2), strict=True):
            assert_same(actual, expected)


def test_arithmetic_of_softmax_and_the_naive_product():
    Q, K, _, _ = (x.astype(np.float32) for x in problem(5, 6))
    results = algorithms.softmax_safe(Q), algorithms.softmax_online(Q, 4), algorithms.matmul_naive(Q, K.T)
    assert {x.dtype for x in results} == {np.dtype(np.float32)}


@pytest.mark.parametrize("N", [*LENGTHS, 33])
def test_softmax(N):
    X = np.stack([normal(0, N), 1e4 * normal(1, N), np.full(N, -np.inf), np.full(N, 700.0)])
    hidden = normal(2, N) > 0
    X = np.concatenate([X, np.where(hidden, -np.inf, X)])
    expected = reference.softmax(X)
    assert_same(algorithms.softmax_safe(X), expected)
    for T in (1, 2, 4, 8, 64):
        assert_same(algorithms.softmax_online(X, T), expected)


@pytest.mark.parametrize(("M", "N"), [*itertools.product((0, 1, 4, 5), repeat=2)])
def test_matmul(M, N):
    for K in (0, 1, 3, 4, 6):
        A, B = normal(K, M, K), normal(K + 1, K, N)
        assert_same(algorithms.matmul_naive(A, B), A @ B)
        for T in (1, 2, 3, 5):
            assert_same(algorithms.matmul_tiled(A, B, T), A @ B)
        for BM, BN, BK, TM, TN in ((4, 8, 2, 2, 4), (6, 16, 4, 3, 8), (2, 4, 1, 1, 4), (8, 4, 3, 8, 4)):
            assert_same(algorithms.matmul_registers(A, B, BM, BN, BK, TM, TN), A @ B)
