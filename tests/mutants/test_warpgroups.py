"""The same for kernels of warpgroups."""

from dataclasses import replace

import numpy as np
import pytest
from properties import test_agreement, test_memory, test_warpgroups
from properties.agreement import assert_attention, assert_same
from properties.test_memory import GuardedMemory

from numba_flash.config import WarpgroupGradientTiles, WarpgroupTiles, WgmmaTiles
from numba_flash.simulator import SIMULATED, Deadlock, DivergentBarrier, MemoryFault, options
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.case import Case
from numba_flash.testing.matmul import MatmulCase
from numba_flash.testing.tiles import warpgroup_tiles

from .mutant import Mutant

pytestmark = pytest.mark.skipif(not SIMULATED, reason="mutants live in the simulator")

FLASH3, WGMMA = "kernels.flash3_forward", "kernels.matmul_wgmma"
BACKWARD, GRADIENTS = "kernels.flash3_backward", "device.gradients"
BOXES, WARPGROUPS = "device.boxes", "device.warpgroups"
WORK = Case(B=1, Hq=3, Hk=1, Nq=130, Nk=90, d=72, dv=80, dtype="float16", causal=True, q_offset=-10)
POISONED = GuardedMemory(SIMULATOR.library)  # what is not written is NaN
MATRICES = MatmulCase((3, 136, 264), (264, 200), "float16", None, ("contiguous", "columns"))


def PRODUCT():  # noqa: N802
    """More tiles than blocks, panels, steps than stages."""
    with warpgroup_tiles(WarpgroupTiles(64, 16, 64, 64), WgmmaTiles(128, 192, 2, group=1)), POISONED.used():
        test_warpgroups.product.holds(SIMULATOR, MATRICES)


def FORWARD(case=WORK, queries=2):  # noqa: N802
    """More query blocks than blocks, key blocks than stages; two warpgroups that take turns."""
    backend = SIMULATOR.on_tensor_cores("flash3_forward", "flash3_backward")
    tiles = WarpgroupTiles(128, 32, 64, 64, queries=queries)
    with warpgroup_tiles(tiles, WgmmaTiles(64, 64, 2)), POISONED.used():
        test_agreement.test_forward.holds(backend, case)


def ONE_SLOT():  # noqa: N802
    """The same, where O leaves before the next Q comes."""
    FORWARD(queries=1)


def STEEP():  # noqa: N802
    """The same, where a row's maximum often moves a lot from block to block."""
    FORWARD(replace(WORK, scale=2.0))


def PACKED():  # noqa: N802
    """A tile holds all four query heads that share keys."""
    test_warpgroups.test_a_tile_holds_all_heads_of_a_group(
        SIMULATOR.on_tensor_cores("flash3_forward", "flash3_backward"), test_warpgroups.PACKED[0]
    )


HEADS = Case(B=1, Hq=2, Hk=1, Nq=100, Nk=90, d=72, dv=64, dtype="float16", causal=True, q_offset=-10, softcap=3.0)


def KEYS(case=HEADS, QG=1, direct=False):  # noqa: N802
    """More query blocks than stages, of two heads; two warpgroups own keys."""
    backend = SIMULATOR.on_tensor_cores("flash3_forward", "flash3_backward")
    gradients = WarpgroupGradientTiles(64, 64 if QG > 1 else 128, 128, 128, QG=QG, direct=direct)
    with warpgroup_tiles(WarpgroupTiles(64, 64, 128, 128), WgmmaTiles(64, 64, 2), gradients), POISONED.used():
        test_agreement.test_backward.holds(backend, case)


def ORDERS():  # noqa: N802
    """The same bits in any order of blocks, of which three add to dQ: a small difference of large sums."""
    backend = SIMULATOR.on_tensor_cores("flash3_forward", "flash3_backward")
    case = Case(B=1, Hq=1, Hk=1, Nq=200, Nk=170, d=8, dv=8, dtype="float16")
    x = case.arrays()
    x = x._replace(k=(x.k + 512).astype(x.k.dtype))
    gradients = WarpgroupGradientTiles(64, 64, 64, 64)
    with warpgroup_tiles(WarpgroupTiles(64, 64, 64, 64), WgmmaTiles(64, 64, 2), gradients), POISONED.used():
        first = test_memory.both(backend, x, case.options())
        with options(seed=1, blocks=3):
            assert_same(first, test_memory.both(backend, x, case.options()))


def SHARED():  # noqa: N802
    """The same, where two warpgroups share queries, and columns of dK and dV."""
    KEYS(QG=2)


def DIRECT():  # noqa: N802
    """Where dK takes dS from registers."""
    KEYS(direct=True)


def EMPTY():  # noqa: N802
    """A query block that meets no key, and keys that no query block meets, which may be NaN."""
    case = Case(B=1, Hq=1, Hk=1, Nq=130, Nk=40, d=16, dv=8, dtype="float16", window=(5, 5), q_offset=30)
    backend, x = SIMULATOR.on_tensor_cores("flash3_forward", "flash3_backward"), case.arrays()
    k, v = (y.copy() for y in (x.k, x.v))
    k[:, :, :16] = v[:, :, :16] = np.nan
    with warpgroup_tiles(WarpgroupTiles(64, 16, 64, 64), WgmmaTiles(64, 64, 2)), POISONED.used():
        assert_attention(backend.attention(x.q, k, v, **case.options()), case, x.q, x.k, x.v, **case.options())


MUTANTS = [
    Mutant("a stage is multiplied before it is full", WGMMA,
           "mbarrier_wait(smem + FULL + BARRIER_BYTES * stage, parity)", "pass", PRODUCT),
    Mutant("a stage is filled before it is free", WGMMA,
           "mbarrier_wait(smem + FREE + BARRIER_BYTES * stage, parity ^ 1)", "pass", PRODUCT, "early"),
    Mutant("a stale stage", WGMMA, "return n % STAGES, n // STAGES & 1", "return 0, n // STAGES & 1", PRODUCT),
    Mutant("a phase is waited for twice", WGMMA, "n % STAGES, n // STAGES & 1", "n % STAGES, n // STAGES & 0", PRODUCT),
    Mutant("products are not waited for", WGMMA, "                    wgmma_wait(0)\n", "", PRODUCT),
    Mutant("registers are not fenced", WGMMA, "                    wgmma_fence()\n", "", PRODUCT),
    Mutant("nobody frees a stage", WGMMA, "mbarrier_arrive(smem + FREE + BARRIER_BYTES * stage)", "pass", PRODUCT),
    Mutant("one warpgroup's arrival frees a stage", WGMMA, "init_mbarriers(smem + FREE, STAGES, CONSUMERS)",
           "init_mbarriers(smem + FREE, STAGES, 1)", PRODUCT),
    Mutant("half of a stage is expected", WGMMA, "mbarrier_expect(full, STAGE)", "mbarrier_expect(full, STAGE // 2)",
           PRODUCT),
    Mutant("maps are not released", WGMMA, "            release_maps()\n", "", PRODUCT),
    Mutant("a map is not acquired", WGMMA, "acquire_map(maps, B_MAP * MAP_WORDS)", "pass", PRODUCT),
    Mutant("barriers are not published", WGMMA, "            publish_mbarriers()\n", "", PRODUCT),
    Mutant("the last tiles are not waited for", WGMMA, """            if copies:
                wait_stores(0)""", "            pass", PRODUCT),
    Mutant("sums of the tile before", WGMMA, "                fill(acc, SUMS, ZERO)\n", "", PRODUCT),
    Mutant("every matrix is the first", WGMMA, "(b * each[0],)", "(0,)", PRODUCT),
    Mutant("too few registers are given back", WGMMA, "give_registers(FEW)", "give_registers(64)", PRODUCT),
    Mutant("panels are not swizzled", BOXES, "(left + first // 4 ^ r) * 4", "(left + first // 4) * 4", PRODUCT),
    Mutant("a panel is copied before it is written", BOXES, "barrier_sync(barrier, WARPGROUP)  # the panel is written",
           "pass", PRODUCT, "early"),
    Mutant("written panels are not fenced", BOXES, "            fence_shared()\n", "", PRODUCT),
    Mutant("a panel changes while it is copied", BOXES, """            if copies and panel == 0:
                wait_stores(0)
            elif copies:
                wait_stores(PENDING)
""", "", PRODUCT),
    Mutant("the first panel of the tile before may still be copied", BOXES, """panel == 0:
                wait_stores(0)""", """panel == 0:
                wait_stores(PENDING)""", PRODUCT),
    Mutant("depth goes along the other axis", WARPGROUPS, "return x * ROW_BYTES // UNIT", "return x * 2 // UNIT",
           FORWARD),
    Mutant("every step of the depth is the first", WARPGROUPS, "x % PANEL * 2) // UNIT", "0) // UNIT", PRODUCT),
    Mutant("panels follow at another distance", WARPGROUPS, "x // PANEL * panel_bytes", "x // PANEL * ROW_BYTES",
           FORWARD),
    Mutant("Q is not waited for", FLASH3, "mbarrier_wait(smem + Q_FULL + BARRIER_BYTES * slot, phase)", "pass",
           FORWARD),
    Mutant("Q changes while O leaves through it", FLASH3, """BARRIER_BYTES * slot
                    mbarrier_wait(smem + Q_FREE + BARRIER_BYTES * slot, phase ^ 1)""", "BARRIER_BYTES * slot", ONE_SLOT,
           "early"),
    Mutant("there is always more to do", FLASH3, "            tasks[slot, COUNT] = 0\n", "", FORWARD),
    Mutant("two blocks do what one has taken", FLASH3, "int32(cuda.gridDim.x + from_lane(ticket, 0))",
           "int32(work + from_lane(ticket, 0))", FORWARD),
    Mutant("the counter begins anywhere", "kernels.passes.clear", "[n] = 0", "[n] = 1", FORWARD),
    Mutant("a query block without keys has none of zeros", FLASH3, "            if count == 0:\n",
           "            if False:\n", EMPTY),
    Mutant("zeros from where there are keys", FLASH3, "beyond = cdiv(max(Nk, 1), Bc)", "beyond = 0", EMPTY),
    Mutant("Kj is not waited for", FLASH3, "mbarrier_wait(smem + K_FULL + BARRIER_BYTES * stage, parity)", "pass",
           FORWARD),
    Mutant("Vj is not waited for", FLASH3, "mbarrier_wait(smem + V_FULL + BARRIER_BYTES * stage, parity)", "pass",
           FORWARD),
    Mutant("Kj is filled before it is free", FLASH3,
           "mbarrier_wait(smem + K_FREE + BARRIER_BYTES * stage, parity ^ 1)", "pass", FORWARD, "early"),
    Mutant("Vj is filled before it is free", FLASH3,
           "mbarrier_wait(smem + V_FREE + BARRIER_BYTES * stage, parity ^ 1)", "pass", FORWARD, "early"),
    Mutant("Vj is freed before P V is done", FLASH3, """        await_number(l[0] + l[1])
        wgmma_wait(0)
        pin(acc, OUT)
        free(smem + V_FREE, n)""", """        free(smem + V_FREE, n)
        wgmma_wait(0)
        pin(acc, OUT)""", FORWARD, "crossed"),
    Mutant("S is not waited for", FLASH3, "        wgmma_wait(1)\n", "", FORWARD),
    Mutant("P changes while it is multiplied", FLASH3, """        await_number(l[0] + l[1])
        wgmma_wait(0)""", """        round_to(p, s)
        wgmma_wait(0)""", FORWARD),
    Mutant("O is not rescaled", FLASH3, "rescale(acc, alpha)  # line 13", "pass  # line 13", STEEP),
    Mutant("only the first lane's rows decide", FLASH3, "cuda.any_sync(ALL_LANES, alpha[0] != ONE or alpha[1] != ONE)",
           "cuda.shfl_sync(ALL_LANES, alpha[0] != ONE or alpha[1] != ONE, 0)", STEEP),
    Mutant("P is larger than float16 can hold", "device.softmax", "SLACK = np.float32(8)", "SLACK = np.float32(32)",
           STEEP),
    Mutant("the last P V is missing", FLASH3, """        start_sums(acc, p, await_values(smem, n))
        wgmma_wait(0)""", "        wgmma_wait(0)", FORWARD),
    Mutant("nobody has the first turn", FLASH3, "if PING_PONG and me == CONSUMERS - 1:", "if False:", FORWARD),
    Mutant("a turn is passed to oneself", FLASH3, "(me + 1) % CONSUMERS", "me", FORWARD),
    Mutant("packed heads write each other's LSE", "device.softmax", "LSEh[h * Nq + row]", "LSEh[row]", PACKED),
    Mutant("a query of a packed tile sees what the next one sees", "device.scores", "row_of(rg, r) // packed + last",
           "row_of(rg, r) + last", PACKED),
    Mutant("packed heads in the order of others", "rungs.flash3_forward", "(of_b, packed * of_h, of_n, of_h, of_d)",
           "(of_b, of_h, of_n, H // packed * of_h, of_d)", PACKED),
    Mutant("keys of another head", FLASH3, "(int32(quotient(h, group)), b)", "(h, b)", FORWARD),
    Mutant("no key is hidden", FLASH3,
           "            hide_here(s, rg, cg, int32(ahead + first), int32(ahead + last), int32(Nk - col0))",
           "            pass", FORWARD),
    Mutant("edges come last", "tiling", "end - 1 - n if n < right else begin + n - right", "begin + n", FORWARD),
    Mutant("rows of the other warpgroup", FLASH3, "smem + slot * SLOT_BYTES + mine * ROW_BYTES",
           "smem + slot * SLOT_BYTES", FORWARD),
    Mutant("blocks of keys of the tile before", FLASH3, "            n = attend(", "            attend(", FORWARD),
    Mutant("a key block does not wait for its keys", BACKWARD,
           "            mbarrier_wait(smem + K_FULL, 0)\n", "", KEYS),
    Mutant("Q of a block is not waited for", BACKWARD,
           "mbarrier_wait(smem + Q_FULL + BARRIER_BYTES * stage, parity)", "pass", KEYS),
    Mutant("dO is not waited for", BACKWARD,
           "mbarrier_wait(smem + O_FULL + BARRIER_BYTES * stage, parity)", "pass", KEYS),
    Mutant("Q and dO are filled before they are free", BACKWARD,
           "mbarrier_wait(smem + FREE + BARRIER_BYTES * stage, parity ^ 1)", "pass", KEYS, "early"),
    Mutant("nobody waits for a turn", BACKWARD,
           "await_turn(turns, place_of_turn(over, i, block, group, sizes), int32(j - before))", "pass", ORDERS),
    Mutant("a turn is waited for, but not by those who add", BACKWARD,
           "            mbarrier_wait(barrier + TURN_COMES, parity)\n", "", ORDERS),
    Mutant("a turn ends before all have added", BACKWARD,
           "            mbarrier_wait(barrier + TURN_ENDS, parity)\n", "", ORDERS),
    Mutant("turns come before those before have been met", BACKWARD,
           "            mbarrier_wait(barrier + TURN_FREE, parity ^ 1)\n", "", ORDERS),
    Mutant("Q is freed before dS^T Q is done", BACKWARD, """        wgmma_wait(0)
        pin(dk, DK)
        free(smem, n)

    @device
    def sum_direct""", """        free(smem, n)
        wgmma_wait(0)
        pin(dk, DK)

    @device
    def sum_direct""", KEYS, "crossed"),
    Mutant("Q is freed before dS^T Q from registers is done", BACKWARD, """        wgmma_wait(1)
        pin(dv_, DV_)
        pin(dk, DK)
        free(smem, n)
""", """        free(smem, n)
        wgmma_wait(1)
        pin(dv_, DV_)
        pin(dk, DK)
""", DIRECT, "crossed"),
    Mutant("dQ is added before it is there", BACKWARD, """        wgmma_wait(0)
        pin(dq, DQ)
        add_in_turn(smem, n, sums, dq)
""", """        add_in_turn(smem, n, sums, dq)
        wgmma_wait(0)
        pin(dq, DQ)
""", DIRECT),
    Mutant("S^T is not waited for", BACKWARD, """        wgmma_wait(1)
        pin(s, SCORES)
""", "", KEYS),
    Mutant("dP^T is not waited for", BACKWARD,
           "            wgmma_wait(1)\n        pin(dp, SCORES)", "        pin(dp, SCORES)",
           KEYS),
    Mutant("dS is multiplied before others have written it", BACKWARD,
           "barrier_sync(ALL, WARPGROUP * CONSUMERS)  # P and dS",
           "pass  # P and dS", KEYS, "early"),
    Mutant("dS is not fenced", BACKWARD, "        fence_shared()\n", "", KEYS),
    Mutant("dS of one block lies where that of the next one is written", BACKWARD,
           "mine, stage_of(n), S_AT + int32(n & 1) * S_BYTES", "mine, stage_of(n), S_AT", KEYS),
    Mutant("dK and dV leave through keys that are still read", BACKWARD,
           "barrier_sync(ALL, WARPGROUP * CONSUMERS)  # nobody", "pass  # nobody", KEYS),
    Mutant("dK leaves without the scale", BACKWARD, "            dk[x] *= scale\n", "            pass\n", KEYS),
    Mutant("P of hidden keys", BACKWARD, "hide(s, s, rg, cg, row0, col0, Nk, first, last)", "pass", KEYS),
    Mutant("dQ of the other warpgroup's columns", BACKWARD, "me // DQ_BLOCKS * DQ_COLUMNS", "0", KEYS),
    Mutant("a warpgroup collects the other's columns", "kernels.passes.collect", "group // BLOCKS * COLUMNS",
           "(1 - group) // BLOCKS * COLUMNS", KEYS),
    Mutant("LSE and delta of other boxed rows", GRADIENTS, "r // 2 % 2 * 4 + lane() % 4", "lane() % 4", KEYS),
    Mutant("boxed rows are not swizzled", GRADIENTS, "(chunk ^ row & 7) * 4", "chunk * 4", KEYS),
    Mutant("every query head is the first of its group", BACKWARD,
           "queries = int32(hk * group + over), b", "queries = int32(hk * group), b",
           KEYS),
    Mutant("the first head's sums for every head", BACKWARD, "(b * Hq + h) * Tr", "b * Hq * Tr", KEYS),
    Mutant("both warpgroups write the same queries of P", BACKWARD, "qg * (QUERIES // 8)", "0", SHARED),
    Mutant("P is not there when it is multiplied", BACKWARD,
           "        write_scores(words, P_AT + buffer, mine, s)\n", "",
           SHARED),
    Mutant("the same columns of dK in both warpgroups", BACKWARD, "qg * (DK_COLUMNS // PANEL) * Q_PANEL", "0", SHARED),
    Mutant("the same queries of S in both warpgroups", BACKWARD, "qg * QUERIES * ROW_BYTES", "0", SHARED),
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_property_fails(mutant):
    wrong = pytest.raises((AssertionError, MemoryFault, DivergentBarrier, Deadlock))
    with mutant.alive(), options(landing=mutant.landing), wrong:
        mutant.killed_by()


@pytest.mark.parametrize("landing", ["late", "early", "crossed"])
@pytest.mark.parametrize("module", [FLASH3, BACKWARD, WGMMA, BOXES, WARPGROUPS])
def test_the_original_does_not(module, landing):
    """Made anew in the same way, but unchanged."""
    first = next(mutant for mutant in MUTANTS if mutant.module == module)
    with replace(first, new=first.old).alive(), options(landing=landing):
        first.killed_by()
