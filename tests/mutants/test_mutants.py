"""The properties are strong enough: every one of these wrong kernels fails the one that is meant for it."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import Phase
from properties import (
    test_agreement,
    test_algebra,
    test_copies,
    test_gradients,
    test_locality,
    test_matmul,
    test_memory,
    test_softmax,
)

from numba_flash.config import Tiles
from numba_flash.simulator import SIMULATED, MemoryFault, options
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.tiles import attention_tiles, tiny_tiles

from .mutant import Mutant

pytestmark = pytest.mark.skipif(not SIMULATED, reason="mutants live in the simulator")

FORWARD, BACKWARD, DELTA = "kernels.flash2_forward", "kernels.flash2_backward", "kernels.passes.delta"
SAFE, ONLINE, NAIVE = "kernels.softmax_safe", "kernels.softmax_online", "kernels.matmul_naive"
REGISTERS, PRODUCTS = "kernels.matmul_registers", "device.products"
SCORES, SOFTMAX, TILES, TILING = "device.scores", "device.softmax", "device.tiles", "tiling"
ARRIVED = "cuda.syncthreads()  # Qi, Kj are written; everyone has read the last Vj before it changes"
WRITTEN = "cuda.syncthreads()  # P and Vj are written; everyone has read Kj before it changes"

MUTANTS = [
    Mutant("scale twice", SCORES, "s[x] *= scale\n", "s[x] *= scale * scale\n",
           test_agreement.test_forward),
    Mutant("last key dropped", SCORES, "min(row + last + 1, Nk)", "min(row + last + 1, Nk - 1)",
           test_agreement.test_forward),
    Mutant("last key block dropped", TILING, "return low // Bc, cdiv(high, Bc)", "return low // Bc, high // Bc",
           test_agreement.test_forward),
    Mutant("ALiBi without q_offset", SCORES, "abs(row + q_offset - col)", "abs(row - col)",
           test_agreement.test_forward),
    Mutant("the key behind the diagonal", SCORES, "min(row + last + 1, Nk)", "min(row + last + 2, Nk)",
           test_locality.test_unseen_keys_may_hold_anything_finite),
    Mutant("-inf - -inf", SOFTMAX, "ZERO if m_new == NEG_INF else m_new", "m_new",
           test_locality.test_rows_that_see_nothing),
    Mutant("P of blind rows", SCORES, "if lse == NEG_INF or not exists:", "if not exists:",
           test_locality.test_rows_that_see_nothing),
    Mutant("softcap has no derivative", SCORES, "ds *= derivative[at(r, c)]", "pass",
           test_gradients.test_directional_derivative),
    Mutant("delta without dLSE", DELTA, "total -= global_view(dLSE", "0 * global_view(dLSE",
           test_gradients.test_rows_of_ds_sum_to_dlse),

    Mutant("O is not rescaled", FORWARD, "rescale(acc, alpha)  # line 10", "pass  # line 10",
           test_algebra.test_ones_give_ones),
    Mutant("O is not divided by l", FORWARD, "else ONE / total", "else ONE",
           test_algebra.test_ones_give_ones),
    Mutant("LSE in base 2", FORWARD, "REAL(math.log(total))", "REAL(math.log2(total))",
           test_algebra.test_lse_normalizes_p),
    Mutant("another KV head", FORWARD, "hk = h // (Hq // Hk)", "hk = h % Hk",
           test_algebra.test_grouped_heads_are_repeated_heads),
    Mutant("a row too much is written", FORWARD, "one, rg, cg, i * Br, Nq, dv)", "one, rg, cg, i * Br, Nq + 1, dv)",
           test_memory.test_outputs_are_written_once_and_nothing_else),
    Mutant("a part of the keys forgets those before", FORWARD, "l[r] *= share", "pass",
           test_agreement.test_forward),
    Mutant("keys of an earlier part are met again", FORWARD, "max(begin, part_begin)", "begin",
           test_agreement.test_forward),
    Mutant("LSE is written before all lanes have read it", FORWARD,
           "cuda.syncwarp()  # every lane", "pass  # every lane",
           test_agreement.test_forward),
    Mutant("P is not transposed", TILES, "(column_of(cg, c), row_of(rg, r))", "(row_of(rg, r), column_of(cg, c))",
           test_agreement.test_forward),
    Mutant("the next Kj is not fetched", FORWARD, "load_k(Kj, Kh, K_strides, j * Bc, 0, Nk, d)", "pass",
           test_agreement.test_forward),
    Mutant("Qi, Kj are read before all of them is written", FORWARD, ARRIVED, "pass",
           test_agreement.test_forward),
    Mutant("the next Kj lands while Kj is read", FORWARD, WRITTEN, "pass",
           test_copies.test_forward, "early"),
    Mutant("P, Vj are read before they are written", FORWARD, WRITTEN, "pass",
           test_agreement.test_forward),
    Mutant("nobody waits for Qi, Kj", FORWARD, f"wait(0)\n            {ARRIVED}", ARRIVED,
           test_copies.test_forward),
    Mutant("nobody waits for Vj", FORWARD, f"wait(0)\n            {WRITTEN}", WRITTEN,
           test_copies.test_forward),
    Mutant("Vj belongs to the group of the next Kj", FORWARD, """V_strides, j * Bc, 0, Nk, dv)
            commit()""", "V_strides, j * Bc, 0, Nk, dv)",
           test_copies.test_forward),
    Mutant("the next Kj belongs to the group of the next Vj", FORWARD, """K_strides, j * Bc, 0, Nk, d)
        commit()""", "K_strides, j * Bc, 0, Nk, d)",
           test_copies.test_forward),

    Mutant("gradients of one head of a group", BACKWARD, "(hk + 1) * group)", "hk * group + 1)",
           test_algebra.test_grouped_heads_are_repeated_heads),
    Mutant("dQ of another head of the group", BACKWARD, "add_dq(global_view(dQ, (b * Hq + h)",
           "add_dq(global_view(dQ, (b * Hq + hk * group)",
           test_agreement.test_backward),
    Mutant("dK without scale", BACKWARD, "d, dk, scale", "d, dk, one",
           test_gradients.test_directional_derivative),
    Mutant("dQ without scale", BACKWARD, "* d, REAL), d, dq, scale", "* d, REAL), d, dq, one",
           test_gradients.test_directional_derivative),
    Mutant("the LSE of another row", SCORES, "row = row0 + row_of(rg, r)\n            exists",
           "row = row0 + TM * rg + r\n            exists",
           test_agreement.test_backward),
    Mutant("dQ is overwritten instead of added", TILES, "add(X, at + y, factor * acc[x + y])",
           "X[at + y] = factor * acc[x + y]",
           test_agreement.test_backward),
    Mutant("four of dQ are overwritten instead of added", TILES, "add4(X, at,", "store4(X, at,",
           test_copies.test_backward),
    Mutant("dQ is added without being zeros before", DELTA, "dq[x] = ZERO", "pass",
           test_memory.test_outputs_are_written_once_and_nothing_else),
    Mutant("dQ of 16 bits stays in its sum", "rungs.flash2_backward",
           "[*before, *convert_pass.launches(dq_sum, dq)]", "before",
           test_memory.test_outputs_are_written_once_and_nothing_else),
    Mutant("the last elements keep no dQ", "kernels.passes.convert", "min(begin + elements, count)",
           "min(begin + elements, count - 1)",
           test_memory.test_outputs_are_written_once_and_nothing_else),
    Mutant("dS K of the last query block is added again", BACKWARD, "fill(dq, DQ, ZERO)\n                    m",
           "m",
           test_agreement.test_backward),
    Mutant("the next dOi is not fetched", BACKWARD, "load_do(dOi, dOh, dO_strides, (i + 1) * Br, 0, Nq, dv)", "pass",
           test_agreement.test_backward),
    Mutant("Kj, Vj, dOi are read before all of them is written", BACKWARD,
           "cuda.syncthreads()  # Kj, Vj, dOi are written; everyone has read the last Qi, dS before they change",
           "pass",
           test_agreement.test_backward),
    Mutant("Qi is read before all of it is written", BACKWARD,
           "cuda.syncthreads()  # Qi is written before anyone reads it", "pass",
           test_copies.test_backward),
    Mutant("P is read before it is written", BACKWARD,
           "cuda.syncthreads()  # P is written before other warps read it", "pass",
           test_agreement.test_backward),
    Mutant("the next dOi lands while dOi is read", BACKWARD,
           "cuda.syncthreads()  # everyone has read dOi and P before they change", "pass",
           test_copies.test_backward, "early"),
    Mutant("dS is read before it is written", BACKWARD,
           "cuda.syncthreads()  # dS is written before other warps read it", "pass",
           test_agreement.test_backward),
    Mutant("nobody waits for Kj, Vj, dOi", BACKWARD, "wait(0)\n                cuda.syncthreads()  # Kj",
           "cuda.syncthreads()  # Kj",
           test_copies.test_backward),
    Mutant("nobody waits for Qi", BACKWARD, "wait(0)\n                cuda.syncthreads()  # Qi",
           "cuda.syncthreads()  # Qi",
           test_copies.test_backward),
    Mutant("Qi belongs to the group of the next dOi", BACKWARD, """load_q(Qi, Qh, Q_strides, i * Br, 0, Nq, d)
                commit()""", "load_q(Qi, Qh, Q_strides, i * Br, 0, Nq, d)",
           test_copies.test_backward),
    Mutant("the next dOi belongs to the group of the next Qi", BACKWARD, """(i + 1) * Br, 0, Nq, dv)
                commit()""", "(i + 1) * Br, 0, Nq, dv)",
           test_copies.test_backward),

    Mutant("the next Vj is not fetched", BACKWARD, "load_v(Vj, Vh, V_strides, (j + 1) * Bc, 0, Nk, dv)", "pass",
           test_agreement.test_deterministic_backward),
    Mutant("Qi, dOi, Vj are read before all of them is written", BACKWARD,
           "cuda.syncthreads()  # Qi, dOi, Vj are written; everyone has read the last Kj before it changes", "pass",
           test_agreement.test_deterministic_backward),
    Mutant("the next Vj lands while Vj is read", BACKWARD,
           "cuda.syncthreads()  # everyone has read Vj before it changes", "pass",
           test_copies.test_deterministic_backward, "early"),
    Mutant("Kj is read before all of it is written", BACKWARD,
           "cuda.syncthreads()  # Kj is written before anyone reads it", "pass",
           test_copies.test_deterministic_backward),
    Mutant("other lanes read dS before it is written", BACKWARD,
           "cuda.syncwarp()  # a row of dS is written by the lanes of one warp and read by them alone", "pass",
           test_agreement.test_deterministic_backward),
    Mutant("nobody waits for Qi, dOi, Vj", BACKWARD, "wait(0)\n            cuda.syncthreads()  # Qi, dOi",
           "cuda.syncthreads()  # Qi, dOi",
           test_copies.test_deterministic_backward),
    Mutant("nobody waits for Kj", BACKWARD, "wait(1)\n", "pass\n",
           test_copies.test_deterministic_backward),
    Mutant("Kj belongs to the group of the next Vj", BACKWARD, """load_k(Kj, Kh, K_strides, j * Bc, 0, Nk, d)
            commit()""", "load_k(Kj, Kh, K_strides, j * Bc, 0, Nk, d)",
           test_copies.test_deterministic_backward),

    Mutant("a row behind the last", TILES, "if row + r + y < N else NOTHING  #", "if row + r + y <= N else NOTHING  #",
           test_memory.test_views_give_what_their_copies_give),
    Mutant("a row behind the last one of a transposed tile", TILES, "if row + r + y < N else NOTHING\n",
           "if row + r + y <= N else NOTHING\n",
           test_memory.test_views_give_what_their_copies_give),
    Mutant("rows and columns behind the last are copied", TILES,
           "copy(tile, (r + y, c + x), X, at + x, PIECE, x < count)",
           "copy(tile, (r + y, c + x), X, at + x, PIECE, True)",
           test_copies.test_forward),
    Mutant("the column stride of a transposed tile is forgotten", TILES,
           "* LANES) * PIECE\n        step = 1 if COPIES or VECTORS",
           "* LANES) * PIECE\n        step = 1 if True",
           test_memory.test_views_give_what_their_copies_give),

    Mutant("the next As, Bs are not fetched", REGISTERS,
           "fetch(next_As, next_Bs, A_rows, A_strides, B_cols, B_strides, row0, col0, x + BK, M, N, K)", "pass",
           test_matmul.test_product),
    Mutant("the next As, Bs are fetched from one step too far", REGISTERS, "x + 2 * BK, M", "x + 3 * BK, M",
           test_matmul.test_product),
    Mutant("As, Bs are read before all of them is written", REGISTERS,
           "cuda.syncthreads()  # As, Bs are written; everyone has read next_As, next_Bs before they change", "pass",
           test_matmul.test_product),
    Mutant("the As, Bs after the next land while As, Bs are read", REGISTERS,
           "cuda.syncthreads()  # next_As, next_Bs are written; everyone has read As, Bs before they change", "pass",
           test_copies.test_product, "early"),
    Mutant("nobody waits for As, Bs", REGISTERS, "wait(0)\n            cuda.syncthreads()  # As",
           "cuda.syncthreads()  # As",
           test_copies.test_product),
    Mutant("nobody waits for next_As, next_Bs", REGISTERS, "wait(0)\n            cuda.syncthreads()  # next",
           "cuda.syncthreads()  # next",
           test_copies.test_product),
    Mutant("copies of As, Bs belong to no group", REGISTERS, "K, N)\n        commit()", "K, N)",
           test_copies.test_product),
    Mutant("a thread multiplies rows that it does not own", PRODUCTS,
           "(x + y, 4 * rg + RG * r)", "(x + y, TM * rg + r)",
           test_matmul.test_product),
    Mutant("a thread writes rows that it does not own", TILES, """row0 + row_of(rg, r)
            for c in range(0, TN, 4):
                x, col = r * TN + c, column_of(cg, c)
                count""", """row0 + TM * rg + r
            for c in range(0, TN, 4):
                x, col = r * TN + c, column_of(cg, c)
                count""",
           test_matmul.test_product),

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
    with mutant.alive(), tiny_tiles(), options(landing=mutant.landing), pytest.raises((AssertionError, MemoryFault)):
        mutant.killed_by.search(SIMULATOR, max_examples=60, phases=[Phase.generate])


KILLERS = [
    pytest.param(*killer, id=f"{killer[0].__module__.rpartition('.')[2]}-{killer[0].__name__}-{killer[1]}")
    for killer in dict.fromkeys((mutant.killed_by, mutant.landing) for mutant in MUTANTS)
]


@pytest.mark.parametrize(("killer", "landing"), KILLERS)
def test_the_original_does_not(killer, landing):
    """Made anew in the same way, but unchanged."""
    original = replace(MUTANTS[0], new=MUTANTS[0].old)
    with original.alive(), tiny_tiles(), options(landing=landing):
        killer.search(SIMULATOR, max_examples=1)


P_IN_PLACE_OF_KJ = [
    Mutant("P is written while Kj is read", FORWARD,
           "cuda.syncthreads()  # everyone has read Kj before P takes its place", "pass", test_agreement.test_forward),
    Mutant("the next Kj lands while P is read", FORWARD,
           "cuda.syncthreads()  # everyone has read P before Kj takes its place", "pass",
           test_copies.test_forward, "early"),
    Mutant("nobody waits for Vj, the last to come", FORWARD, f"wait(0)\n            {WRITTEN}", WRITTEN,
           test_copies.test_forward),
]  # fmt: skip


@contextmanager
def p_in_place_of_kj():
    """Blocks of two warps in which P takes Kj's place."""
    with tiny_tiles(), attention_tiles(Tiles(32, 8, 32, 32, 4, 8, tight=True), Tiles(8, 16, 32, 32, 2, 8)):
        yield


@pytest.mark.parametrize("mutant", P_IN_PLACE_OF_KJ, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_property_fails_where_p_takes_the_place_of_kj(mutant):
    with p_in_place_of_kj():
        mutant.killed_by.search(SIMULATOR, max_examples=5)
        with mutant.alive(), options(landing=mutant.landing), pytest.raises((AssertionError, MemoryFault)):
            mutant.killed_by.search(SIMULATOR, max_examples=60, phases=[Phase.generate])


def test_a_mutant_must_be_applicable():
    with pytest.raises(LookupError, match="occurs 0 times"), replace(MUTANTS[0], old="no such line").alive():
        pass
