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
FETCH = "fetch(As, Bs, now, A_rows, A_strides, B_cols, B_strides, row0, col0, x + STAGES * BK, M, N, K)"
BARRIER = "cuda.syncthreads()  # stage `following` is written; everyone has read stage `now` before it changes"
FOLLOWING = "following * BM + row, following * BK"

MUTANTS = [
    Mutant("later stages are not fetched", MMA, FETCH, "pass", PRODUCT),
    Mutant("nobody waits for a stage", MMA, "wait(PENDING)", "pass", PRODUCT),
    Mutant("nobody waits for the first stage", MMA, "wait(LAST)", "pass", PRODUCT),
    Mutant("the stage may be in flight, too", MMA, "wait(PENDING)", "wait(LAST)", PRODUCT),
    Mutant("copies belong to no group", MMA, "x, col0, K, N)\n        commit()", "x, col0, K, N)", PRODUCT),
    Mutant("only stages with copies are groups", MMA, "        commit()", "            commit()", PRODUCT),
    Mutant("a stage is read before all of it is written", MMA, BARRIER, "pass", PRODUCT),
    Mutant("a stage is read before all of it has landed", MMA, BARRIER, "pass", PRODUCT, "early"),
    Mutant("a stage changes while another warp reads it", MMA, f"wait(PENDING)\n            {BARRIER}",
           f"{FETCH}\n            wait(LAST)\n            {BARRIER}", PRODUCT, "early"),
    Mutant("the next stage is fetched over", MMA, "fetch(As, Bs, now,", "fetch(As, Bs, following,", PRODUCT, "early"),
    Mutant("a stale stage", MMA, "now = following", "pass", PRODUCT),
    Mutant("the same stage twice", MMA, "0 if now == LAST else now + 1", "now if now == LAST else now + 1", PRODUCT),
    Mutant("A of another stage than B", MMA, FOLLOWING, "now * BM + row, following * BK", PRODUCT),
    Mutant("the first slice twice", MMA, "col, 16 * y + 16)", "col, 16 * y)", PRODUCT),
    Mutant("a slice is multiplied in the other's place", MMA, "multiply_slice(acc, a, b, y % 2)",
           "multiply_slice(acc, a, b, (y + 1) % 2)", PRODUCT),
    Mutant("a chunk is read before it is written", FRAGMENTS,
           "cuda.syncwarp()  # the rows are written before other lanes read them", "pass", PRODUCT),
    Mutant("chunks of C in another order", FRAGMENTS, "uint64(swizzled(r, c, columns) // 2)", "uint64(c // 2)",
           PRODUCT),
    Mutant("a chunk beyond the last column", FRAGMENTS, "row < N and col < width", "row < N", PRODUCT),
    Mutant("every stage lies over the first", SWIZZLED, "to = top + r + y", "to = r + y", PRODUCT),
    Mutant("warps multiply the same rows", MMA, "now * BM + row", "now * BM", PRODUCT),
    Mutant("A is not swizzled", FRAGMENTS, "swizzled(r, col + c, columns)", "col + c", PRODUCT),
    Mutant("B is swizzled by other rows", FRAGMENTS, "swizzled(r, col + 16 * n + c", "swizzled(r + 4, col + 16 * n + c",
           PRODUCT),
    Mutant("B is loaded as it lies", FRAGMENTS, "ldmatrix_x4_trans(b, place", "ldmatrix_x4(b, place", PRODUCT),
    Mutant("A is transposed", FRAGMENTS, "ldmatrix_x4(a", "ldmatrix_x4_trans(a", PRODUCT),
    Mutant("quarters of A in the other order", FRAGMENTS, """r, c = down_then_right(lane())
        for m""", """r, c = lane() % 8 + lane() // 16 * 8, lane() // 8 % 2 * 8
        for m""", PRODUCT),
    Mutant("the neighbour's fragment of B", FRAGMENTS, "place * N_FRAGMENTS + n)", "place * N_FRAGMENTS + n ^ 1)",
           PRODUCT),
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
