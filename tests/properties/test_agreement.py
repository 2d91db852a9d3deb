"""Agreement with the definition, for every option, layout, dtype and regime."""

import numpy as np
import pytest

from numba_flash.testing.case import Case

from .agreement import assert_attention, assert_gradients
from .for_all import for_all


@for_all(times=3)
def test_forward(backend, case):
    x, options = case.arrays(), case.options()
    assert_attention(backend.attention(x.q, x.k, x.v, **options), case, x.q, x.k, x.v, **options)


@for_all(times=2)
def test_backward(backend, case):
    x, options = case.arrays(), case.options()
    operands = (x.do, x.q, x.k, x.v, x.dlse)
    assert_gradients(backend.gradients(*operands, **options), case, *operands, **options)


@for_all()
def test_deterministic_backward(backend, case):
    """dQ in a kernel or in sums of its own."""
    x, options = case.arrays(), case.options()
    operands = (x.do, x.q, x.k, x.v, x.dlse)
    gradients = backend.gradients(*operands, deterministic=True, **options)
    assert_gradients(gradients, case, *operands, **options)


PRODUCTION = [
    Case(B=1, Hq=1, Hk=1, Nq=9, Nk=70, d=16, dv=32),
    Case(B=1, Hq=1, Hk=1, Nq=33, Nk=35, d=17, dv=5, causal=True, dlse=True),
    Case(B=1, Hq=1, Hk=1, Nq=9, Nk=33, d=64, dv=65, dtype="float64", layouts=("strided",) * 4, window=(7, 3)),
    Case(B=1, Hq=1, Hk=1, Nq=5, Nk=3, d=256, dv=200, dtype="bfloat16", mask=(1, 1, 5, 3)),
    Case(B=1, Hq=1, Hk=1, Nq=3, Nk=18, d=130, dv=256, dtype="float64", layouts=("strided",) * 4, softcap=2.0),
    Case(
        B=1,
        Hq=1,
        Hk=1,
        Nq=33,
        Nk=35,
        d=64,
        dv=64,
        softcap=2.0,
        alibi=("float32", (1, 1)),
        bias=("float32", (1, 1, 33, 35)),
    ),
    Case(B=1, Hq=1, Hk=1, Nq=5, Nk=33, d=128, dv=100, layouts=("strided",) * 4, mask=(1, 1, 5, 33)),
]


@pytest.mark.parametrize("case", PRODUCTION, ids=lambda case: f"{case.dtype}-{case.d}")
def test_production_tiles(simulator, case):
    """The tile sizes that run on a GPU: both dtypes of arithmetic, the widest heads, and with registers to spare."""
    test_forward.holds(simulator, case)
    test_backward.holds(simulator, case)
    test_deterministic_backward.holds(simulator, case)


@pytest.mark.parametrize("Nq, Nk", [(0, 3), (3, 0), (0, 0)])
def test_no_queries_or_no_keys(backend, Nq, Nk):
    q, k, v = (np.ones((1, 2, n, 4), np.float32) for n in (Nq, Nk, Nk))
    o, lse = backend.attention(q, k, v)
    assert o.shape == q.shape and not o.any()
    assert lse.shape == (1, 2, Nq) and np.isneginf(lse).all()
    for gradient, x in zip(backend.gradients(q, q, k, v), (q, k, v), strict=True):
        assert gradient.shape == x.shape and not gradient.any()
