"""Attention with score_mod and mask_mod drawn from a grammar, forward and backward, on every kernel with options."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_flash.config import current_device
from numba_flash.testing.backends import GPU
from numba_flash.testing.mods import mask_mods, score_mods

from .agreement import assert_attention, assert_gradients


def holds(backend, case, score_mod, mask_mod):
    """o, lse, dq, dk and dv are those of the definition, which calls the functions as they are written."""
    x, options = case.arrays(), case.options()
    mods = {"score_mod": score_mod, "mask_mod": mask_mod}
    options |= {name: written.function() for name, written in mods.items() if written is not None}
    assert_attention(backend.attention(x.q, x.k, x.v, **options), case, x.q, x.k, x.v, **options)
    operands = (x.do, x.q, x.k, x.v, x.dlse)
    assert_gradients(backend.gradients(*operands, **options), case, *operands, **options)


def search(backend, examples, **restrictions):
    """Try `holds` on so many cases."""
    drawn = {"case": backend.cases(**restrictions), "score_mod": st.none() | score_mods()}
    drawn["mask_mod"] = st.none() | mask_mods()
    settings(max_examples=examples)(given(**drawn)(holds))(backend=backend)


def test_mods(backend):
    search(backend, max(1, settings.default.max_examples // 2))


@pytest.mark.parametrize("family", ["flash2_mma", "flash3"])
def test_mods_on_tensor_cores(kernels, family):
    if family == "flash3" and kernels is GPU and current_device(0).compute_capability != (9, 0):
        pytest.skip("needs compute capability 9.0")
    few = max(1, settings.default.max_examples // 4)
    search(kernels.on_tensor_cores(f"{family}_forward", f"{family}_backward"), few)
