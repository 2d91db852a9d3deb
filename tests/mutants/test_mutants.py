"""The properties are strong enough: every one of these wrong kernels fails the one that is meant for it."""

from dataclasses import replace

import pytest
from hypothesis import Phase
from properties import (
    test_agreement,
    test_algebra,
    test_gradients,
    test_locality,
    test_matmul,
    test_memory,
    test_softmax,
)

from numba_flash.simulator import SIMULATED, MemoryFault
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.tiles import tiny_tiles

from .mutant import Mutant

pytestmark = pytest.mark.skipif(not SIMULATED, reason="mutants live in the simulator")

FORWARD, BACKWARD, DELTA = "kernels.flash2_forward", "kernels.flash2_backward", "kernels.passes.delta"
SAFE, ONLINE, NAIVE = "kernels.softmax_safe", "kernels.softmax_online", "kernels.matmul_naive"
SCORES, SOFTMAX, TILES, TILING = "device.scores", "device.softmax", "device.tiles", "tiling"

MUTANTS = [
    Mutant("scale twice", SCORES, "x = s[r * TN + c] * scale\n", "x = s[r * TN + c] * scale * scale\n",
           test_agreement.test_forward),
    Mutant("last key dropped", SCORES, "if col >= Nk or", "if col >= Nk - 1 or",
           test_agreement.test_forward),
    Mutant("last key block dropped", TILING, "return low // Bc, cdiv(high, Bc)", "return low // Bc, high // Bc",
           test_agreement.test_forward),
    Mutant("ALiBi without q_offset", SCORES, "abs(row + q_offset - col)", "abs(row - col)",
           test_agreement.test_forward),
    Mutant("Kj, Vj change while they are read", FORWARD,
           "cuda.syncthreads()  # all warps have read the last Kj, Vj before they change", "pass",
           test_agreement.test_forward),
    Mutant("Kj, Vj are read before they are written", FORWARD,
           "cuda.syncthreads()  # Qi, Kj, Vj are written before anyone reads them", "pass",
           test_agreement.test_forward),
    Mutant("O is not rescaled", FORWARD, "rescale(acc, alpha)  # line 10", "pass  # line 10",
           test_algebra.test_ones_give_ones),
    Mutant("O is not divided by l", FORWARD, "else ONE / total", "else ONE",
           test_algebra.test_ones_give_ones),
    Mutant("LSE in base 2", FORWARD, "REAL(math.log(total))", "REAL(math.log2(total))",
           test_algebra.test_lse_normalizes_p),
    Mutant("another KV head", FORWARD, "hk = h // (Hq // Hk)", "hk = h % Hk",
           test_algebra.test_grouped_heads_are_repeated_heads),
    Mutant("gradients of one head of a group", BACKWARD, "(hk + 1) * group)", "hk * group + 1)",
           test_algebra.test_grouped_heads_are_repeated_heads),
    Mutant("the key behind the diagonal", SCORES, "col > row + last", "col > row + last + 1",
           test_locality.test_unseen_keys_may_hold_anything_finite),
    Mutant("-inf - -inf", SOFTMAX, "ZERO if m_new == NEG_INF else m_new", "m_new",
           test_locality.test_rows_that_see_nothing),
    Mutant("P of blind rows", SCORES, "if lse == NEG_INF or not exists:", "if not exists:",
           test_locality.test_rows_that_see_nothing),
    Mutant("delta without dLSE", DELTA, "total -= global_view(dLSE", "0 * global_view(dLSE",
           test_gradients.test_rows_of_ds_sum_to_dlse),
    Mutant("softcap has no derivative", SCORES, "ds *= derivative[r * TN + c]", "pass",
           test_gradients.test_directional_derivative),
    Mutant("dK without scale", BACKWARD, "dk[x] *= scale", "pass",
           test_gradients.test_directional_derivative),
    Mutant("P, dS are read before they are written", BACKWARD,
           "cuda.syncthreads()  # P and dS are written before other warps read them", "pass",
           test_agreement.test_backward),
    Mutant("a row behind the last", TILES, "width - c if row + r < N else 0", "width - c if row + r <= N else 0",
           test_memory.test_views_give_what_their_copies_give),
    Mutant("a row too much is written", FORWARD, "rg, cg, i * Br, Nq, dv)", "rg, cg, i * Br, Nq + 1, dv)",
           test_memory.test_outputs_are_written_once_and_nothing_else),
    Mutant("As, Bs change while they are read", "kernels.matmul_tiled",
           "cuda.syncthreads()  # everyone has read As, Bs before they change", "pass",
           test_matmul.test_product),
    Mutant("no maximum is subtracted", SAFE, "m = reduce_max(partial, m)", "m = ZERO",
           test_softmax.test_softmax),
    Mutant("every thread subtracts a maximum of its own", SAFE, "m = reduce_max(partial, m)", "pass",
           test_softmax.test_rows_sum_to_one),
    Mutant("0 instead of -inf below all maxima", SAFE, "m = NEG_INF", "m = ZERO",
           test_softmax.test_shifting_a_row_changes_no_bit),
    Mutant("a row of -inf is 0 / 0", SAFE, "ONE if l == ZERO else l", "l",
           test_softmax.test_softmax),
    Mutant("the column stride is forgotten", SAFE, "x[i * step]) - pivot)  # (2)", "x[i]) - pivot)  # (2)",
           test_softmax.test_views_give_what_their_copies_give),
    Mutant("an element too much is written", SAFE, """range(t, N, T):
            y[i]""", """range(t, N + 1, T):
            y[i]""",
           test_softmax.test_outputs_are_written_once_and_nothing_else),
    Mutant("a half is read before it is written", SAFE,
           "cuda.syncthreads()  # the upper half is written before the lower half reads it", "pass",
           test_softmax.test_softmax),
    Mutant("the sum overwrites a maximum that is still read", SAFE,
           "cuda.syncthreads()  # everyone has read the last result before it changes", "pass",
           test_softmax.test_softmax),
    Mutant("a maximum is read before it is final", SAFE,
           "cuda.syncthreads()  # the result is written before everyone reads it", "pass",
           test_softmax.test_the_order_of_threads_changes_no_bit),
    Mutant("l is not rescaled when m grows", ONLINE, "l1 * exp(m1 - pivot)", "l1",
           test_softmax.test_rows_sum_to_one),
    Mutant("a merge takes the later maximum, not the larger", ONLINE, "m = max(m1, m2)", "m = m2",
           test_softmax.test_softmax),
    Mutant("0 instead of -inf in the identity", ONLINE, "m, l = NEG_INF, ZERO", "m, l = ZERO, ZERO",
           test_softmax.test_shifting_a_row_changes_no_bit),
    Mutant("every thread begins with the first element", ONLINE, "m, l = NEG_INF, ZERO", "m, l = to_real(x[0]), ONE",
           test_softmax.test_rows_sum_to_one),
    Mutant("the last element is dropped", ONLINE, """range(t, N, T):
            m, l""", """range(t, N - 1, T):
            m, l""",
           test_softmax.test_rows_sum_to_one),
    Mutant("half of the threads' states are not merged", ONLINE, "half = T // 2", "half = T // 4",
           test_softmax.test_the_whole_is_the_merge_of_its_halves),
    Mutant("a state is merged before it is written", ONLINE,
           "cuda.syncthreads()  # the upper half is written before the lower half reads it", "pass",
           test_softmax.test_softmax),
    Mutant("the row's state is read before it is final", ONLINE,
           "cuda.syncthreads()  # the row's state is written before everyone reads it", "pass",
           test_softmax.test_the_order_of_threads_changes_no_bit),
    Mutant("the last product is dropped", NAIVE, "range(K)", "range(K - 1)",
           test_matmul.test_product),
    Mutant("every batch is the first one", NAIVE, "index // (M * N), index // N % M", "0, index // N % M",
           test_matmul.test_product),
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_property_fails(mutant):
    with mutant.alive(), tiny_tiles(), pytest.raises((AssertionError, MemoryFault)):
        mutant.killed_by.search(SIMULATOR, max_examples=60, phases=[Phase.generate])


@pytest.mark.parametrize("killer", dict.fromkeys(m.killed_by for m in MUTANTS), ids=lambda test: test.__name__)
def test_the_original_does_not(killer):
    """Made anew in the same way, but unchanged."""
    original = replace(MUTANTS[0], new=MUTANTS[0].old)
    with original.alive(), tiny_tiles():
        killer.search(SIMULATOR, max_examples=3)


def test_a_mutant_must_be_applicable():
    with pytest.raises(LookupError, match="occurs 0 times"), replace(MUTANTS[0], old="no such line").alive():
        pass
