"""Sizes at which 32-bit offsets and the y axis of a grid would end."""

import numpy as np
import pytest

from numba_flash import flash_attention, flash_attention_backward
from numba_flash.testing.backends import GPU
from numba_flash.testing.case import Case

from .test_agreement import test_backward as backward
from .test_agreement import test_forward as forward

pytestmark = pytest.mark.gpu


def test_more_than_2_to_the_31_elements():
    """The last rows of q, o, do and dq lie beyond 2^31 elements; each array takes 4.3 GB."""
    import cupy

    d, Nk = 256, 3
    Nq = 2**31 // d + 5
    k, v = (cupy.asarray(np.random.default_rng(n).standard_normal((1, Nk, d)).astype(np.float16)) for n in (1, 2))
    q = cupy.zeros((1, Nq, d), np.float16)
    q[:, -5:] = cupy.asarray(np.random.default_rng(3).standard_normal((1, 5, d)).astype(np.float16))
    o, lse = flash_attention(q, k, v, causal=True, q_offset=-Nq + Nk, return_lse=True, kernel="flash2")
    dq, dk, dv = flash_attention_backward(q, q, k, v, o, lse, causal=True, q_offset=-Nq + Nk, kernel="flash2")
    tail = slice(Nq - 5, None)
    few = q[:, tail]
    few_o, few_lse = flash_attention(few, k, v, causal=True, return_lse=True, kernel="flash2")
    few_dq, few_dk, few_dv = flash_attention_backward(few, few, k, v, few_o, few_lse, causal=True, kernel="flash2")
    for large, small in (
        (o[:, tail], few_o),
        (lse[:, tail], few_lse),
        (dq[:, tail], few_dq),
        (dk, few_dk),
        (dv, few_dv),
    ):
        cupy.testing.assert_array_equal(large, small)


def test_more_than_65535_heads():
    case = Case(B=7001, Hq=10, Hk=10, Nq=2, Nk=3, d=4, dv=4)
    forward.holds(GPU, case)
    backward.holds(GPU, case)
