"""The same for flash2_mma_backward and its passes."""

from dataclasses import replace

import pytest
from hypothesis import Phase
from hypothesis.strategies import just, sampled_from
from properties import test_agreement, test_gradients, test_memory, test_tensor_cores
from properties.agreement import assert_same
from properties.for_all import for_all, simulated

from numba_flash.config import GradientTiles, Tiles
from numba_flash.simulator import SIMULATED, Deadlock, DivergentBarrier, MemoryFault, options
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.case import Case
from numba_flash.testing.tiles import fragment_tiles, tiny_tiles

from .mutant import Mutant

pytestmark = pytest.mark.skipif(not SIMULATED, reason="mutants live in the simulator")

KEYS = test_tensor_cores.copied_gradients
BACKWARD, GRADIENTS, FRAGMENTS = "kernels.flash2_mma_backward", "device.gradients", "device.fragments"
ROWS, COLLECT, TURNS = "kernels.passes.rows", "kernels.passes.collect", "device.turns"
GROUPED = Case(B=1, Hq=4, Hk=2, Nq=5, Nk=7, d=8, dv=8, dtype="float16")
ARRIVED = "cuda.syncthreads()  # Q, dO at `top` are written; the others, P and dS are read before they change"


@for_all(cases=lambda backend: just(GROUPED))
def GROUPS(backend, case):  # noqa: N802
    """Two heads of keys and values, each read by two of queries."""
    test_agreement.test_backward.holds(backend, case)


@for_all(cases=lambda backend: sampled_from(test_tensor_cores.IN_ORDER))
def IN_ORDER(backend, case):  # noqa: N802
    """Key blocks add to dQ one after another."""
    test_memory.test_outputs_are_written_once_and_nothing_else.holds(backend, case)
    test_agreement.test_deterministic_backward.holds(backend, case)


@for_all(cases=lambda backend: just(test_tensor_cores.IN_ORDER[0]))
def ORDERS(backend, case):  # noqa: N802
    """The same bits in any order of blocks; keys far from zero, so that dQ is a small difference of large sums."""
    x, options = case.arrays(), case.options()
    x = x._replace(k=(x.k + 512).astype(x.k.dtype))
    first = test_memory.both(backend, x, options)
    for seed in (1, 2):
        with simulated(seed=seed, blocks=3):
            assert_same(first, test_memory.both(backend, x, options))


MUTANTS = [
    Mutant("dK without the scale", BACKWARD, "dk[n] *= scale", "pass", KEYS),
    Mutant("delta is dropped", GRADIENTS, "p * (dp - delta)", "p * dp", KEYS),
    Mutant("softcap has no derivative", GRADIENTS, "ds *= derivative", "pass", KEYS),
    Mutant("P and dS of hidden keys", BACKWARD, "hide(s, dp, rg, cg, i * Br + query, j * Bc, Nk, first, last)", "pass",
           KEYS),
    Mutant("dS of hidden keys", GRADIENTS, "ds[at(r, c)] = ZERO", "pass", IN_ORDER),
    Mutant("the key behind the diagonal", GRADIENTS, "last + 1 + row - col", "last + 2 + row - col", KEYS),
    Mutant("LSE and delta of other rows", GRADIENTS, "2 * (top + 4 * r)", "2 * (top + 2 * r)", KEYS),
    Mutant("dQ is overwritten instead of added", FRAGMENTS,
           "add4(X, place(first + n), (acc[n], acc[n + 1], acc[n + 2], acc[n + 3]))",
           "[X.__setitem__(place(first + n) + k, acc[n + k]) for k in range(4)]", KEYS),
    Mutant("dQ is added without being zeros before", ROWS, "store4(dq, x, (ZERO, ZERO, ZERO, ZERO))", "pass",
           test_memory.test_outputs_are_written_once_and_nothing_else),
    Mutant("dS K of the last query block is added again", BACKWARD, "fill(dq, DQ, ZERO)\n                    m", "m",
           KEYS),
    Mutant("query heads of other KV heads", BACKWARD, "range(int32(hk * group), int32((hk + 1) * group))",
           "range(int32(hk), int32(Hq), int32(Hk))", GROUPS),
    Mutant("one query head of every group", BACKWARD, "int32((hk + 1) * group)", "int32(hk * group + 1)", KEYS),
    Mutant("nobody waits for Q and dO", BACKWARD, f"wait(0)\n                {ARRIVED}", ARRIVED, KEYS),
    Mutant("Q and dO are read before all of them has landed", BACKWARD, ARRIVED, "pass", KEYS),
    Mutant("the next Q and dO are not fetched", BACKWARD, "if STAGES > 1 and i > begin:", "if STAGES > 2:", KEYS),
    Mutant("the next Q and dO land where they are read", BACKWARD, "fetch(Qs, dOs, rows_s, following,",
           "fetch(Qs, dOs, rows_s, top,", KEYS, "early"),
    Mutant("a stale stage", BACKWARD, "top = following", "pass", KEYS),
    Mutant("LSE and delta of half of the rows", BACKWARD, "if x < Br:", "if x < Br // 2:", KEYS),
    Mutant("P and dS are read before they are written", BACKWARD,
           "cuda.syncthreads()  # P and dS are written before other warps read them", "pass", KEYS),
    Mutant("dO of other queries than P", BACKWARD, "own_ptdo(dv_, p, dOs, top + query,", "own_ptdo(dv_, p, dOs, top,",
           KEYS),
    Mutant("the same queries twice", BACKWARD, "(qg + step) % QG * WN", "query", KEYS),
    Mutant("dS takes the place of P", BACKWARD, "store_words(dS_words, ds", "store_words(P_words, ds", KEYS),
    Mutant("the same columns of dV in all warps", BACKWARD, "j * Bc + key, qg * DV_COLUMNS, Nk, dv)",
           "j * Bc + key, 0, Nk, dv)", KEYS),
    Mutant("quarters of P and dS change places", FRAGMENTS, "16 * m + n % 2 * 8, n // 2 * 8",
           "16 * m + n // 2 % 2 * 8, n // 4 * 16 + n % 2 * 8", KEYS),
    Mutant("dS is not transposed", FRAGMENTS, "ldmatrix_x4_trans(a, m,", "ldmatrix_x4(a, m,", KEYS),
    Mutant("quarters of dS in the other order", FRAGMENTS, """r, c = right_then_down(lane())
        for m""", """r, c = down_then_right(lane())
        for m""", KEYS),
    Mutant("dQ without the scale", COLLECT, "dq[n] *= scale", "pass", KEYS),
    Mutant("sums of other columns", COLLECT, "warp % CG * COLUMNS", "(CG - 1 - warp % CG) * COLUMNS", KEYS),
    Mutant("P of blind rows", ROWS, " and lses[t] != NEG_INF", "", KEYS),
    Mutant("LSE in nats", ROWS, "[i * LSE_strides[2]] * LOG2_E", "[i * LSE_strides[2]]", KEYS),
    Mutant("delta without dLSE", ROWS, "totals[t] -= global_view(dLSE", "0 * global_view(dLSE",
           test_gradients.test_rows_of_ds_sum_to_dlse),
    Mutant("delta leaves elements out", ROWS, "x4[2] * y4[2] + x4[3] * y4[3]", "x4[2] * y4[2]", KEYS),

    Mutant("nobody waits for a turn", TURNS, "await_turn(turns, turn, before)", "pass", ORDERS),
    Mutant("a turn ends before it has begun", BACKWARD, "take_turns(turns, owed,", "take_turns(turns, turn,", ORDERS),
    Mutant("the last turn never ends", BACKWARD, "end_last_turn(turns, owed, warp)", "pass", ORDERS),
    Mutant("blocks are numbered as they are launched", TURNS, "fetch_add(global_view(turns, 0, int32), STARTED, 1)",
           "cuda.blockIdx.x", ORDERS),
    Mutant("turns are counted from anywhere", "kernels.passes.clear", "[n] = 0", "[n] = 1", ORDERS),
]  # fmt: skip

TILES = GradientTiles(32, 16, 32, 32, 1, 2)
ONE_STAGE = Mutant(
    "Q and dO land while they are read",
    BACKWARD,
    "cuda.syncthreads()  # everyone has read Q, dO, LSE and delta before they change",
    "pass",
    KEYS,
    "early",
)


def search(holds, tiles=TILES, **how):
    """As `test_tensor_cores`, in blocks of two warps."""
    with fragment_tiles(Tiles(32, 16, 32, 32, 2, 4), tiles):
        backend = SIMULATOR.on_tensor_cores(test_tensor_cores.FORWARD, test_tensor_cores.BACKWARD)
        holds.search(backend, **how)


def assert_killed(mutant, tiles=TILES):
    """Some case shows it."""
    wrong = pytest.raises((AssertionError, MemoryFault, DivergentBarrier, Deadlock))
    with mutant.alive(), tiny_tiles(), options(landing=mutant.landing), wrong:
        search(mutant.killed_by, tiles, max_examples=60, phases=[Phase.generate])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_property_fails(mutant):
    assert_killed(mutant)


def test_a_property_fails_with_one_tile_of_queries():
    assert_killed(ONE_STAGE, replace(TILES, stages=1))


@pytest.mark.parametrize("landing", ["late", "early"])
@pytest.mark.parametrize("module", [BACKWARD, FRAGMENTS])  # all kernels are made anew, and of the others this one
def test_the_original_does_not(module, landing):
    """Made anew in the same way, but unchanged."""
    first = next(mutant for mutant in MUTANTS if mutant.module == module)
    with replace(first, new=first.old).alive(), tiny_tiles(), options(landing=landing):
        search(test_agreement.test_backward, max_examples=2)
        search(IN_ORDER, max_examples=1)
        search(ORDERS, max_examples=1)
        search(KEYS, replace(TILES, stages=1), max_examples=1)
