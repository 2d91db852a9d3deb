"""Attention with score_mod and mask_mod drawn from a grammar, forward and backward, on every kernel with options."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_flash.config import current_device
from numba_flash.testing.backends import GPU
from numba_flash.testing.mods import mask_mods, score_mods

from .agreement import assert_attention, assert_gradients
from .for_all import for_all


def holds(backend, case, score_mod, mask_mod):
    """o, lse, dq, dk and dv are those of the definition, which calls the functions as they are written."""
    x, options = case.arrays(), case.options()
    mods = {"score_mod": score_mod, "mask_mod": mask_mod}
    options |= {name: written.function() for name, written in mods.items() if written is not None}
    assert_attention(backend.attention(x.q, x.k, x.v, **options), case, x.q, x.k, x.v, **options)
    operands = (x.do, x.q, x.k, x.v, x.dlse)
    assert_gradients(backend.gradients(*operands, **options), case, *operands, **options)


def search(backend, **how):
    """Try `holds` on cases that suit a backend; `how` are settings of hypothesis."""
    drawn = {"case": backend.cases(), "score_mod": st.none() | score_mods(), "mask_mod": st.none() | mask_mods()}
    settings(**how)(given(**drawn)(holds))(backend=backend)


def test_mods(backend):
    search(backend, max_examples=max(1, settings.default.max_examples // 2))


test_mods.search = search


def every_place(score, b, h, i, j):
    return (1 + h) * math.tanh(score) + 0.25 * (i - 2 * j) / (1 + b + h)


@for_all()
def test_before_a_softcap(backend, case):
    """Which heads and batch entries scores are of; and the chain rule."""
    x, options = case.arrays(), {**case.options(), "score_mod": every_place, "softcap": 2.0}
    operands = (x.do, x.q, x.k, x.v, x.dlse)
    assert_gradients(backend.gradients(*operands, **options), case, *operands, **options)


@pytest.mark.parametrize("family", ["flash2_mma", "flash3"])
def test_mods_on_tensor_cores(kernels, family):
    if family == "flash3" and kernels is GPU and current_device(0).compute_capability != (9, 0):
        pytest.skip("needs compute capability 9.0")
    few = max(1, settings.default.max_examples // 4)
    search(kernels.on_tensor_cores(f"{family}_forward", f"{family}_backward"), max_examples=few)
