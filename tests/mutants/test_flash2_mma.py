"""The same for flash2_mma_forward."""

from dataclasses import replace

import pytest
from hypothesis import Phase
from properties import test_tensor_cores

from numba_flash.config import GradientTiles, Tiles
from numba_flash.simulator import SIMULATED, DivergentBarrier, MemoryFault, options
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.tiles import fragment_tiles, tiny_tiles

from .mutant import Mutant

pytestmark = pytest.mark.skipif(not SIMULATED, reason="mutants live in the simulator")

ATTENTION = test_tensor_cores.copied
FORWARD, FRAGMENTS, SOFTMAX = "kernels.flash2_mma_forward", "device.fragments", "device.softmax"
ARRIVED = "cuda.syncthreads()  # Qi, Kj are written; everyone has read the last Vj before it changes"
READ = "cuda.syncthreads()  # Vj is written; everyone has read Kj before it changes"

MUTANTS = [
    Mutant("nobody waits for Qi, Kj", FORWARD, f"wait(0)\n            {ARRIVED}", ARRIVED, ATTENTION),
    Mutant("nobody waits for Vj", FORWARD, f"wait(0)\n            {READ}", READ, ATTENTION),
    Mutant("Vj may be in flight", FORWARD, f"wait(0)\n            {READ}", f"wait(1)\n            {READ}", ATTENTION),
    Mutant("the next Kj is not fetched", FORWARD, "load_k(Kj, 0, Kh, K_strides, (j + 1) * Bc, 0, Nk, d)", "pass",
           ATTENTION),
    Mutant("Vj is read before all of it has landed", FORWARD, READ, "pass", ATTENTION),
    Mutant("the next Kj lands while Kj is read", FORWARD, READ, "pass", ATTENTION, "early"),
    Mutant("Vj lands while the last one is read", FORWARD, ARRIVED, "pass", ATTENTION, "early"),
    Mutant("O is not rescaled", FORWARD, "rescale(acc, alpha)  # line 10", "pass  # line 10", ATTENTION),
    Mutant("LSE in base 2", SOFTMAX, "REAL(math.log(total))", "REAL(math.log2(total))", ATTENTION),
    Mutant("all warps own the same rows", FORWARD, "(cuda.threadIdx.x >> 5) * HEIGHT", "0", ATTENTION),
    Mutant("another KV head", FORWARD, "hk = quotient(h, quotient(Hq, Hk))", "hk = h % Hk", ATTENTION),
    Mutant("l of one lane", SOFTMAX, "row_sum(l[r])", "l[r]", ATTENTION),
    Mutant("two neighbours of P change places", FRAGMENTS, "pair(s[2 * n], s[2 * n + 1])",
           "pair(s[2 * n + 1], s[2 * n])", ATTENTION),
    Mutant("K as if it were transposed", FRAGMENTS, "r, c = right_then_down(lane())\n        for left",
           "r, c = down_then_right(lane())\n        for left",
           ATTENTION),
    Mutant("keys of another fragment", FRAGMENTS, "mma(s, m * N + n + 1, a, m, b, 1)",
           "mma(s, m * N + n + 1, a, m, b, 0)", ATTENTION),
    Mutant("V of other keys than P", FRAGMENTS, "(top + 16 * x + r, swizzled(r, col + 8 * n",
           "(top + 16 * x + (r ^ 1), swizzled(r, col + 8 * n", ATTENTION),
    Mutant("V is loaded as it lies", FRAGMENTS, "ldmatrix_x4_trans(b, 0, Bs, (top + 16 * x",
           "ldmatrix_x4(b, 0, Bs, (top + 16 * x", ATTENTION),
    Mutant("LSE of neighbouring rows", SOFTMAX, "row0 + (rg + 8 * r) // packed", "row0 + (rg + r) // packed",
           ATTENTION),
]  # fmt: skip


def search(**how):
    """As `test_tensor_cores`, in blocks of two warps."""
    with fragment_tiles(Tiles(32, 16, 32, 32, 2, 4), GradientTiles(32, 16, 32, 32, 1, 2)):
        ATTENTION.search(SIMULATOR.on_tensor_cores(test_tensor_cores.FORWARD, test_tensor_cores.BACKWARD), **how)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_property_fails(mutant):
    wrong = pytest.raises((AssertionError, MemoryFault, DivergentBarrier))
    with mutant.alive(), tiny_tiles(), options(landing=mutant.landing), wrong:
        search(max_examples=60, phases=[Phase.generate])


@pytest.mark.parametrize("landing", ["late", "early"])
@pytest.mark.parametrize("module", [FORWARD, FRAGMENTS, SOFTMAX])
def test_the_original_does_not(module, landing):
    """Made anew in the same way, but unchanged."""
    first = next(mutant for mutant in MUTANTS if mutant.module == module)
    with replace(first, new=first.old).alive(), tiny_tiles(), options(landing=landing):
        search(max_examples=5)
