"""What the naive evaluations allow a kernel, where one of them shows it."""

import numpy as np
import pytest

from numba_flash import reference
from numba_flash.testing.naive import EVALUATIONS, ON_TENSOR_CORES, evaluate, evaluate_gradients, naive_gradients


def scores_of_10000(dtype):
    """Rows that see one key alone, whose score is rounded in base 2."""
    rng = np.random.default_rng(0)
    q, k = (np.rint(100 * rng.standard_normal((1, 1, 200, 11))).astype(dtype) for _ in range(2))
    return (rng.standard_normal((1, 1, 200, 1)).astype(dtype), q, k, rng.standard_normal((1, 1, 200, 1)).astype(dtype))


@pytest.mark.parametrize("how", ON_TENSOR_CORES, ids=str)
@pytest.mark.parametrize("options", [{}, {"softcap": 1e6}, {"causal": True, "scale": -0.25}, {"scale": 0.0}])
def test_base_2_is_the_same_function(how, options):
    rng = np.random.default_rng(1)
    do, q, k, v = rng.standard_normal((4, 1, 2, 7, 8))
    o, lse = reference.attention(q, k, v, **options)
    found = evaluate(how, q, k, v, **options)
    np.testing.assert_allclose(found.o, o, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.lse, lse, rtol=1e-5)
    gradients = evaluate_gradients(how, do, q, k, v, None, **options)
    for out, ref in zip(gradients, reference.attention_vjp(do, q, k, v, **options), strict=True):
        np.testing.assert_allclose(out, ref, rtol=1e-4, atol=1e-5)


def test_a_rounded_maximum_shows_in_16_bits():
    """P, then rounded, is not exactly l, so O is not always exactly V, and dQ = P*(dP - delta) K not 0."""
    do, q, k, v = scores_of_10000("float16")
    exact = reference.attention_vjp(do, q, k, v)[0]
    errors = np.abs(naive_gradients(do, q, k, v)[0] - exact).max(axis=(1, 2, 3, 4))
    assert errors[-len(ON_TENSOR_CORES)] > 3 * errors[: len(EVALUATIONS)].max()


def test_a_maximum_below_shows_in_rows_of_one_key():
    """P is not 1, so rounding it changes O, which otherwise is exactly V."""
    k = 12 * np.eye(16, dtype=np.float16)[None, None]
    v = np.random.default_rng(2).standard_normal((1, 1, 16, 3)).astype(np.float16)
    at, below = (np.abs(evaluate(how, k, k, v, scale=1.0).o - v).max() for how in ON_TENSOR_CORES)
    assert at == 0 < below
