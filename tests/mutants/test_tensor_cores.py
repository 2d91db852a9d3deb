"""The same for kernels on tensor cores."""

from dataclasses import replace

import pytest
from hypothesis import Phase
from properties import test_copies

from numba_flash.simulator import SIMULATED, DivergentBarrier, MemoryFault, options
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.tiles import tiny_tiles

from .mutant import Mutant

pytestmark = pytest.mark.skipif(not SIMULATED, reason="mutants live in the simulator")

PRODUCT = test_copies.test_tensor_product
MMA, FRAGMENTS, SWIZZLED = "kernels.matmul_mma", "device.fragments", "device.swizzled"
FETCH = "fetch(As, Bs, last, A_rows, A_strides, B_cols, B_strides, row0, col0, x + LAST * BK, M, N, K)"
BARRIER = "cuda.syncthreads()  # stage `now` is written by all; everyone has read stage `last` before it changes"

MUTANTS = [
    Mutant("later stages are not fetched", MMA, FETCH, "pass", PRODUCT),
    Mutant("nobody waits for a stage", MMA, "wait(PENDING)", "pass", PRODUCT),
    Mutant("the stage may be in flight, too", MMA, "wait(PENDING)", "wait(LAST)", PRODUCT),
    Mutant("copies belong to no group", MMA, "x, col0, K, N)\n        commit()", "x, col0, K, N)", PRODUCT),
    Mutant("only stages with copies are groups", MMA, "        commit()", "            commit()", PRODUCT),
    Mutant("a stage is read before all of it is written", MMA, BARRIER, "pass", PRODUCT),
    Mutant("a stage is read before all of it has landed", MMA, BARRIER, "pass", PRODUCT, "early"),
    Mutant("a stage changes while another warp reads it", MMA, f"{BARRIER}\n            {FETCH}",
           f"{FETCH}\n            wait(LAST)\n            {BARRIER}", PRODUCT, "early"),
    Mutant("the stage that is multiplied is fetched again", MMA, "fetch(As, Bs, last,", "fetch(As, Bs, now,",
           PRODUCT, "early"),
    Mutant("a stale stage", MMA, "last = now", "pass", PRODUCT),
    Mutant("the same stage twice", MMA, "now = 0 if now == LAST else now + 1", "now = now if now == LAST else now + 1",
           PRODUCT),
    Mutant("A of another stage than B", MMA, "now * BM + row", "last * BM + row", PRODUCT),
    Mutant("every stage lies over the first", SWIZZLED, "to = top + r + y", "to = r + y", PRODUCT),
    Mutant("warps multiply the same rows", MMA, "now * BM + row", "now * BM", PRODUCT),
    Mutant("A is not swizzled", FRAGMENTS, "swizzled(r, col + c, columns)", "col + c", PRODUCT),
    Mutant("B is swizzled by other rows", FRAGMENTS, "swizzled(r, col + 16 * n + c", "swizzled(r + 4, col + 16 * n + c",
           PRODUCT),
    Mutant("B is loaded as it lies", FRAGMENTS, "ldmatrix_x4_trans(b, n,", "ldmatrix_x4(b, n,", PRODUCT),
    Mutant("A is transposed", FRAGMENTS, "ldmatrix_x4(a", "ldmatrix_x4_trans(a", PRODUCT),
    Mutant("quarters of A in the other order", FRAGMENTS, """r, c = down_then_right(lane())
        for m""", """r, c = lane() % 8 + lane() // 16 * 8, lane() // 8 % 2 * 8
        for m""", PRODUCT),
    Mutant("the neighbour's fragment of B", FRAGMENTS, "a, m, b, n)", "a, m, b, n ^ 1)", PRODUCT),
    Mutant("sums of another fragment", FRAGMENTS, "acc, m * N_FRAGMENTS + n,", "acc, m * N_FRAGMENTS,", PRODUCT),
    Mutant("rows of the accumulator", FRAGMENTS, "accumulator_place(lane(), 2 * half)",
           "accumulator_place(lane(), half)", PRODUCT),
    Mutant("two results change places", FRAGMENTS, "word & 0xFFFF, word >> 16", "word >> 16, word & 0xFFFF", PRODUCT),
    Mutant("a chunk is copied beyond its row", SWIZZLED, "min(inside, WHOLE) if exists", "WHOLE if exists", PRODUCT),
    Mutant("rows beyond the last are copied", SWIZZLED, "copy(tile, to, X, at, CHUNK, exists)",
           "copy(tile, to, X, at, CHUNK, True)", PRODUCT),
    Mutant("what does not exist is loaded", SWIZZLED, "element if exists else ZERO", "element", PRODUCT),
    Mutant("the column stride is forgotten", SWIZZLED, "step = strides[3] if ELEMENTS else 1", "step = 1", PRODUCT),
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_property_fails(mutant):
    wrong = pytest.raises((AssertionError, MemoryFault, DivergentBarrier))
    with mutant.alive(), tiny_tiles(), options(landing=mutant.landing), wrong:
        mutant.killed_by.search(SIMULATOR, max_examples=60, phases=[Phase.generate])


@pytest.mark.parametrize("landing", ["late", "early"])
@pytest.mark.parametrize("module", [MMA, FRAGMENTS, SWIZZLED])
def test_the_original_does_not(module, landing):
    """Made anew in the same way, but unchanged."""
    first = next(mutant for mutant in MUTANTS if mutant.module == module)
    with replace(first, new=first.old).alive(), tiny_tiles(), options(landing=landing):
        PRODUCT.search(SIMULATOR, max_examples=5)
